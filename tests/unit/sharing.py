"""Real processes that share a folder, for tests of what is seen of them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import sys, threading
import wsgipool

folder, threads = sys.argv[1], int(sys.argv[2])
shop = {"url": f"sqlite:///{folder}/shop.db", "max_size": 2, "timeout": 600}
wsgipool.configure({"runtime_dir": f"{folder}/run", "databases": {"shop": shop}})
go_on = threading.Event()
locks = wsgipool.Locks()

def report(environ, start_response):
    with wsgipool.connection("shop"):
        go_on.wait()
    return []

for _ in range(threads):
    environ = {"SCRIPT_NAME": "", "PATH_INFO": "/report", "QUERY_STRING": "password=s3cret"}
    threading.Thread(target=wsgipool.Middleware(report), args=(environ, None)).start()
if not threads:
    go_on.set()
    locks.requires("stock", read="catalogue")(report)({}, None)
print("started", flush=True)
sys.stdin.read()
go_on.set()
"""


@contextlib.contextmanager
def process_with_holders(folder: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process in which threads hold the connections of the database "shop", of 2, or wait for one.

    Without threads it takes its locks once, and keeps an idle connection. The folder for all is FOLDER/run.
    """
    python = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert python.stdout is not None
    with python:
        try:
            assert python.stdout.readline() == "started\n"
            yield python
        finally:
            assert python.stdin is not None
            python.stdin.close()

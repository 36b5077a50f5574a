"""What suites have in common: sources from PyPI, a run of pytest, and servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from compat.suite import BrokenRun, Outcome, Result, Results
from servers.postgresql import PostgreSQL
from wsgipool.demo.mariadb import MariaDB

TESTS = Path(__file__).parents[1]
"""Our folder tests/, from which a suite's process imports `compat`."""
FETCHED = Path(sys.prefix, "suites")
"""The sources of the suites; they go with the environment."""


def fetched(name: str, fetch: Callable[[Path], object]) -> Path:
    """Return the folder of that name in FETCHED, which `fetch` creates if it is missing."""
    folder = FETCHED / name
    if not folder.exists():
        FETCHED.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=FETCHED) as scratch:
            made = Path(scratch, name)
            fetch(made)
            made.rename(folder)
    return folder


def sdist(name: str, version: str) -> Path:
    """Return the folder with the unpacked source of a distribution, from PyPI."""

    def fetch(made: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name]
        subprocess.run([*pip, "-d", str(made.parent), f"{name}=={version}"], check=True)
        (archive,) = made.parent.glob("*.tar.gz")
        shutil.unpack_archive(archive, made.parent / "unpacked")
        (source,) = (made.parent / "unpacked").iterdir()
        source.rename(made)

    return fetched(f"{name}-{version}", fetch)


def run_program(command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Run a suite in `folder` with our tests/ on its path. Raises BrokenRun unless it exits with 0 or 1."""
    path = os.pathsep.join([environment.get("PYTHONPATH", ""), str(TESTS)]).strip(os.pathsep)
    with log.open("wb") as output:
        code = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code not in {0, 1}:
        raise BrokenRun(f"{' '.join(command)}\nended with {code}:\n{log.read_text(errors='replace')[-6000:]}")


def run_pytest(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, scratch: Path) -> Results:
    """Run pytest in `folder` without our settings; a test's id is `class name::test name` as in JUnit's XML."""
    report = scratch / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    run_program(command, environment, folder, scratch / "log")
    results: dict[str, Result] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  our own pytest wrote it
        test = f"{case.get('classname')}::{case.get('name')}"
        parts = {part.tag: f"{part.get('message') or ''}\n{part.text or ''}" for part in case}
        if "failure" in parts or "error" in parts:
            result = Result(Outcome.FAILED, parts.get("failure") or parts.get("error") or "")
        else:
            result = Result(Outcome.SKIPPED if "skipped" in parts else Outcome.PASSED, parts.get("skipped", ""))
        results[test] = max(result, results.get(test, result))
    if not results:
        raise BrokenRun(f"no tests ran: {' '.join(command)}")
    return results


@contextmanager
def mariadb(scratch: Path, settings: Mapping[str, str | int] | None = None) -> Iterator[MariaDB]:
    """A new MariaDB that is fast rather than durable, with an account `compat` that may do everything."""
    fast: dict[str, str | int] = {
        "innodb_fast_shutdown": 2,
        "innodb_flush_log_at_trx_commit": 0,
        # Frameworks create tables by the hundred.
        "innodb_file_per_table": 0,
        "innodb_stats_persistent": 0,
    }
    folder = _server_folder(scratch)
    with MariaDB(folder, fast | dict(settings or {})) as server:
        server.start()
        with server.admin() as admin, admin.cursor() as cursor:
            cursor.execute("CREATE USER compat IDENTIFIED BY %s", (server.password,))
            cursor.execute("GRANT ALL ON *.* TO compat WITH GRANT OPTION")
        yield server


@contextmanager
def postgresql(scratch: Path, settings: Mapping[str, str | int] | None = None) -> Iterator[PostgreSQL]:
    """A new PostgreSQL that is fast rather than durable, with a superuser `compat`."""
    fast: dict[str, str | int] = {"synchronous_commit": "off", "full_page_writes": "off"}
    folder = _server_folder(scratch)
    with PostgreSQL(folder, fast | dict(settings or {})) as server:
        server.start()
        with server.admin() as admin:
            admin.execute(f"CREATE ROLE compat SUPERUSER LOGIN PASSWORD '{server.password}'")
        yield server


def _server_folder(scratch: Path) -> Path:
    scratch.chmod(0o755)  # the server runs as another user
    folder = scratch / "server"
    folder.mkdir()
    return folder

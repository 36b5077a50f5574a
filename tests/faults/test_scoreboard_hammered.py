"""256 processes that publish and are killed at any moment, while others read and add up: no number runs backwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import mmap, os, random, signal, sys, time
from pathlib import Path
from wsgipool import records
from wsgipool.scoreboard import combining
from wsgipool.scoreboard.model import PoolReport, ProcessReport, Totals
from wsgipool.shared.published import Publication

folder, processes, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
written = memoryview(mmap.mmap(-1, 8 * 4096)).cast("Q")  # what each process has written at least
started = 0


def document(count):
    pool = PoolReport("shop", "here", 0, 1, 1, 0, 0, 0, 1, 0, Totals(checkouts=count), [], [], "", None)
    report = ProcessReport(os.getpid(), 0.0, 0.0, "prefork", "", "", 0, 1, 1, False, "", [pool], [], [])
    return {"process": records.plain(report), "locks": {"locks": [], "takes": []}}


def publish():
    publication = Publication(folder)
    for count in range(1, 1000):
        publication.write(document(count))
        written[started] = count
        time.sleep(random.random())


def add_up():
    while True:
        combining.add_up(folder)
        time.sleep(0.02)


def start(function):
    global started
    started += 1
    child = os.fork()
    if not child:
        try:
            function()
        finally:
            os._exit(1)
    return child


def checkouts():
    return sum(database.totals.checkouts for database in combining.report(folder)[0].databases())


adding = [start(add_up) for _ in range(2)]
publishing = [start(publish) for _ in range(processes)]
try:
    seen = 0
    for _ in range(rounds):
        for victim in random.sample(range(processes), 10):
            os.kill(publishing[victim], signal.SIGKILL)
            os.waitpid(publishing[victim], 0)
            publishing[victim] = start(publish)
        victim = random.randrange(2)
        os.kill(adding[victim], signal.SIGKILL)
        os.waitpid(adding[victim], 0)
        adding[victim] = start(add_up)
        now = checkouts()
        assert now >= seen, (now, seen)
        seen = now
finally:
    for child in adding + publishing:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
combining.add_up(folder)
total = checkouts()
# A process that was killed right after it had written counts one more.
assert sum(written) <= total <= sum(written) + started, (total, sum(written))
print(combining.report(folder)[0].ended_processes, len(list(folder.glob("process-*.json"))))
"""


def test_256_processes_that_are_killed_lose_no_number_and_none_runs_backwards(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "run"), "256", "12"]

    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False, timeout=300
    )

    assert run.returncode == 0, run.stderr
    ended, left = map(int, run.stdout.split())
    assert ended >= 256 + 10 * 11
    assert left == 0

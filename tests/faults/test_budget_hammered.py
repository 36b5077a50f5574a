"""Two programs with more threads than their budget has connections, and a server that counts connections.

The programs are killed, fork and resize their pools for a quarter of a minute, with --stress for an hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from faults.harness import SOON
from httpd.harness import eventually
from httpd.loads import ServerMonitor, full_mariadb
from httpd.place import ThisMachine
from wsgipool import config, drivers
from wsgipool.budget.budget import Budget, BudgetLimit
from wsgipool.budget.permits import Permit

BUDGET = 4
IN_A_ROUND = 250
"""Number of requests of both programs together in a round. After each round one program is killed."""


class Hammer:
    """A process with the program tests/faults/hammer.py."""

    def __init__(self, settings: Path) -> None:
        self.served = 0
        self.troubles: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("hammer.py"), settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("served "):
                self.served = int(line.split()[1])
            elif line.endswith("\n"):  # not killed in the middle of the line
                self.troubles.append(line)

    def kill(self) -> None:
        self._process.kill()
        self.stop()

    def stop(self) -> int:
        """End the program normally, and return its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        exit_status = self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return exit_status


def test_two_overloaded_programs_keep_one_budget(tmp_path: Path, servers_folder: Path, effort: int) -> None:
    seconds = 15 if effort == 1 else 3600
    folder = servers_folder / "hammered"
    folder.mkdir(mode=0o755)
    troubles: list[str] = []
    served: Counter[int] = Counter()
    hammers: list[Hammer] = []

    def kill_all() -> None:
        for hammer in hammers:
            hammer.kill()

    with full_mariadb(ThisMachine(folder), BUDGET) as mariadb, ExitStack() as close:
        close.callback(kill_all)
        url = mariadb.create_database("shop")
        settings = tmp_path / "wsgipool.toml"
        settings.write_text(
            f"runtime_dir = {json.dumps(str(tmp_path / 'run'))}\n[budget]\nconnections = {BUDGET}\n"
            + "".join(f"[databases.{name}]\nurl = {json.dumps(url)}\n" for name in ("shop", "archive"))
        )

        def begin(place: int) -> None:
            hammer = Hammer(settings)
            hammers.insert(place, hammer)
            eventually(lambda: hammer.served > 0, "a new program's turn")

        with ServerMonitor(mariadb) as monitor:
            began, rounds = time.monotonic(), 0
            begin(0)
            begin(1)
            while time.monotonic() - began < seconds:
                turns = wait_for_turns(hammers)
                for place in range(2):
                    served[place] += turns[place]
                rounds += 1
                victim = hammers.pop(rounds % 2)
                victim.kill()
                troubles += victim.troubles
                begin(rounds % 2)
            for hammer in hammers:
                assert hammer.stop() == 0
                troubles += hammer.troubles

        print(f"{rounds} rounds, served {dict(served)}, {monitor.maximum_ever} connections")
        assert not troubles, troubles[0]
        assert monitor.maximum <= monitor.maximum_ever == BUDGET
        assert max(served.values()) <= 1.5 * min(served.values())

    assert_no_permit_has_leaked(tmp_path / "run", url)


def wait_for_turns(hammers: list[Hammer]) -> list[int]:
    """Return how many of the next `IN_A_ROUND` requests each program has served."""
    before = [hammer.served for hammer in hammers]

    def turns() -> list[int]:
        return [hammer.served - then for hammer, then in zip(hammers, before, strict=True)]

    eventually(lambda: sum(turns()) >= IN_A_ROUND, "turns")
    return turns()


def assert_no_permit_has_leaked(folder: Path, url: str) -> None:
    server = drivers.server_of(config.parse_url(url))
    assert server is not None
    budget = Budget(folder, server, BudgetLimit(BUDGET))
    permits: list[Permit] = []

    def has_all() -> bool:
        permit = budget.take(1)
        if permit is not None:
            permits.append(permit)
        return len(permits) == BUDGET

    eventually(has_all, "all permits to be free", SOON)

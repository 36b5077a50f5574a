"""What the buttons of the demo's page do to the running site, and what to look at meanwhile.

An action runs in the process of `wsgipool demo`, which owns httpd and the database server. It returns a few sentences:
what the pool did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wsgipool.demo.mariadb import MariaDB
from wsgipool.demo.visitors import Request, Visit, Visitors
from wsgipool.httpd.express import Httpd
from wsgipool.wording import counted, rounded

_SLOW_SECONDS = 3
_BURST_SECONDS = 0.1
_BURST = 20
"""Requests of each visitor in a burst."""
_MAX_VISITORS = 100
_DOWN_SECONDS = 2
_INTERVAL = 0.1
_PATIENCE = 20.0
"""Seconds that an action waits for old processes to end, or for the site to come back."""
_NEW_PROCESS = 5.0
"""Seconds that it waits for new processes, which httpd starts as visitors need them."""


@dataclass(frozen=True)
class Action:
    """A button of the page."""

    name: str
    title: str
    what: str
    """What happens, in one sentence."""
    look: str
    """What to look at."""
    run: Callable[[], str]
    """Makes it happen, and returns what the pool did."""
    needs_server: bool = False
    """Whether SQLite cannot show it: there is no server to restart, and a transaction locks the whole file."""


class RunningDemo:
    """The site while it runs, and what can be done to it."""

    def __init__(self, httpd: Httpd, server: MariaDB | None, stopped: threading.Event) -> None:
        self._httpd = httpd
        self._server = server
        self._stopped = stopped
        self._visitors = Visitors(httpd.site.host, httpd.site.port)
        self._crowd = crowd(httpd.site.processes * httpd.site.threads)

    def actions(self) -> list[Action]:
        """Return the actions that this site can show."""
        at_once = counted(self._crowd, "visitor")
        actions = [
            Action(
                "slow",
                "Slow queries",
                f"A report that holds its connection for {_SLOW_SECONDS} s, for {at_once} at once.",
                "All connections get busy. The other visitors queue and are served in the order of their arrival.",
                self._slow,
            ),
            Action(
                "burst",
                "A burst",
                f"{self._crowd * _BURST} short requests from {at_once}, as fast as they are answered.",
                "The checkouts a second rise, and a few connections serve all requests.",
                self._burst,
            ),
            Action(
                "leak",
                "A leak",
                "One handler checks a connection out and never returns it.",
                "After 2 s its request ends. The pool takes the connection back, and the log names the line.",
                self._leak,
            ),
            Action(
                "nested",
                "A deadlock in the pool",
                f"A request that holds a connection and asks for a second one, from {at_once} at once.",
                "All connections are held, and all holders wait. Some get PoolDeadlock, so that the others can go on.",
                self._nested,
            ),
            Action(
                "crossed",
                "A deadlock in the database",
                "Two transactions lock the same two books in opposite order.",
                "The database rolls one back, and transaction(retry=5) runs it again.",
                self._crossed,
                needs_server=True,
            ),
            Action(
                "kill",
                "Kill a process",
                "While visitors hold connections, the process with the most of them gets SIGKILL.",
                "httpd starts another process. The lost connections count until the database has ended their sessions.",
                self._kill,
            ),
            Action(
                "graceful",
                "A graceful restart",
                "httpd replaces all its processes while visitors come and go.",
                "Old and new processes share the budget. The old ones end when their last request is done.",
                self._graceful,
            ),
            Action(
                "database",
                "Restart the database",
                "MariaDB is shut down and started again while visitors come and go.",
                "All connections break. Requests are answered 503 at once, and the pools are back within a second.",
                self._restart_database,
                needs_server=True,
            ),
        ]
        return [action for action in actions if self._server is not None or not action.needs_server]

    def _slow(self) -> str:
        visits = self._visitors.come([_slow(_SLOW_SECONDS)] * self._crowd, self._crowd)
        slowest = max(visit.seconds for visit in visits)
        return (
            f"{_outcome(visits)}. The last answer came after {slowest:.1f} s, of which {_SLOW_SECONDS} s was its own."
        )

    def _burst(self) -> str:
        before, started = self._totals(), time.monotonic()
        visits = self._visitors.come([_slow(_BURST_SECONDS)] * (self._crowd * _BURST), self._crowd)
        seconds = time.monotonic() - started
        self._wait_for(lambda: self._totals()["checkouts"] >= before["checkouts"] + len(visits))
        after = self._totals()
        opened, waits = after["opened"] - before["opened"], after["waits"] - before["waits"]
        reason = ", since the budget makes connections move from process to process" if opened > self._crowd else ""
        return (
            f"{_outcome(visits)} in {seconds:.1f} s. For that the pools opened {counted(opened, 'new connection')}"
            f"{reason}, and {counted(waits, 'request')} had to wait for a turn."
        )

    def _leak(self) -> str:
        before = self._totals()["leaked"]
        visit = self._visitors.visit(_mistake("leak"))
        self._wait_for(lambda: self._totals()["leaked"] > before)
        taken_back = self._totals()["leaked"] - before
        return f"{_outcome([visit])}. At its end the pool took {counted(taken_back, 'connection')} back and closed it."

    def _nested(self) -> str:
        visits = self._visitors.come([_mistake("nested")] * self._crowd, self._crowd)
        refused, served = (sum(visit.status == status for visit in visits) for status in (500, 200))
        return (
            f"{_outcome(visits)}. {refused} got PoolDeadlock at once, and {served} got their second connection. "
            "None had to wait for its timeout."
        )

    def _crossed(self) -> str:
        visits = self._visitors.come([_mistake("first-then-second"), _mistake("second-then-first")], 2)
        attempts = max(int(visit.answer.get("attempts", 0)) for visit in visits)
        if attempts < 2:
            return f"{_outcome(visits)}. The two transactions did not meet this time."
        return f"{_outcome(visits)}. One transaction committed at attempt 1, the other at attempt {attempts}."

    def _kill(self) -> str:
        with self._visitors.coming(_slow(_SLOW_SECONDS), self._crowd) as visits:
            self._wait_for(lambda: any(self._connections_in_use().values()))
            self._stopped.wait(1)
            in_use = self._connections_in_use()
            if not in_use:
                return "No process of the site has answered."
            victim = max(in_use, key=lambda pid: in_use[pid])
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            killed_at = time.monotonic()
            is_replaced = self._wait_for(lambda: bool(self._connections_in_use().keys() - in_use), _NEW_PROCESS)
            seconds = time.monotonic() - killed_at
        another = f"had another one ready after {seconds:.1f} s" if is_replaced else "starts another one when needed"
        return (
            f"Process {victim} died with {counted(in_use[victim], 'connection')} in use, and httpd {another}. "
            f"{_outcome(visits)}. Only visitors of the dead process get no answer."
        )

    def _graceful(self) -> str:
        old = self._connections_in_use().keys()
        with self._visitors.coming(_slow(_BURST_SECONDS), self._crowd) as visits:
            self._httpd.graceful_restart()
            are_replaced = self._wait_for(lambda: bool(now := self._connections_in_use().keys()) and not now & old)
            self._wait_for(lambda: len(self._connections_in_use().keys() - old) >= len(old), _NEW_PROCESS)
        if not are_replaced:
            return f"{_outcome(visits)}. Some of the old processes have not ended yet."
        return f"{_outcome(visits)}. All old processes ({len(old)}) have ended and closed their connections."

    def _restart_database(self) -> str:
        assert self._server is not None
        with self._visitors.coming(Request("/orders"), self._crowd) as visits:
            self._stopped.wait(1)
            down_at = time.monotonic()
            self._server.stop()
            self._stopped.wait(_DOWN_SECONDS)
            self._server.start()
            up_at = time.monotonic()
            self._wait_for(lambda: self._visitors.visit(Request("/orders")).status == 200)
            back_at = time.monotonic()
        longest = max(visit.seconds for visit in visits)
        return (
            f"The database was away for {up_at - down_at:.1f} s, and the first page came {back_at - up_at:.1f} s after "
            f"it was back. {_outcome(visits)}. No visitor waited for more than {rounded(longest)} s."
        )

    def _numbers(self) -> dict[str, Any]:
        """Return the numbers of the page: the site's processes read the shared folder, and root stays out of it."""
        visit = self._visitors.visit(Request("/pool"))
        return visit.answer if visit.status == 200 else {"totals": {}, "processes": []}

    def _totals(self) -> Counter[str]:
        return Counter(self._numbers()["totals"])

    def _connections_in_use(self) -> dict[int, int]:
        """Return the number of connections in use of each process of the site. All are children of this httpd."""
        children = self._httpd.children()
        processes = self._numbers()["processes"]
        return {each["pid"]: each.get("in_use", 0) for each in processes if each["pid"] in children}

    def _wait_for(self, condition: Callable[[], bool], seconds: float = _PATIENCE) -> bool:
        """Wait until a condition is true; return False after some seconds, or when the demo is stopped."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self._stopped.wait(_INTERVAL):
                return False
        return True


def crowd(threads: int) -> int:
    """Return how many visitors come at once: so few that threads are left for the page that shows them."""
    return min(_MAX_VISITORS, max(1, threads - max(2, threads // 4)))


def _slow(seconds: float) -> Request:
    return Request(f"/slow?seconds={seconds}")


def _mistake(name: str) -> Request:
    return Request(f"/pool/mistakes/{name}", "POST")


def _outcome(visits: Sequence[Visit]) -> str:
    """Return what became of requests: "12 requests: 10 answered, 2 answered 503"."""
    numbers = {status: sum(visit.status == status for visit in visits) for status in {visit.status for visit in visits}}
    parts = [f"{numbers.pop(200)} answered"] if 200 in numbers else []
    lost = numbers.pop(0, 0)
    parts += [f"{number} answered {status}" for status, number in sorted(numbers.items())]
    parts += [f"{lost} without an answer"] if lost else []
    return f"{counted(len(visits), 'request')}: {', '.join(parts)}"

"""The page that shows the pool at work, and the requests that use it wrongly on purpose.

The page shows all processes of the host. Its numbers need no connection, so they come while all connections are in use.

The site's processes may not kill, restart or signal anything. So a button asks `wsgipool demo`, which owns httpd and
the database server (`wsgipool.demo.action_files`). On another httpd than the demo's there are no buttons.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import wsgipool
from wsgipool import pools
from wsgipool.demo import action_files
from wsgipool.demo.bookshop import LOG, Answer, Queries, Refusal, Row, error_page
from wsgipool.demo.schema import execute
from wsgipool.httpd import process
from wsgipool.scoreboard import reading
from wsgipool.scoreboard.model import Activity, DatabaseReport, PoolReport, ProcessReport

Header = Callable[[str], str | None]
"""Returns the value of a header of the request."""

LEAK_SECONDS = 2.0
NESTED_SECONDS = 1.0
CROSSED_SECONDS = 0.5
"""How long these requests work between two steps, so that others come between and a person sees it."""
RETRY = 5


class PoolPage:
    """The page, its numbers, its buttons, and the handlers with mistakes."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._files = action_files.of_this_process()
        self._mistakes: Mapping[str, Callable[[], Answer]] = {
            "leak": self._leak,
            "nested": self._nested,
            "first-then-second": partial(self._crossed, 1, 2),
            "second-then-first": partial(self._crossed, 2, 1),
        }

    def show(self) -> Answer:
        """Answer with the page; as JSON, with the numbers of this moment."""
        state = self._state()
        payload = {**pool_numbers(), "running": state["running"], "events": state["events"]}
        # A new HTTP connection for each answer: one that is kept open belongs to one process, and may wait for it.
        return Answer("pool.html", payload, page={"actions": state["actions"]}, headers={"Connection": "close"})

    def request_action(self, name: str, header: Header) -> Answer:
        """Ask `wsgipool demo` for an action. Raises Refusal."""
        state = self._state()
        refuse_foreign(header, state["host"])
        titles = {action["name"]: action["title"] for action in state["actions"]}
        if self._files is None or name not in titles:
            raise Refusal(404, "There is no such button here.")
        if state["running"]:
            raise Refusal(409, f"“{titles[state['running']]}” is not over yet; please wait a moment.")
        self._files.ask_for(name)
        return Answer("done.html", {"requested": name}, 202)

    def make_mistake(self, name: str, header: Header) -> Answer:
        """Run a handler that uses the pool wrongly. Raises Refusal."""
        state = self._state()
        refuse_foreign(header, state["host"])
        if self._files is None or name not in self._mistakes:
            raise Refusal(404, "There is no such handler here.")
        return self._mistakes[name]()

    def _leak(self) -> Answer:
        """Check a connection out and forget to return it."""
        conn = self._queries.pool().getconn()
        execute(conn, "SELECT 1").fetchall()
        time.sleep(LEAK_SECONDS)
        return Answer("done.html", {"mistake": "leak"})

    def _nested(self) -> Answer:
        """Check a second connection out while this thread holds the first."""
        pool = self._queries.pool()
        try:
            with pool.connection(readonly=True):
                time.sleep(NESTED_SECONDS)
                with pool.connection(readonly=True) as second:
                    execute(second, "SELECT 1").fetchall()
        except wsgipool.PoolDeadlock as error:
            LOG.error("PoolDeadlock: %s", error)
            return error_page(500, "This request would have waited for itself.")
        return Answer("done.html", {"mistake": "nested"})

    def _crossed(self, first: int, second: int) -> Answer:
        """Lock two books in a transaction, which another request locks in the opposite order."""
        attempts = 0

        def lock_both(conn: Any) -> None:
            nonlocal attempts
            attempts += 1
            lock = "UPDATE books SET stock = stock WHERE id = %s"
            execute(conn, lock, first)
            time.sleep(CROSSED_SECONDS)
            execute(conn, lock, second)

        self._queries.pool().transaction(lock_both, retry=RETRY)
        return Answer("done.html", {"attempts": attempts})

    def _state(self) -> action_files.State:
        """Return the state; an action that was asked for and has not begun counts as the one that runs."""
        if self._files is None:
            return action_files.NO_STATE
        state = self._files.read()
        requested = self._files.requested(action["name"] for action in state["actions"])
        return state if state["running"] else {**state, "running": "".join(requested[:1])}


def status_page() -> str | None:
    """Return the address of the status page, or None if it is off: status.conf has this Define."""
    return process.define("WSGIPOOL_STATUS_PATH")


# ---- the buttons ---------------------------------------------------------------------------------------------


def refuse_foreign(header: Header, own_name: str) -> None:
    """Raise Refusal for a request that a page of another site has sent, or that a foreign name has brought here.

    Browsers send Origin with each POST, and most send Sec-Fetch-Site. A program that sends neither is no browser. By
    DNS rebinding a foreign site's name can lead to this server; the Host header still has that name.
    """
    host = header("Host") or ""
    if not _is_own_name(host, own_name):
        raise Refusal(421, "Please use localhost or an IP address as the name of this server.")
    is_own_site = header("Sec-Fetch-Site") in (None, "same-origin")
    is_own_origin = header("Origin") in (None, f"http://{host}", f"https://{host}")
    if not (is_own_site and is_own_origin):
        raise Refusal(403, "Only the pages of this bookshop may press its buttons.")


def _is_own_name(host: str, own_name: str) -> bool:
    parts = re.fullmatch(r"\[([0-9a-f:.]+)\](?::\d*)?|([^:]*)(?::\d*)?", host.strip().lower())
    name = (parts[1] or parts[2]) if parts else ""
    if name in ("localhost", own_name.lower()):
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# ---- the numbers ---------------------------------------------------------------------------------------------


def pool_numbers() -> Row:
    """Return the numbers of the bookshop's database in all processes of the host."""
    host, _ = reading.host(pools.runtime_dir())
    databases = host.databases()
    numbers: Row = {"at": host.at, "budget": None, "totals": {}, "processes": []}
    if databases:
        numbers |= _of_database(databases[0], host.at)
    with_pool = {process["pid"] for process in numbers["processes"]}
    numbers["processes"] += [
        _of_process(process) for process in host.processes if process.mpm and process.pid not in with_pool
    ]
    numbers["processes"].sort(key=lambda process: process["pid"])
    return numbers


def _of_database(database: DatabaseReport, at: float) -> Row:
    budget, totals = database.budget, database.totals
    return {
        "budget": None if budget is None else {"taken": budget.taken, "limit": budget.limit},
        "totals": {
            "checkouts": totals.checkouts,
            "waits": totals.waits,
            "timeouts": totals.timeouts,
            "opened": totals.opened,
            "leaked": totals.leaked,
        },
        "processes": [{**_of_process(process), **_of_pool(pool, at)} for process, pool in database.pools],
    }


def _of_process(process: ProcessReport) -> Row:
    return {"pid": process.pid, "place": process.place, "generation": process.generation, "ends": process.is_stopping}


def _of_pool(pool: PoolReport, at: float) -> Row:
    return {
        "max_size": pool.max_size,
        "idle": pool.idle,
        "in_use": pool.in_use,
        "connecting": pool.connecting,
        "waiting": pool.waiting,
        "failure": pool.failure,
        "holders": [_of_activity(holder, at) for holder in pool.holders],
        "waiters": [_of_activity(waiter, at) for waiter in pool.waiters],
    }


def _of_activity(activity: Activity, at: float) -> Row:
    return {
        "seconds": round(max(0.0, at - activity.since), 1),
        "path": activity.path,
        "place": activity.place,
        "doing": activity.doing,
    }

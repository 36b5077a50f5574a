"""A host that was made up: 64 processes with 4 databases each, and strings that would do harm in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from wsgipool.drivers.occupancy import Occupants, Sessions
from wsgipool.handlers.status_page.sessions import ServerSessions
from wsgipool.locks.statistics import LockRow, LocksReport
from wsgipool.scoreboard.model import (
    Activity,
    BudgetUse,
    CacheReport,
    ClosedPools,
    Gauges,
    HostReport,
    PoolReport,
    ProcessReport,
    Sample,
    Totals,
)

ATTACK = "</td></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&amp;"
"""A text that must stay one."""

NOW = 1_796_140_800.0
DATABASES = ("accounts", "analytics", "orders", "sessions")
_THREADS = 8
_STEPS = 60
_PATHS = ("/checkout/pay", "/orders/2024/export.csv", "/search", "/login", "/api/v2/carts/81723/items")
_PLACES = (
    "/srv/shop/orders/views.py:214 in pay",
    "/srv/shop/orders/export.py:58 in rows",
    "/srv/shop/search/views.py:31 in results",
    "/srv/shop/accounts/views.py:77 in login",
    "/srv/shop/api/carts.py:120 in items",
)
_DOING = (
    "waits for the database, at /srv/shop/orders/models.py:88 in total",
    "runs, at /srv/shop/orders/export.py:71 in line",
    "waits for the database, at /srv/shop/search/index.py:19 in find",
)


def host(processes: int = 64, databases: tuple[str, ...] = DATABASES, now: float = NOW) -> HostReport:
    """Return a host whose third database is exhausted."""
    return HostReport(
        folder="/run/wsgipool/shop",
        at=now,
        processes=[_process(number, databases, now) for number in range(processes)],
        ended=[ClosedPools(name, _address(name), Totals(checkouts=90_000, opened=400)) for name in databases],
        ended_processes=12,
        caches=[CacheReport("prices", 5000, 4211, 918_221, 8_120, 31, 120, 5_800, 44, 0)],
        history=[Sample(now - 600 + step * 10, _gauges(step, databases, processes)) for step in range(_STEPS)],
    )


def locks() -> LocksReport:
    """Return two locks, one of them contended."""
    return LocksReport([
        LockRow("stock", "host", "", 91_220, 18_331, 4, 0.0001, 0.131, 0.002, 0.033, "held long and contended"),
        LockRow("till", "process", "", 8_120, 0, 0, 0.0, 0.0, 0.00001, 0.00003, "never contended: leave it"),
    ])  # fmt: skip


def servers(now: float = NOW) -> list[ServerSessions]:
    """Return the sessions of a server that has answered, and of one that could not be asked."""
    others = [
        Sessions("reporting", "10.0.0.9", "metabase", 31),
        Sessions("backup", "10.0.0.5", "mydumper", 8),
        Sessions("", "", None, 3),
    ]
    return [
        ServerSessions("mysql:db1.example:3306", now - 4, 151, Occupants(138, 151, 96, 0, others), ""),
        ServerSessions("postgresql:db2.example:5432", None, None, None, "not asked: all connections are in use"),
    ]


def host_of_an_attacker() -> HostReport:
    """Return a host on which every text is the attack."""
    report: HostReport = attacked(host(10, ("analytics", "accounts", "orders")))
    return report


def attacked(value: Any) -> Any:
    """Return a report with the attack in place of every text, and in every collection."""
    if isinstance(value, str):
        return ATTACK
    if isinstance(value, Mapping):
        return {ATTACK if isinstance(key, str) else key: attacked(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [attacked(each) for each in value]
    if is_dataclass(value):
        return replace(value, **{each.name: attacked(getattr(value, each.name)) for each in fields(value)})  # type: ignore[type-var]
    return value


def _process(number: int, databases: tuple[str, ...], now: float) -> ProcessReport:
    return ProcessReport(
        pid=4000 + number * 7,
        started=now - 86_400 - number * 11,
        at=now - 0.4,
        mpm="event",
        process_group="shop",
        application_group="",
        generation=3 if number % 16 else 2,
        threads=_THREADS,
        max_processes=64,
        is_stopping=number == 32,
        settings="/etc/wsgipool.toml",
        pools=[_pool(number, index, name, now) for index, name in enumerate(databases)],
        closed_pools=[],
        caches=[],
    )


def _pool(number: int, index: int, name: str, now: float) -> PoolReport:
    is_full = index == 2 and number % 3 == 0
    in_use = _THREADS if is_full else (number * (index + 1)) % 4
    waiting = number % 5 if is_full else 0
    return PoolReport(
        name=name,
        address=_address(name),
        min_size=0,
        max_size=_THREADS,
        idle=0 if is_full else (number + index) % 3,
        in_use=in_use,
        connecting=1 if number % 17 == 5 else 0,
        waiting=waiting,
        max_in_use=_THREADS,
        max_waiting=5,
        totals=Totals(
            checkouts=12_000 + number * 31 + index,
            waits=900 + number,
            timeouts=number % 4 if is_full else 0,
            opened=60,
            connect_failures=number % 2 if index == 1 else 0,
            wait_seconds=31.0,
            use_seconds=812.0,
            closed={"idle": 20, "lifetime": 4, "leaked": 1 if number == 8 else 0},
            wait_time={30: 400, 44: 500, 60: 9},
            use_time={20: 4000, 38: 7000, 50: 1000, 70: 31},
            create_time={40: 50, 44: 10},
        ),
        holders=[_activity(number, each, now - 2.5 * (number % 9) - each - 0.3) for each in range(in_use)],
        waiters=[_activity(number, 20 + each, now - 0.8 * each - 0.2) for each in range(waiting)],
        failure="",
        budget=BudgetUse("mysql:db1.example:3306", "/run/wsgipool/shop/budget", 270, 262, in_use, is_full)
        if index == 2
        else None,
    )


def _activity(number: int, thread: int, since: float) -> Activity:
    choice = number + thread
    return Activity(
        thread=140_000_000 + number * 100 + thread,
        since=since,
        place=_PLACES[choice % len(_PLACES)],
        path=_PATHS[choice % len(_PATHS)],
        doing=_DOING[choice % len(_DOING)],
    )


def _address(name: str) -> str:
    return f"mysql://{name}@db1.example:3306/{name}"


def _gauges(step: int, databases: tuple[str, ...], processes: int) -> Mapping[str, Gauges]:
    return {name: _gauge(step, index, processes) for index, name in enumerate(databases)}


def _gauge(step: int, index: int, processes: int) -> Gauges:
    load = 0.4 + 0.3 * math.sin(step / 7 + index) + (0.3 if index == 2 and step > 45 else 0.0)
    return Gauges(
        idle=int(processes * (1 - load)),
        in_use=int(processes * 3 * load),
        connecting=step % 3,
        waiting=max(0, step - 50) * 4 if index == 2 else 0,
        checkouts=processes * 12_970 + 90_000 - (_STEPS - step) * 1200 + int(90 * math.sin(step / 5)),
        timeouts=max(0, step - 54) * processes // 20 if index == 2 else 0,
        wait_seconds=12.0,
    )

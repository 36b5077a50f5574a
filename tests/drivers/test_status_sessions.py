"""What the status page shows of a server's sessions: asked on an idle connection, never on another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.shops import driver_of
from wsgipool import Pool, pools
from wsgipool.handlers.status_page.sessions import INTERVAL, Servers, ServerSessions


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Page:
    """The servers of one page, asked at the test's own times."""

    def __init__(self) -> None:
        self.clock = Clock()
        self._servers = Servers(self.clock)

    def asked_again(self) -> ServerSessions:
        self.clock.now += INTERVAL
        return self.shown()

    def shown(self) -> ServerSessions:
        (sessions,) = self._servers.sessions()
        return sessions


@pytest.fixture(params=["mariadb_shop", "postgresql_shop"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def pool(url: str, tmp_path: Path) -> Iterator[Pool]:  # type: ignore[type-arg]
    settings = {"runtime_dir": str(tmp_path / "run"), "databases": {"shop": {"url": url, "max_size": 2}}}
    with pools.override(settings):
        yield pools.pool("shop")


@pytest.mark.usefixtures("pool")
def test_a_server_is_not_asked_while_no_connection_is_open() -> None:
    shown = Page().shown()

    assert (shown.at, shown.occupants) == (None, None)
    assert shown.not_asked == "not asked: the process that answers has no open connection"


def test_a_server_is_asked_on_an_idle_connection(pool: Pool, url: str) -> None:  # type: ignore[type-arg]
    with pool.connection(), pool.connection():
        pass
    driver = driver_of(url)
    other = driver.connect(10)

    shown = Page().shown()

    driver.close(other)
    assert shown.not_asked == ""
    assert shown.occupants is not None
    assert shown.occupants.ours == 2  # the other idle one, and the one of the same account; not the one that asks
    assert shown.limit is not None
    assert shown.limit > 10
    assert (pool.size, pool.stats().opened, pool.stats().timeouts) == (2, 2, 0)


def test_the_last_answer_stays_while_all_connections_are_in_use(pool: Pool) -> None:  # type: ignore[type-arg]
    page = Page()
    with pool.connection():
        pass
    first = page.shown()

    with pool.connection(), pool.connection():
        full = page.asked_again()

    assert first.occupants is not None
    assert (full.at, full.occupants) == (first.at, first.occupants)
    assert full.not_asked == "not asked: all connections are in use"
    assert (pool.stats().opened, pool.stats().timeouts, pool.stats().refused) == (2, 0, 0)


def test_a_server_is_asked_once_in_ten_seconds(pool: Pool) -> None:  # type: ignore[type-arg]
    page = Page()
    with pool.connection():
        pass
    page.shown()
    checkouts = pool.stats().checkouts

    page.clock.now += INTERVAL - 0.1
    page.shown()
    assert pool.stats().checkouts == checkouts
    page.asked_again()
    assert pool.stats().checkouts > checkouts

"""The messages that docs/troubleshooting.md quotes are those that readers see: each is provoked here."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import MySQLdb
import pymysql
import pytest
from MySQLdb.cursors import SSCursor

import wsgipool
from docs.blocks import ROOT
from faults.harness import pool_of, session_of, value
from unit.fakes import eventually
from wsgipool import Pool, config
from wsgipool._background import background
from wsgipool.demo.mariadb import MariaDB
from wsgipool.drivers.pymysql import misuse
from wsgipool.httpd.express import free_port
from wsgipool.pool import _exhaustion
from wsgipool.pools import find_config


def without_details(text: str) -> str:
    """Return a text without what differs from case to case: places, numbers, names of hosts and threads."""
    text = re.sub(r"\S+\.py:\d+ in \w+", "PLACE", " ".join(text.split()))
    text = re.sub(r"(by thread \d+) \(\w+\)", r"\1 (NAME)", text)
    text = re.sub(r"(@|server on '|'@')[\w.:]+", r"\1HOST", re.sub(r"\S+\.toml", "FILE", text))
    return re.sub(r"\d+(\.\d+)?", "N", text)


QUOTED = without_details((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))


def assert_quoted(*errors: BaseException) -> None:
    for error in errors:
        assert without_details(str(error)) in QUOTED


@pytest.fixture
def url(page_server: MariaDB) -> str:
    return f"mysql://shop:secret@127.0.0.1:{page_server.port}/shop"


@pytest.fixture
def pool(url: str) -> Iterator[Pool[Any]]:
    pool = pool_of(url)
    yield pool
    pool.close()


def outcome_in_thread(function: Callable[[], object]) -> BaseException:
    """Return what a function raises in a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    return raised[0]


def test_too_many_connections(page_server: MariaDB, url: str) -> None:
    taken: list[Any] = []
    with suppress(pymysql.OperationalError):
        while True:
            taken.append(page_server.connect("shop", "secret"))
    pool = pool_of(url)

    with pytest.raises(wsgipool.ConnectFailed, match="1040") as caught:
        pool.getconn(timeout=10)

    for connection in taken:
        connection.close()
    pool.close()
    assert_quoted(caught.value)


def test_nothing_listens() -> None:
    pool = pool_of(f"mysql://shop:secret@127.0.0.1:{free_port()}/shop")
    errors = []
    for _ in range(3):
        with pytest.raises(wsgipool.ConnectFailed) as caught:
            pool.getconn(timeout=10)
        errors.append(caught.value)

    assert "attempt" in str(errors[-1])
    assert_quoted(errors[-1])


def test_access_denied(url: str) -> None:
    pool = pool_of(url.replace("secret", "wrong"))
    with pytest.raises(wsgipool.ConnectFailed):
        pool.getconn(timeout=10)

    with pytest.raises(wsgipool.ConnectFailed) as caught:
        pool.getconn(timeout=10)

    assert_quoted(caught.value)


def kill(server: MariaDB, session: int) -> None:
    with server.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"KILL {session}")


def test_gone_away(page_server: MariaDB, pool: Pool[Any]) -> None:
    connection = pool.getconn()
    kill(page_server, session_of(connection))
    with pytest.raises(pymysql.OperationalError) as first:
        value(connection, "SELECT 1")
    with pytest.raises(pymysql.OperationalError) as second:
        value(connection, "SELECT 1")
    pool.putconn(connection)

    assert_quoted(first.value)
    assert_quoted(second.value)


def test_lost_connection(page_server: MariaDB, pool: Pool[Any], url: str) -> None:
    connection = pool.getconn()
    killer = threading.Timer(0.3, kill, (page_server, session_of(connection)))
    killer.start()
    with pytest.raises(pymysql.OperationalError, match="2013") as killed:
        value(connection, "SELECT SLEEP(20)")
    killer.join()
    pool.putconn(connection)
    impatient = pool_of(f"{url}?read_timeout=1")
    with (
        pytest.raises(pymysql.OperationalError, match="2013") as timed_out,
        impatient.connection() as connection,
    ):
        value(connection, "SELECT SLEEP(20)")
    impatient.close()

    assert_quoted(killed.value)
    assert_quoted(timed_out.value)


def test_out_of_sync(pool: Pool[Any]) -> None:
    def refuse(_: object) -> None:
        raise KeyboardInterrupt

    connection = pool.getconn()
    connection.decoders = dict.fromkeys(connection.decoders, refuse)
    with pytest.raises(KeyboardInterrupt):
        value(connection, "SELECT 1")
    with pytest.raises(pymysql.OperationalError) as interrupted:
        value(connection, "SELECT 1")
    pool.putconn(connection)

    assert_quoted(interrupted.value)
    assert_quoted(misuse.unexpected_answer())


def test_out_of_sync_with_mysqlclient(url: str) -> None:
    pool = pool_of(url.replace("mysql:", "mysql+mysqlclient:"))
    connection = pool.getconn()
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT seq FROM seq_1_to_10000")
    with pytest.raises(MySQLdb.ProgrammingError) as caught:
        value(connection, "SELECT 1")
    pool.putconn(connection)
    pool.close()

    assert_quoted(caught.value)


def test_wrong_thread(pool: Pool[Any]) -> None:
    connection = pool.getconn()
    errors = [
        outcome_in_thread(lambda: value(connection, "SELECT 1")),
        outcome_in_thread(lambda: pool.putconn(connection)),
    ]
    pool.putconn(connection)
    with pytest.raises(wsgipool.WrongThread) as after:
        value(connection, "SELECT 1")
    with pytest.raises(ValueError, match="not checked out") as twice:
        pool.putconn(connection)

    assert_quoted(*errors, after.value)
    assert without_details(str(twice.value)).partition(":")[0] in QUOTED


def test_an_exhausted_pool_and_slow_checkouts(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(url, max_size=4, log_slow=1e-9)

    def check_out(timeout: float | None = None) -> Any:
        return pool.getconn(timeout)

    held = [check_out() for _ in range(3)]
    held.append(pool.getconn())
    errors = [outcome_in_thread(lambda: check_out(0.01)) for _ in range(2)]
    waiters = [threading.Thread(target=lambda: pool.putconn(check_out())) for _ in range(3)]
    for number, waiter in enumerate(waiters, 1):
        waiter.start()
        eventually(lambda number=number: pool.waiting == number)  # type: ignore[misc]
    for connection in held:
        pool.putconn(connection)
    for waiter in waiters:
        waiter.join()
    monkeypatch.setattr(_exhaustion, "RECOVERED_AFTER", 0.0)
    background.wake()
    eventually(lambda: "has recovered" in caplog.text)
    pool.close()

    assert all(isinstance(error, wsgipool.PoolTimeout) for error in errors)
    quoted = {vars(record)["pool_event"] for record in caplog.records if without_details(record.getMessage()) in QUOTED}
    assert quoted == {"slow_connect", "exhausted", "slow_checkout", "recovered"}


def test_pool_timeout_and_deadlock(pool: Pool[Any]) -> None:
    connection = pool.getconn()
    timeout = outcome_in_thread(lambda: pool.getconn(timeout=0.1))
    with pytest.raises(wsgipool.PoolDeadlock) as deadlock:
        pool.getconn(timeout=10)
    pool.putconn(connection)

    assert_quoted(timeout)
    assert_quoted(deadlock.value)


def test_lock_timeout() -> None:
    locks = wsgipool.Locks("stock")

    def order() -> None:
        with locks.hold("stock", timeout=0.1):
            pass

    with locks.hold("stock"):
        error = outcome_in_thread(order)

    assert_quoted(error)


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "wsgipool.toml"
    file.write_text('[databases.shop]\nurl = "mysql://shop@db/shop"\nmax_szie = 3\n')
    monkeypatch.delenv("WSGIPOOL_CONFIG", raising=False)
    monkeypatch.setattr("wsgipool.pools.SYSTEM_CONFIG", tmp_path / "none.toml")

    with pytest.raises(wsgipool.ConfigError) as typo:
        config.load(file)
    with pytest.raises(wsgipool.ConfigError) as nothing:
        find_config()

    assert_quoted(typo.value)
    assert_quoted(nothing.value)


def test_a_folder_that_is_open_to_others(tmp_path: Path, url: str) -> None:
    tmp_path.chmod(0o755)
    settings = {"runtime_dir": str(tmp_path), "budget": {"connections": 1}, "databases": {"shop": {"url": url}}}

    with pytest.raises(wsgipool.ConfigError) as caught:
        wsgipool.configure(settings)

    assert "is open to others, drwxr-xr-x; chmod go= " in str(caught.value)
    assert "is open to others, drwxr-xr-x; chmod go= " in QUOTED

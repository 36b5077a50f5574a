"""`/wsgipool-health`: the answers of one process, with fake databases."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

import wsgipool
from unit.conftest import Clock, another_holder, waiting_task
from unit.fakes import FakeDatabase, Gate, Task, raising
from wsgipool import pools
from wsgipool.handlers import health
from wsgipool.handlers.health import Health, Latest, application, check
from wsgipool.httpd import process as httpd

pytestmark = pytest.mark.usefixtures("_no_settings")


@dataclass(frozen=True)
class Response:
    status: str
    headers: Mapping[str, str]
    body: str


def ask(path: str = "", method: str = "GET", accept: str = "*/*") -> Response:
    answered: list[tuple[str, Mapping[str, str]]] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_ACCEPT": accept}
    body = b"".join(application(environ, lambda status, headers: answered.append((status, dict(headers)))))
    return Response(*answered[0], body.decode())


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a process that no probe has asked yet."""
    monkeypatch.setattr(health, "_latest", Latest(check))


def configure(*names: str, **settings: object) -> None:
    wsgipool.configure({"databases": {name: {"url": "mysql://db/x", **settings} for name in names}})


# --- the answers -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_live_asks_nothing_of_the_database(databases: dict[str, FakeDatabase]) -> None:
    configure("shop")
    databases["shop"].hooks["connect"] = raising(OSError("down"))

    response = ask("/live")

    assert (response.status, response.body) == ("200 OK", "live\n")
    assert databases["shop"].timeouts == []


@pytest.mark.usefixtures("fresh", "databases")
@pytest.mark.parametrize("path", ["", "/", "/ready"])
def test_ready_is_200_if_every_database_can_be_used(path: str) -> None:
    configure("shop", "archive")

    response = ask(path)

    assert (response.status, response.body) == ("200 OK", "ready\n")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.usefixtures("fresh")
def test_ready_is_503_with_the_reasons(databases: dict[str, FakeDatabase]) -> None:
    configure("shop", "archive")
    databases["archive"].hooks["connect"] = raising(OSError(2003, "no route to db.example.com for shop"))

    text, document = ask("/ready"), ask("/ready", accept="application/json")

    assert (text.status, text.body) == ("503 Service Unavailable", "not ready\narchive: cannot connect (error 2003)\n")
    assert document.status == "503 Service Unavailable"
    assert json.loads(document.body) == {
        "status": "not ready",
        "databases": {"shop": "ok", "archive": "cannot connect (error 2003)"},
    }


@pytest.mark.usefixtures("fresh")
def test_a_process_without_settings_is_ready_since_a_framework_may_have_them() -> None:
    assert ask("/ready").status == "200 OK"


@pytest.mark.usefixtures("fresh", "databases")
def test_head_has_no_body_and_other_methods_are_refused() -> None:
    assert ask("/live", "HEAD").body == ""
    assert ask("/live", "HEAD").headers["Content-Length"] == "5"
    assert ask("/live", "POST").status == "405 Method Not Allowed"
    assert ask("/live", "POST").headers["Allow"] == "GET, HEAD"
    assert ask("/other").status == "404 Not Found"


# --- the check -------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_a_reason_whose_details_are_in_the_log_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(pools.CONFIG_VARIABLE, "/nowhere/wsgipool.toml")

    found = [check(), check()]

    assert {result.reason for result in found} == {"the settings are wrong; the error log names the mistake"}
    assert caplog.text.count("/nowhere/wsgipool.toml does not exist") == 1


def test_a_process_that_ends_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "is_stopping", lambda: True)

    assert check() == Health({}, "this process ends after its last requests")


@pytest.mark.usefixtures("databases")
def test_a_server_that_stops_answering_is_noticed_on_an_idle_connection() -> None:
    configure("shop")
    with wsgipool.connection("shop") as connection:
        connection.hooks["ping"] = raising(OSError(110, "timed out"))

    assert check().databases == {"shop": "does not answer (error 110)"}
    assert wsgipool.pool("shop").size == 0, "the connection was kept"
    assert check().is_good


def test_an_idle_connection_that_has_died_is_no_proof(databases: dict[str, FakeDatabase]) -> None:
    configure("shop")
    with wsgipool.connection("shop") as connection:
        connection.alive = False
    databases["shop"].hooks["connect"] = raising(OSError(111, "refused"))

    assert check().databases == {"shop": "cannot connect (error 111)"}


@pytest.mark.usefixtures("databases")
def test_a_probe_does_not_queue_with_requests_that_use_all_connections() -> None:
    configure("shop", max_size=1)
    pool = wsgipool.pool("shop")
    holder = another_holder(pool)

    assert check().is_good
    assert pool.stats().timeouts == 0
    holder.give_back()


@pytest.mark.usefixtures("databases")
def test_requests_that_wait_for_long_make_the_process_unready(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "monotonic", clock)
    configure("shop", max_size=1, timeout=60)
    pool = wsgipool.pool("shop")
    holder = another_holder(pool)
    waiter = waiting_task(pool)

    assert check().is_good
    clock.advance(7)
    assert check().databases == {"shop": "requests have waited for a connection for 7 s"}
    holder.give_back()
    with contextlib.suppress(ValueError):  # the waiter's thread has ended: maintenance may have taken it back
        pool.putconn(waiter.result(), discard=True)
    assert check().is_good


def test_a_connect_that_takes_long_is_given_a_second_and_the_next_database_no_more(
    databases: dict[str, FakeDatabase], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "monotonic", clock)
    configure("slow", "shop")

    def hang() -> None:
        clock.advance(databases["slow"].timeouts[-1])
        raise TimeoutError("timed out")

    databases["slow"].hooks["connect"] = hang

    assert check().databases == {
        "slow": "cannot connect",
        "shop": "not checked, because the others took too long",
    }
    assert databases["slow"].timeouts == [pytest.approx(1.0)]
    assert databases["shop"].timeouts == []


@pytest.mark.usefixtures("databases")
def test_a_registered_pool_is_checked_too() -> None:
    database = FakeDatabase()
    wsgipool.register("extra", database)
    database.hooks["connect"] = raising(OSError("down"))

    assert check().databases == {"extra": "cannot connect"}


def test_no_reason_has_an_address_an_account_or_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wsgipool.configure({"databases": {"shop": {"url": "mysql://ann:s3cret@127.0.0.1:1/orders"}}})

    assert check().databases == {"shop": "cannot connect (error 2003)"}
    assert "s3cret" not in caplog.text


# --- probes share a check --------------------------------------------------------------------------------------------


def test_probes_at_once_share_one_check() -> None:
    gate, checks = Gate(), []

    def slow() -> Health:
        checks.append(threading.get_ident())
        gate()
        return Health({})

    latest = Latest(slow)
    tasks = [Task(latest.get) for _ in range(8)]
    gate.wait_until_reached()
    gate.open()

    assert len({id(task.result()) for task in tasks}) == 1
    assert len(checks) == 1


def test_a_result_is_shared_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(health, "monotonic", lambda: now[0])
    results = iter(Health({"shop": str(number)}) for number in range(3))
    latest = Latest(lambda: next(results))

    first, now[0] = latest.get(), 100.9
    assert latest.get() is first
    now[0] = 101.0
    assert latest.get() is not first


def test_a_check_that_fails_is_not_kept() -> None:
    outcomes = iter([KeyError("a bug"), None])

    def failing() -> Health:
        if error := next(outcomes):
            raise error
        return Health({})

    latest = Latest(failing)
    with pytest.raises(KeyError):
        latest.get()

    assert latest.get().is_good

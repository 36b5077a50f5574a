"""The log lines of a pool: when it is exhausted and has recovered, and which checkouts were slow."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from unit.conftest import Clock, FakePool, MakePool, all_idle, another_holder, counts, in_queue, use
from unit.fakes import FakeConnection, FakeDatabase, HolderThread, Task, eventually, raising
from unit.test_docs_reference import names_in, page, rows
from unit.test_pool_budget import FakePermits
from wsgipool import ConnectFailed, PoolDeadlock, PoolTimeout
from wsgipool._background import background
from wsgipool.pool._exhaustion import EXHAUSTED_AFTER, RECOVERED_AFTER
from wsgipool.pool._slow_checkouts import Wait

Log = pytest.LogCaptureFixture


def events(log: Log, *names: str) -> list[logging.LogRecord]:
    """Return the records of these events."""
    return [record for record in log.records.copy() if getattr(record, "pool_event", None) in names]


def episodes(log: Log) -> list[str]:
    return [vars(record)["pool_event"] for record in events(log, "exhausted", "recovered")]


def in_report(pool: FakePool) -> FakeConnection:
    """Check a connection out, at a place that the test knows."""
    return pool.getconn()


def place_in(function: Callable[..., object]) -> str:
    """Return the place of the last line of a function."""
    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + len(lines) - 1} in {function.__name__}"


def report(pool: FakePool) -> HolderThread[FakeConnection]:
    return HolderThread(lambda: in_report(pool), pool.putconn)


def waiting(pool: FakePool, timeout: float | None = None) -> Task[None]:
    """Return a thread that uses a connection, once it waits in the queue."""

    def request() -> None:
        pool.putconn(pool.getconn(timeout))

    return in_queue(pool, request)


def look(pool: FakePool) -> float | None:
    """Look whether the pool is exhausted, as the background does."""
    return pool._exhaustion.maintain()


def exhaust(pool: FakePool, clock: Clock, log: Log, seconds: float = EXHAUSTED_AFTER) -> None:
    """Let a waiter wait for this long, until that is logged, by whichever thread."""
    clock.advance(seconds)
    look(pool)
    eventually(lambda: episodes(log)[-1:] == ["exhausted"])


def recover(pool: FakePool, clock: Clock, log: Log) -> None:
    """Let so much time pass that the pool has recovered, and wait until that is logged."""
    clock.advance(RECOVERED_AFTER)
    look(pool)
    eventually(lambda: episodes(log)[-1:] == ["recovered"])


@pytest.fixture
def make_pool(make_pool: MakePool) -> Iterator[MakePool]:
    """Close the pools at the end, so that they log nothing in later tests."""
    made: list[FakePool] = []

    def make(*arguments: Any, **settings: Any) -> FakePool:
        made.append(make_pool(*arguments, **settings))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture(autouse=True)
def _as_documented(log: Log) -> Iterator[None]:
    """Compare the records of a test with docs/reference/logs.md."""
    yield
    table = {names_in(row[0])[0]: row for row in rows(page("logs")) if len(row) == 4 and names_in(row[0])}
    plain = vars(logging.makeLogRecord({})).keys() | {"message", "pool", "pool_event"}
    for record in log.get_records("call"):
        row = table[vars(record)["pool_event"]]
        assert record.levelname in row[1].split(", ")
        assert vars(record).keys() - plain == set(names_in(row[3]))


# --- exhausted -------------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_is_logged_with_its_holders_and_since_when(
    make_pool: MakePool, clock: Clock, log: Log
) -> None:
    pool = make_pool(3)
    early = [report(pool), report(pool)]
    clock.advance(7)
    late = another_holder(pool)
    waiter = waiting(pool)

    exhaust(pool, clock, log)

    (record,) = events(log, "exhausted")
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(
        "pool 'orders' is exhausted: a checkout has waited for 1.0 s; 3 in use, 0 connecting, 0 idle of max_size 3, "
        f"1 waiting; held: 2 checked out at {place_in(in_report)}, the longest for 8.0 s; 1 checked out at "
    )
    assert record.getMessage().endswith(" in hold, for 1.0 s")
    assert vars(record).items() >= {
        "pool": "orders", "waited": 1.0, "in_use": 3, "connecting": 0, "idle": 0, "max_size": 3, "waiting": 1,
        "place": place_in(in_report), "held_for": 8.0,
    }.items()  # fmt: skip
    for holder in (*early, late):
        holder.give_back()
    waiter.result()


def test_a_waiter_logs_it_at_one_of_its_wake_ups(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    holder = report(pool)
    waiter = waiting(pool)

    clock.advance(EXHAUSTED_AFTER)

    eventually(lambda: episodes(log) == ["exhausted"])
    holder.give_back()
    waiter.result()


def test_a_shorter_wait_is_not_logged(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    holder = report(pool)
    waiter = waiting(pool)

    clock.advance(EXHAUSTED_AFTER - 0.1)
    look(pool)
    holder.give_back()
    waiter.result()
    clock.advance(RECOVERED_AFTER)
    look(pool)

    assert episodes(log) == []


def test_a_checkout_that_times_out_sooner_is_logged(make_pool: MakePool, log: Log) -> None:
    pool = make_pool(1)
    holder = report(pool)

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.01)

    (record,) = events(log, "exhausted")
    assert f"held: 1 checked out at {place_in(in_report)}, for " in record.getMessage()
    holder.give_back()


def test_a_checkout_that_does_not_want_to_wait_is_not_logged(make_pool: MakePool, log: Log) -> None:
    pool = make_pool(1, log_slow=1e-9)
    holder = report(pool)
    log.clear()

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)

    assert log.records == []
    holder.give_back()


def test_the_line_says_that_the_database_is_down(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, log: Log
) -> None:
    pool = make_pool(2)
    holder = report(pool)
    database.hooks["connect"] = raising(OSError("refused"))
    waiter = waiting(pool)
    eventually(lambda: "cannot connect" in log.text)

    exhaust(pool, clock, log)

    (record,) = events(log, "exhausted")
    assert "; the last connect failed: cannot connect pool 'orders' to fake://database: OSError" in record.getMessage()
    holder.give_back()
    waiter.result()


def test_the_line_says_that_the_budget_is_used_up(make_pool: MakePool, clock: Clock, log: Log) -> None:
    permits = FakePermits(0)
    pool = make_pool(2, permits=permits)
    waiter = waiting(pool)
    eventually(lambda: permits.is_starved)

    exhaust(pool, clock, log)

    (record,) = events(log, "exhausted")
    assert record.getMessage().endswith(
        "0 in use, 0 connecting, 0 idle of max_size 2, 1 waiting; the budget is used up"
    )
    assert vars(record)["place"] is None
    permits.free = 1
    waiter.result()


# --- recovered -------------------------------------------------------------------------------------------------------


def test_a_recovered_pool_is_logged_with_what_has_happened_meanwhile(
    make_pool: MakePool, clock: Clock, log: Log
) -> None:
    pool = make_pool(1)
    holder = report(pool)
    impatient, patient = waiting(pool, timeout=2.0), waiting(pool)
    exhaust(pool, clock, log)
    clock.advance(1)
    with pytest.raises(PoolTimeout):
        impatient.result()
    clock.advance(3)
    holder.give_back()
    patient.result()

    recover(pool, clock, log)

    (record,) = events(log, "recovered")
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "pool 'orders' has recovered: it was exhausted for 5.0 s, in which 2 checkouts waited, at most 5.0 s, and 1 of "
        "them timed out"
    )
    assert vars(record).items() >= {
        "pool": "orders", "exhausted_for": 5.0, "waits": 2, "longest_wait": 5.0, "timeouts": 1,
    }.items()  # fmt: skip


def test_the_background_logs_the_recovery(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    holder = report(pool)
    waiter = waiting(pool)
    exhaust(pool, clock, log)
    holder.give_back()
    waiter.result()

    clock.advance(RECOVERED_AFTER - 3)
    assert look(pool) == pytest.approx(3), "the background must look when the time is over"
    assert episodes(log) == ["exhausted"]
    clock.advance(3)
    background.wake()
    eventually(lambda: episodes(log) == ["exhausted", "recovered"])


def test_a_pool_that_is_exhausted_again_and_again_logs_one_pair(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    for _ in range(5):
        holder = report(pool)
        waiter = waiting(pool)
        exhaust(pool, clock, log)
        holder.give_back()
        waiter.result()
        clock.advance(RECOVERED_AFTER - 0.1)
        look(pool)
    assert episodes(log) == ["exhausted"]

    clock.advance(0.2)
    look(pool)

    eventually(lambda: episodes(log) == ["exhausted", "recovered"])
    assert vars(events(log, "recovered")[0])["waits"] == 5


def test_a_second_episode_has_its_own_pair_and_its_own_numbers(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    for seconds in (EXHAUSTED_AFTER + 4, EXHAUSTED_AFTER):
        holder = report(pool)
        waiter = waiting(pool)
        exhaust(pool, clock, log, seconds)
        holder.give_back()
        waiter.result()
        recover(pool, clock, log)

    assert episodes(log) == ["exhausted", "recovered"] * 2
    assert [vars(record)["longest_wait"] for record in events(log, "recovered")] == [5.0, 1.0]


def test_a_closed_pool_does_not_recover(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    holder = report(pool)
    waiter = waiting(pool)
    exhaust(pool, clock, log)

    pool.close()
    clock.advance(RECOVERED_AFTER)
    look(pool)

    assert episodes(log) == ["exhausted"]
    with pytest.raises(Exception, match="was closed"):
        waiter.result()
    holder.give_back()


# --- slow checkouts --------------------------------------------------------------------------------------------------


def test_a_slow_checkout_names_the_places_of_the_waiter_and_of_the_holder(
    make_pool: MakePool, clock: Clock, log: Log
) -> None:
    pool = make_pool(1, log_slow=2)
    holder = another_holder(pool)
    clock.advance(4)
    waiter = in_queue(pool, lambda: pool.putconn(in_report(pool)))

    clock.advance(3)
    holder.give_back()
    waiter.result()

    (record,) = events(log, "slow_checkout")
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert message.startswith(
        f"a checkout of pool 'orders' at {place_in(in_report)} waited 3.0 s; meanwhile held for longest by thread "
        f"{holder.thread_id}, checked out at "
    )
    assert message.endswith(" in hold, 7.0 s ago")
    fields = vars(record)
    assert (fields["pool"], fields["place"], fields["waited"]) == ("orders", place_in(in_report), 3.0)
    assert (fields["timed_out"], fields["ahead"], fields["held_for"]) == (False, 0, 7.0)
    assert fields["holder_place"].endswith(" in hold")


def test_a_checkout_at_the_limit_is_not_slow(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1, log_slow=2)
    holder = another_holder(pool)
    waiter = waiting(pool)

    clock.advance(2)
    holder.give_back()
    waiter.result()

    assert events(log, "slow_checkout") == []


def test_slow_checkouts_are_not_logged_by_default(make_pool: MakePool, clock: Clock, log: Log) -> None:
    pool = make_pool(1)
    holder = another_holder(pool)
    waiter = waiting(pool)

    clock.advance(5)
    holder.give_back()
    waiter.result()

    assert events(log, "slow_checkout") == []


def test_the_holder_is_the_one_that_held_for_most_of_the_wait(
    make_pool: MakePool, clock: Clock, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first holder returned its connection at once, and the last one has just got it."""
    pool = make_pool(1, log_slow=2)
    first = another_holder(pool)
    second = Task(lambda: report(pool))
    eventually(lambda: pool.waiting == 1)
    third = Task(lambda: another_holder(pool))
    eventually(lambda: pool.waiting == 2)
    last = waiting(pool)
    first.give_back()
    slow = second.result()
    clock.advance(5)
    looks: list[int] = []
    look = Wait.look

    def recorded_look(wait: Wait[Any]) -> None:
        look(wait)
        looks.append(threading.get_ident())

    monkeypatch.setattr(Wait, "look", recorded_look)
    eventually(lambda: last.thread_id in looks)
    slow.give_back()
    third.result().give_back()
    last.result()

    record = events(log, "slow_checkout")[-1]
    assert vars(record)["holder_place"] == place_in(in_report)
    assert vars(record)["ahead"] == 2
    assert ", behind 2 others; " in record.getMessage()


def test_a_checkout_that_timed_out_is_slow_too(make_pool: MakePool, log: Log) -> None:
    pool = make_pool(1, log_slow=0.001)
    holder = report(pool)
    log.clear()

    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.01)

    (record,) = events(log, "slow_checkout")
    assert vars(record)["timed_out"]
    assert " in test_a_checkout_that_timed_out_is_slow_too timed out after 0.0 s; " in record.getMessage()
    assert vars(record)["holder_place"] == place_in(in_report)
    holder.give_back()


def test_a_slow_checkout_without_holders_waited_for_the_budget(make_pool: MakePool, clock: Clock, log: Log) -> None:
    permits = FakePermits(0)
    pool = make_pool(2, permits=permits, log_slow=2)
    waiter = waiting(pool)
    eventually(lambda: permits.is_starved)

    clock.advance(3)
    permits.free = 1
    waiter.result()

    (record,) = events(log, "slow_checkout")
    assert record.getMessage().endswith("; the budget had no free permit")
    assert vars(record)["holder_place"] is None


def test_a_slow_connect_is_logged_with_its_place(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, log: Log
) -> None:
    pool = make_pool(1, log_slow=2)
    database.hooks["connect"] = lambda: clock.advance(3)

    in_report(pool)

    (record,) = events(log, "slow_connect")
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"a checkout of pool 'orders' at {place_in(in_report)} connected for 3.0 s to fake://database"
    )
    assert vars(record).items() >= {
        "pool": "orders", "place": place_in(in_report), "connected_for": 3.0, "address": "fake://database",
    }.items()  # fmt: skip


def test_the_other_records_of_a_pool_have_the_documented_fields(
    make_pool: MakePool, database: FakeDatabase, log: Log
) -> None:
    pool = make_pool(1, on_close=lambda _: raising(LookupError("closed"))())
    leaked = Task(pool.getconn)
    leaked.result()
    pool.maintain()
    database.hooks["connect"] = raising(OSError("refused"))
    with pytest.raises(ConnectFailed):
        pool.getconn()
    database.hooks.clear()
    connection = pool.getconn()
    database.hooks["rollback"] = raising(OSError("broken"))
    pool.putconn(connection)

    assert [vars(record)["pool_event"] for record in log.records] == [
        "on_close_failed", "leaked", "connect_failed", "connected_again", "closing", "on_close_failed",
    ]  # fmt: skip


# --- logging handlers ------------------------------------------------------------------------------------------------


class PoolHandler(logging.Handler):
    """A handler that writes its lines to a database, by a pool."""

    def __init__(self, pool: FakePool) -> None:
        super().__init__()
        self._pool = pool
        self.outcomes: list[BaseException | str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with self._pool.connection():
                self.outcomes.append(vars(record)["pool_event"])
        except BaseException as error:
            self.outcomes.append(error)


@pytest.fixture
def handle(log: Log) -> Iterator[Callable[[logging.Handler], None]]:  # noqa: ARG001 - sets the level
    logger, added = logging.getLogger("wsgipool"), []

    def add(handler: logging.Handler) -> None:
        handler.addFilter(lambda record: vars(record)["pool_event"] != "leaked")  # by an earlier test
        logger.addHandler(handler)
        added.append(handler)

    yield add
    for handler in added:
        logger.removeHandler(handler)


def test_lines_are_written_without_the_lock(
    make_pool: MakePool, clock: Clock, handle: Callable[[logging.Handler], None], database: FakeDatabase
) -> None:
    pool = make_pool(1, log_slow=2)
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Another thread would wait for the lock.
            Task(pool.stats).result()
            seen.append(vars(record)["pool_event"])

    handle(Handler())
    database.hooks["connect"] = lambda: clock.advance(3)
    holder = report(pool)
    waiter = waiting(pool)
    clock.advance(3)
    look(pool)
    eventually(lambda: seen[-1] == "exhausted")
    holder.give_back()
    waiter.result()
    clock.advance(RECOVERED_AFTER)
    look(pool)
    eventually(lambda: seen[-1] == "recovered")

    assert seen == ["slow_connect", "exhausted", "slow_checkout", "recovered"]


def test_a_handler_that_uses_the_exhausted_pool_is_refused_at_once(
    make_pool: MakePool, clock: Clock, log: Log, handle: Callable[[logging.Handler], None]
) -> None:
    """On the background thread it would stop maintenance, and on a waiter's the waiter is served first."""
    pool = make_pool(1)
    holder = report(pool)
    handler = PoolHandler(pool)
    handle(handler)
    waiter = waiting(pool)

    clock.advance(EXHAUSTED_AFTER)
    Task(lambda: look(pool)).result()

    eventually(lambda: len(handler.outcomes) == 1)
    assert isinstance(handler.outcomes[0], PoolDeadlock)
    assert episodes(log) == ["exhausted"]
    holder.give_back()
    waiter.result()


def test_a_handler_that_uses_the_only_connection_is_refused_at_once(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, handle: Callable[[logging.Handler], None]
) -> None:
    pool = make_pool(1, log_slow=2)
    handler = PoolHandler(pool)
    handle(handler)
    database.hooks["connect"] = lambda: clock.advance(3)

    use(pool)

    (refusal,) = handler.outcomes
    assert isinstance(refusal, PoolDeadlock)
    assert "a logging handler asked pool 'orders'" in str(refusal)
    assert counts(pool) == all_idle(1)


def test_a_handler_may_use_an_idle_connection(
    make_pool: MakePool, clock: Clock, log: Log, handle: Callable[[logging.Handler], None]
) -> None:
    pool = make_pool(2)
    holders = [report(pool), report(pool)]
    waiter = waiting(pool)
    exhaust(pool, clock, log)
    for holder in holders:
        holder.give_back()
    waiter.result()
    handler = PoolHandler(pool)
    handle(handler)

    clock.advance(RECOVERED_AFTER)
    look(pool)

    eventually(lambda: handler.outcomes == ["recovered"])


def test_the_slow_connect_of_a_handler_is_not_logged_again(
    make_pool: MakePool, database: FakeDatabase, clock: Clock, handle: Callable[[logging.Handler], None]
) -> None:
    pool = make_pool(9, log_slow=2)
    handler = PoolHandler(pool)
    handle(handler)
    database.hooks["connect"] = lambda: clock.advance(3)

    use(pool)

    assert handler.outcomes == ["slow_connect"]
    assert counts(pool) == all_idle(2)


def test_a_handler_that_raises_leaks_nothing(
    make_pool: MakePool, clock: Clock, handle: Callable[[logging.Handler], None]
) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise LookupError(record.msg)

    pool = make_pool(1, log_slow=2)
    handle(Handler())
    holder = report(pool)
    waiters = [waiting(pool), waiting(pool)]

    clock.advance(3)
    holder.give_back()

    for waiter in waiters:
        with pytest.raises(LookupError):
            waiter.result()
    assert counts(pool) == all_idle(1)

"""The decisions of a pool, without threads and connections."""

from __future__ import annotations

from wsgipool.pool._slot import PREPARING, Waiter
from wsgipool.pool._state import PoolState
from wsgipool.pool._threads import ThreadRecord


class Connection:
    """A connection without behaviour."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def test_no_thread_overtakes_a_waiter_at_a_connection_that_the_background_opened() -> None:
    state: PoolState[Connection] = PoolState(
        min_size=0, max_size=1, max_connecting=1, max_idle=60.0, needs_permits=False, has_background=lambda: True
    )
    first: Waiter[Connection] = Waiter(ThreadRecord(1), 30.0, asked=0.0)
    state.waiting.append(first)
    (opening,) = state.begin_openings([])
    state.add_connection(opening, Connection(), expires=3600.0, now=0.0)

    assert state.take_idle(ThreadRecord(2)) is None
    state.serve(0.0)

    assert first.slot is opening
    assert opening.state is not PREPARING
    assert not state.waiting

"""The operations of a pool that the tests interrupt: each from its `yield` on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from threading import get_ident

from unit.interrupted.site import Site
from wsgipool import ConnectFailed, PoolTimeout

Operation = Callable[[Site], Iterator[None]]


def checks_out_an_idle_one(site: Site) -> Iterator[None]:
    site.have_idle(2)
    yield
    site.pool.getconn().execute()


def opens_one(site: Site) -> Iterator[None]:
    site.have_idle(0)
    yield
    site.pool.getconn().execute()


def fails_to_open_one(site: Site) -> Iterator[None]:
    site.have_idle(0)
    site.server.refuses = True
    yield
    with contextlib.suppress(ConnectFailed):
        site.pool.getconn()


def waits_for_one_that_is_opened_in_the_background(site: Site) -> Iterator[None]:
    site.have_idle(1)
    site.hold(1)
    site.open_when_it_waits()
    yield
    site.pool.getconn().execute()


def waits_and_is_served(site: Site) -> Iterator[None]:
    site.have_idle(3)
    site.pool.resize(0, 1)
    site.hold(1)
    site.return_when_it_waits()
    yield
    site.pool.getconn().execute()


def waits_before_another(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    site.queue_up_when_it_waits()
    site.return_when_it_waits()
    yield
    with site.pool.connection() as session:
        session.execute()


def waits_until_its_timeout(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    yield
    with contextlib.suppress(PoolTimeout):
        site.pool.getconn(timeout=0)


def waits_and_is_served_at_the_last_moment(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.hold(1)
    site.return_when_it_waits()
    yield
    with contextlib.suppress(PoolTimeout):
        site.pool.getconn(timeout=0.0001)


def replaces_a_dead_one_by_another(site: Site) -> Iterator[None]:
    site.have_idle(2)[-1].alive = False
    yield
    site.pool.getconn().execute()


def replaces_a_dead_one_by_a_new_one(site: Site) -> Iterator[None]:
    for session in site.have_idle(2):
        session.alive = False
    yield
    with site.pool.connection() as session:
        session.execute()


def returns_one(site: Site) -> Iterator[None]:
    site.have_idle(1)
    session = site.pool.getconn()
    yield
    site.pool.putconn(session)


def returns_one_to_a_waiter(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.pool.getconn()
    site.have_waiting()
    yield
    site.pool.putconn(session)


def returns_one_that_cannot_be_reset(site: Site) -> Iterator[None]:
    site.have_idle(1)
    session = site.pool.getconn()
    session.fails_at = "rollback"
    yield
    site.pool.putconn(session)


def returns_one_that_cannot_be_reset_while_another_waits(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.pool.getconn()
    session.fails_at = "rollback"
    site.have_waiting()
    yield
    site.pool.putconn(session)


def closes(site: Site) -> Iterator[None]:
    site.have_idle(1)
    session = site.pool.getconn()
    yield
    session.close()


def closes_one_that_another_waits_for(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.pool.getconn()
    site.have_waiting()
    yield
    session.close()


def discards_one_that_another_holds(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.held_by_another()
    site.have_waiting()
    yield
    site.pool.putconn(session, discard=True)


def adopts(site: Site) -> Iterator[None]:
    site.have_only_one()
    session = site.held_by_another()
    site.have_waiting()
    yield
    site.pool.adopt(session)
    session.execute()
    site.pool.putconn(session)


def commits(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection() as session:
        session.execute()


def commits_while_another_waits(site: Site) -> Iterator[None]:
    site.have_only_one()
    block = site.pool.connection()
    with block as session:
        session.execute()
        site.have_waiting()
        yield


def cannot_commit(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with contextlib.suppress(OSError), site.pool.connection() as session:
        session.fails_at = "commit"


def only_reads(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection(readonly=True) as session:
        session.execute()


def raises(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with contextlib.suppress(KeyError), site.pool.connection() as session:
        session.execute()
        raise KeyError("no such book")


def checks_out_within_a_checkout(site: Site) -> Iterator[None]:
    site.have_idle(1)
    yield
    with site.pool.connection() as outer, site.pool.connection(readonly=True) as inner:
        outer.execute()
        inner.execute()


def ends_a_request_with_leaks(site: Site) -> Iterator[None]:
    site.have_idle(3)
    kept = [site.pool.getconn(), site.pool.getconn()]
    yield
    site.pool.reclaim(get_ident())
    kept.clear()


def ends_a_request_with_a_leak_that_another_waits_for(site: Site) -> Iterator[None]:
    site.have_only_one()
    site.pool.getconn()
    site.have_waiting()
    yield
    site.pool.reclaim(get_ident())


OPERATIONS: list[Operation] = [
    checks_out_an_idle_one,
    opens_one,
    fails_to_open_one,
    waits_for_one_that_is_opened_in_the_background,
    waits_and_is_served,
    waits_before_another,
    waits_until_its_timeout,
    waits_and_is_served_at_the_last_moment,
    replaces_a_dead_one_by_another,
    replaces_a_dead_one_by_a_new_one,
    returns_one,
    returns_one_to_a_waiter,
    returns_one_that_cannot_be_reset,
    returns_one_that_cannot_be_reset_while_another_waits,
    closes,
    closes_one_that_another_waits_for,
    discards_one_that_another_holds,
    adopts,
    commits,
    commits_while_another_waits,
    cannot_commit,
    only_reads,
    raises,
    checks_out_within_a_checkout,
    ends_a_request_with_leaks,
    ends_a_request_with_a_leak_that_another_waits_for,
]


def prepared(operation: Operation, site: Site) -> Callable[[], None]:
    """Prepare the site for an operation; return a function that runs the rest of the operation."""
    steps = operation(site)
    next(steps)
    return lambda: next(steps, None)

"""A fork while a pool is in use: the parent keeps its connections, the child begins with an empty pool."""

from __future__ import annotations

import pytest

from unit.fakes import run_python

FORK = """
import os
import warnings
from unit.fakes import FakeDatabase, Gate, Task, eventually
from wsgipool import Pool

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # that is the test

database = FakeDatabase()
pool = Pool(database, name="orders", max_size=2, timeout=5)
held, idle = pool.getconn(), pool.getconn()
pool.putconn(idle)
{before}
child = os.fork()
if child == 0:
    {child}
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
{parent}
"""


def fork(child: str, parent: str = "", before: str = "") -> str:
    return run_python(FORK.format(child=child, parent=parent, before=before))


def test_the_pool_of_a_forks_child_is_empty() -> None:
    assert fork("print(repr(pool), flush=True)") == (
        "<Pool 'orders': 0 in use, 0 connecting, 0 idle of max_size 2, 0 waiting>\n"
    )


def test_a_forks_child_closes_no_inherited_connection() -> None:
    child = "print(set(database.left_to_parent) == {held, idle}, held.closed or idle.closed, flush=True)"

    assert fork(child) == "True False\n"


def test_a_forks_child_opens_connections_of_its_own() -> None:
    child = "print(pool.getconn() in (held, idle), pool.getconn() in (held, idle), flush=True)"

    assert fork(child) == "False False\n"


def test_a_forks_child_does_not_log_that_the_parents_pool_has_recovered() -> None:
    before = """
pool.getconn()
try:
    pool.getconn(timeout=0.01)
except Exception:
    pass"""

    assert fork("print(pool._exhaustion.maintain(), flush=True)", before=before) == "None\n"


def test_the_parent_of_a_fork_keeps_its_connections() -> None:
    parent = "pool.putconn(held); print(repr(pool), pool.getconn() is held, database.left_to_parent)"

    assert fork("pass", parent) == (
        "<Pool 'orders': 0 in use, 0 connecting, 2 idle of max_size 2, 0 waiting> True []\n"
    )


PLAIN = """
pool = Pool(lambda: database.connect(1), name="orders", max_size=2{settings})
block = pool.connection()
held_in_block = block.__enter__()
error = {error}
"""


@pytest.mark.parametrize("settings", ["", ", reset=None"])
@pytest.mark.parametrize(("error", "outcome"), [("None", "ValueError"), ("KeyError()", "None")])
def test_a_forks_child_that_leaves_its_parents_block_returns_nothing(error: str, outcome: str, settings: str) -> None:
    child = """
    raised = None
    try:
        block.__exit__(type(error), error, None)
    except ValueError as refused:
        raised = type(refused).__name__
    print(raised, held_in_block.calls, repr(pool), pool.getconn() is held_in_block, flush=True)
    """
    parent = "block.__exit__(None, None, None); print(held_in_block.calls, repr(pool))"

    assert fork(child, parent, PLAIN.format(error=error, settings=settings)) == (
        f"{outcome} [] <Pool 'orders': 0 in use, 0 connecting, 0 idle of max_size 2, 0 waiting> False\n"
        "['commit'] <Pool 'orders': 0 in use, 0 connecting, 1 idle of max_size 2, 0 waiting>\n"
    )


@pytest.mark.parametrize("settings", ["", ", reset=None"])
def test_a_forks_child_cannot_return_its_parents_connection_to_a_plain_pool(
    settings: str,
) -> None:
    child = """
    try:
        pool.putconn(held)
    except ValueError as refused:
        print(type(refused).__name__, held.calls, repr(pool), flush=True)
    """
    before = f"pool = Pool(lambda: database.connect(1), name='orders', max_size=2{settings}); held = pool.getconn()"

    assert fork(child, before=before) == (
        "ValueError [] <Pool 'orders': 0 in use, 0 connecting, 0 idle of max_size 2, 0 waiting>\n"
    )


def test_a_fork_while_another_thread_holds_the_lock_leaves_the_child_a_free_lock() -> None:
    before = "Task(pool._state.lock.acquire).result()"

    assert fork("print(pool.getconn().calls, flush=True)", before=before) == "[]\n"


def test_a_fork_during_a_connect_in_the_background_leaves_two_working_pools() -> None:
    before = "database.hooks['connect'] = gate = Gate(); pool.resize(3, 3); gate.wait_until_reached()"
    child = "database.hooks.clear(); print(pool.size, pool.getconn().calls, pool.size, flush=True)"
    parent = "gate.open(); eventually(lambda: pool.idle == 2); print(repr(pool))"

    assert fork(child, parent, before) == (
        "0 [] 1\n<Pool 'orders': 1 in use, 0 connecting, 2 idle of max_size 3, 0 waiting>\n"
    )

from __future__ import annotations

import math

import pytest

from wsgipool.plan.sizing import ProcessGroup, fitting_size, pool_size, processes_alive, shrunk, waiting, worst_case


@pytest.mark.parametrize("threads", [1, 8, 64])
def test_threads_means_a_connection_per_thread(threads: int) -> None:
    assert pool_size("threads", threads) == threads


@pytest.mark.parametrize(
    ("max_size", "threads", "expected"),
    [("threads/2", 8, 4), ("threads/2", 7, 4), ("threads/3", 25, 9), ("threads/2", 1, 1), ("threads/100", 8, 1)],
)
def test_a_share_of_the_threads_is_rounded_up(max_size: str, threads: int, expected: int) -> None:
    assert pool_size(max_size, threads) == expected


@pytest.mark.parametrize(("max_size", "threads", "expected"), [(3, 8, 3), (8, 8, 8), (40, 25, 25), (10, 1, 1)])
def test_a_pool_has_at_most_a_connection_per_thread(max_size: int, threads: int, expected: int) -> None:
    assert pool_size(max_size, threads) == expected


# --- processes that exist at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "processes", "server_limit", "restarts", "expected"),
    [
        ("prefork", 150, 256, 3, 150),
        ("event", 6, 16, 3, 16),
        ("event", 6, None, 3, 6),
        ("worker", 6, 16, 0, 6),
        ("worker", 6, 16, 1, 12),
        ("worker", 1, 1, 3, 4),
        ("daemon", 4, None, 3, 4),
    ],
)
def test_how_many_processes_exist_at_once(
    mode: str, processes: int, server_limit: int | None, restarts: int, expected: int
) -> None:
    assert processes_alive(mode, processes, server_limit=server_limit, graceful_restarts=restarts) == expected


# --- the worst case and what fits ------------------------------------------------------------------------------------

CHILDREN = ProcessGroup("Apache's children", "event", processes=6, alive=16, threads=25)
DAEMONS = ProcessGroup("shop", "daemon", processes=4, alive=4, threads=15, interpreters=2)


@pytest.mark.parametrize(
    ("groups", "max_size", "hosts", "expected"),
    [
        ([CHILDREN], "threads", 1, 400),  # 16 x 25
        ([CHILDREN], "threads/2", 1, 208),  # 16 x 13
        ([CHILDREN], 5, 2, 160),  # 2 x 16 x 5
        ([DAEMONS], "threads", 1, 120),  # 4 x 2 x 15
        ([CHILDREN, DAEMONS], 20, 1, 440),  # 16 x 20 + 4 x 2 x 15
        ([], "threads", 3, 0),
    ],
)
def test_the_worst_case_is_every_connection_of_every_process(
    groups: list[ProcessGroup], max_size: int | str, hosts: int, expected: int
) -> None:
    assert worst_case(groups, max_size, hosts) == expected


@pytest.mark.parametrize(
    ("groups", "max_sizes", "connections", "hosts", "expected"),
    [
        ([CHILDREN], ["threads"], 400, 1, 25),
        ([CHILDREN], ["threads"], 399, 1, 24),
        ([CHILDREN], ["threads"], 146, 1, 9),  # 16 x 9 = 144
        ([CHILDREN], ["threads"], 146, 2, 4),  # 2 x 16 x 4 = 128
        ([CHILDREN], ["threads", "threads"], 146, 1, 4),  # two databases on one server
        ([CHILDREN], ["threads", 2], 146, 1, 7),  # 16 x 2 + 16 x 7 = 144
        ([CHILDREN, DAEMONS], ["threads"], 146, 1, 6),  # 16 x 6 + 8 x 6 = 144
        ([CHILDREN], ["threads"], 15, 1, 0),
    ],
)
def test_the_largest_size_that_fits(
    groups: list[ProcessGroup], max_sizes: list[int | str], connections: int, hosts: int, expected: int
) -> None:
    pools = [(group, max_size) for group in groups for max_size in max_sizes]

    assert fitting_size(pools, connections, hosts) == expected


@pytest.mark.parametrize(
    ("mode", "processes", "alive", "connections", "expected"),
    [
        ("prefork", 256, 256, 146, (146, 146)),
        ("event", 20, 20, 10, (10, 10)),
        ("event", 6, 16, 12, (6, 6)),  # ServerLimit falls, the processes at work need not
        ("worker", 8, 16, 10, (5, 10)),
        ("worker", 8, 16, 1, (1, 2)),
        ("daemon", 4, 4, 3, (3, 3)),
        ("daemon", 4, 4, 0, (1, 1)),
        ("daemon", 4, 4, 4, (4, 4)),
    ],
)
def test_where_pools_of_one_are_too_many_the_processes_become_fewer(
    mode: str, processes: int, alive: int, connections: int, expected: tuple[int, int]
) -> None:
    group = ProcessGroup("group", mode, processes, alive, threads=5)

    (smaller,) = shrunk([group], [1], connections)

    assert (smaller.processes, smaller.alive) == expected


def test_groups_become_smaller_by_the_same_share() -> None:
    groups = [ProcessGroup(name, "daemon", n, n, threads=5) for name, n in (("large", 30), ("small", 10))]

    assert [group.processes for group in shrunk(groups, [2, 2], 40)] == [15, 5]


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("databases", [1, 3])
def test_a_limit_for_one_process_a_group_is_enough(databases: int, hosts: int) -> None:
    groups = [
        ProcessGroup("", "prefork", 100, 100, threads=1),
        ProcessGroup("shop", "daemon", 2, 2, threads=5, interpreters=3),
        ProcessGroup("blog", "daemon", 1, 1, threads=5),
    ]
    all_of_them, least = (databases * hosts * one for one in (107, 1 + 3 + 1))

    for connections in range(least, all_of_them + 1):
        smaller = shrunk(groups, [databases, 3 * databases, databases], connections, hosts)
        assert databases * worst_case(smaller, 1, hosts) <= connections
        assert all(1 <= after.processes <= before.processes for before, after in zip(groups, smaller, strict=True))


def test_the_largest_group_shrinks_for_the_minimum_of_small_groups() -> None:
    groups = [
        ProcessGroup("", "prefork", 100, 100, threads=1),
        ProcessGroup("shop", "daemon", 2, 2, threads=5, interpreters=3),
    ]

    assert [group.processes for group in shrunk(groups, [1, 3], 29)] == [26, 1]  # 26 + 1 x 3


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_littles_law_counts_the_busy_connections() -> None:
    assert waiting(rate=200, hold=0.02, size=8).busy == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("rate", "hold", "size", "probability", "seconds"),
    [
        # One connection: C = busy, the wait of M/M/1 is busy x hold / (1 - busy).
        (50, 0.01, 1, 0.5, 0.01),
        # Two, busy 1: B = (1/2) / (1 + 1 + 1/2) = 1/5, C = 2 x 1/5 / (2 - 1 x 4/5) = 1/3; wait = 1/3 x hold / (2 - 1).
        (100, 0.01, 2, 1 / 3, 0.01 / 3),
        # Three, busy 2: B = (8/6) / (1 + 2 + 2 + 8/6) = 4/19, C = 3 x 4/19 / (3 - 2 x 15/19) = 4/9; wait = 4/9 x hold.
        (20, 0.1, 3, 4 / 9, 0.4 / 9),
        (0, 0.1, 3, 0, 0),
    ],
)
def test_the_wait_by_erlangs_formula(rate: float, hold: float, size: int, probability: float, seconds: float) -> None:
    known = waiting(rate, hold, size)

    assert [known.probability, known.seconds] == pytest.approx([probability, seconds])


def test_a_pool_that_is_always_busy_has_an_infinite_wait() -> None:
    assert waiting(rate=100, hold=0.02, size=2).seconds == math.inf

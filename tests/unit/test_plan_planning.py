"""Process groups, databases and limits side by side, and sizes that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wsgipool.plan.planning import ConnectionLimit, Database, Fit, Situation, fit, fits, rows, sums, wait_in
from wsgipool.plan.sizing import ProcessGroup

CHILDREN = ProcessGroup("", "event", processes=6, alive=16, threads=25)
DAEMONS = ProcessGroup("shop", "daemon", processes=4, alive=4, threads=15)


def limit(connections: int, *databases: str, reserve: int = 5) -> ConnectionLimit:
    return ConnectionLimit("max_connections of db", connections, reserve, databases or ("orders",), "error 1040")


def situation(
    *groups: ProcessGroup,
    limits: list[ConnectionLimit],
    databases: dict[str, int | str] | None = None,
    hosts: int = 1,
    budget: int | None = None,
    folder: str = "/run/wsgipool",
) -> Situation:
    settings = databases or {"orders": "threads"}
    known = [Database(name, size, budget=budget, folder=folder) for name, size in settings.items()]
    return Situation(groups, known, limits, hosts)


def test_a_row_is_a_group_and_a_database() -> None:
    plan = situation(CHILDREN, DAEMONS, limits=[], databases={"orders": "threads/5", "archive": 2}, hosts=2)

    assert [(row.group.name, row.database, row.pool_size, row.worst_case) for row in rows(plan)] == [
        ("", "orders", 5, 160),
        ("shop", "orders", 3, 24),
        ("", "archive", 2, 64),
        ("shop", "archive", 2, 16),
    ]


def test_databases_of_one_server_share_its_limit() -> None:
    plan = situation(DAEMONS, limits=[limit(100, "a", "b")], databases={"a": 10, "b": 15, "c": 15})

    (total,) = sums(plan)

    assert (total.worst_case, total.headroom, total.refused) == (4 * 10 + 4 * 15, -5, 5)
    assert not fits(plan)


def test_sizes_that_fit_stay_unchanged() -> None:
    found = fit(situation(DAEMONS, limits=[limit(65)], databases={"orders": "threads"}))

    assert found is not None
    assert (found.groups, found.max_sizes) == ((DAEMONS,), {"orders": "threads"})


@pytest.mark.parametrize(
    ("connections", "sizes"),
    [
        (151, {"orders": 9}),  # 146 / 16
        (21, {"orders": 1}),
    ],
)
def test_pools_become_smaller_before_processes_become_fewer(connections: int, sizes: dict[str, int | str]) -> None:
    found = fit(situation(CHILDREN, limits=[limit(connections)]))

    assert found is not None
    assert (found.groups, found.max_sizes) == ((CHILDREN,), sizes)


def test_where_pools_of_one_do_not_fit_processes_become_fewer() -> None:
    found = fit(situation(ProcessGroup("", "prefork", 256, 256, 1), limits=[limit(151)], hosts=2))

    assert found is not None
    assert found.groups == [ProcessGroup("", "prefork", 73, 73, 1)]  # 2 x 73 = 146
    assert found.max_sizes == {"orders": "threads"}


def test_nothing_fits_only_if_one_process_a_group_is_too_many() -> None:
    groups = [ProcessGroup("", "prefork", 100, 100, 1), replace(DAEMONS, processes=2, alive=2, interpreters=3)]

    fitting = [total for total in range(1, 31) if fit(situation(*groups, limits=[limit(total, reserve=0)]))]

    assert fitting == list(range(4, 31))  # one child, and one daemon process with three interpreters


def test_a_small_max_size_stays_and_the_others_get_the_rest() -> None:
    found = fit(situation(DAEMONS, limits=[limit(45, "a", "b")], databases={"a": 2, "b": "threads"}))

    assert found is not None
    assert found.max_sizes == {"a": 2, "b": 8}  # 4 x 2 + 4 x 8 = 40


def test_the_tightest_limit_decides() -> None:
    account = ConnectionLimit("max_user_connections of shop", 20, 0, ("a",), "error 1226")

    found = fit(situation(DAEMONS, limits=[limit(200, "a", "b"), account], databases={"a": "threads", "b": "threads"}))

    assert found is not None
    assert found.max_sizes == {"a": 5, "b": "threads"}


@pytest.mark.parametrize(("others", "usable"), [(0, 60), (5, 60), (29, 36), (70, 0)])
def test_others_keep_the_reserve_or_what_they_have_now(others: int, usable: int) -> None:
    occupied = replace(limit(65), others=others)

    assert occupied.usable == usable
    assert fits(situation(DAEMONS, limits=[occupied])) is (usable == 60)


def test_a_budget_caps_the_worst_case_of_any_sizes() -> None:
    plan = situation(CHILDREN, limits=[limit(151)], hosts=2, budget=70)

    assert [(total.worst_case, total.headroom) for total in sums(plan)] == [(140, 6)]
    assert fit(plan) == Fit((CHILDREN,), {"orders": "threads"})


def test_each_user_has_a_budget_without_a_runtime_dir() -> None:
    groups = [
        ProcessGroup("", "prefork", 100, 100, 1, user="www-data"),
        ProcessGroup("shop", "daemon", 50, 50, 1, user="shop"),
        ProcessGroup("blog", "daemon", 4, 4, 1, user="blog"),
        ProcessGroup("old", "daemon", 4, 4, 1, user="shop"),
    ]
    (one,) = sums(situation(*groups, limits=[limit(151)], budget=40))
    (three,) = sums(situation(*groups, limits=[limit(151)], budget=40, folder=""))

    assert (one.worst_case, three.worst_case) == (40, 40 + 40 + 4)


def test_a_budget_that_is_never_used_up_adds_nothing() -> None:
    (total,) = sums(situation(DAEMONS, limits=[limit(151)], budget=140))

    assert total.worst_case == 60


def test_no_sizes_fit_a_budget_that_is_too_large() -> None:
    assert fit(situation(CHILDREN, limits=[limit(151)], budget=150)) is None


def test_a_database_has_pools_in_the_groups_of_its_site_only() -> None:
    shop = Database("orders", "threads", {"shop": 2})
    children = Database("blog", 1, {"": 1})
    plan = Situation([CHILDREN, DAEMONS], [shop, children], [limit(200, "orders", "blog")])

    assert [(row.group.name, row.database, row.worst_case) for row in rows(plan)] == [
        ("shop", "orders", 4 * 2 * 15),
        ("", "blog", 16),
    ]
    assert [total.worst_case for total in sums(plan)] == [120 + 16]


def test_sites_with_folders_of_their_own_have_a_budget_each() -> None:
    sites = [Database(name, "threads", {name: 1}, budget=40, folder=f"/run/{name}") for name in ("shop", "blog")]
    groups = [DAEMONS, replace(DAEMONS, name="blog")]

    (apart,) = sums(Situation(groups, sites, [limit(151, "shop", "blog")]))
    (together,) = sums(
        Situation(groups, [replace(site, folder="/run/a") for site in sites], [limit(151, "shop", "blog")])
    )

    assert (apart.worst_case, together.worst_case) == (80, 40)


def test_pools_without_a_budget_get_what_a_budget_beside_them_leaves() -> None:
    shop = Database("orders", "threads", {"shop": 1}, budget=40, folder="/run/shop")
    blog = Database("blog", "threads", {"blog": 1})
    plan = Situation([DAEMONS, replace(DAEMONS, name="blog")], [shop, blog], [limit(65, "orders", "blog")])

    found = fit(plan)

    assert found is not None
    assert found.max_sizes == {"orders": "threads", "blog": 5}  # 65 - 5 - 40 = 4 x 5


def test_only_groups_with_pools_become_smaller() -> None:
    blog = replace(DAEMONS, name="blog", processes=2, alive=2)
    plan = Situation([DAEMONS, blog], [Database("orders", 1, {"shop": 1})], [limit(2, "orders", reserve=0)])

    found = fit(plan)

    assert found is not None
    assert [group.processes for group in found.groups] == [2, 2]


def test_without_a_limit_everything_fits() -> None:
    plan = situation(CHILDREN, limits=[])

    assert fits(plan)
    assert fit(plan) is not None


def test_requests_spread_over_all_processes() -> None:
    plan = situation(DAEMONS, limits=[], hosts=2)

    # 80 requests a second on 2 x 4 processes, 0.1 s each.
    assert wait_in(plan, rows(plan)[0], 80, 0.1, 15).busy == pytest.approx(1.0)

"""What an operator is told first about a host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from unit.reports import ADDRESS, NOW, budget, full_pool, holder, host, pool, process, sample
from wsgipool.scoreboard.findings import CODES, SEVERITIES, Finding, findings
from wsgipool.scoreboard.model import ClosedPools, HostReport, Totals

METRICS = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def found(report: HostReport, code: str) -> Finding:
    """Return the only finding, which has this code."""
    (finding,) = findings(report)
    assert finding.code == code
    return finding


def codes(report: HostReport) -> list[str]:
    return [finding.code for finding in findings(report)]


def test_a_host_at_rest_has_no_findings() -> None:
    assert codes(host(process(1), process(2))) == []


def test_a_host_without_processes_has_no_findings() -> None:
    assert codes(host()) == []


# --- Now -------------------------------------------------------------------------------------------------------------


def test_an_exhausted_pool_names_the_page_the_process_and_the_time() -> None:
    finding = found(host(process(100, [full_pool()])), "pool-exhausted")

    assert finding == Finding(
        "critical",
        "pool-exhausted",
        "orders",
        "3 threads of 1 process wait for a connection (for 9 s so far): all 4 are in use. The longest holder is "
        "/report in process 100, for 30 s; it waits for the database, at /srv/shop/views.py:77 in report. 3 of 4 "
        "holders are /report.",
        "Make the queries of /report faster. max_size is 4, enough for each of the 4 threads: look for requests that "
        "take a second connection, and for threads of your own.",
    )


def test_an_exhausted_pool_with_more_threads_than_connections_can_grow() -> None:
    finding = found(host(process(1, [full_pool()], threads=25)), "pool-exhausted")

    assert finding.advice.endswith("Raise max_size in [databases.orders], which is 4 for 25 threads of a process.")


def test_a_page_that_works_without_the_database_should_return_its_connection() -> None:
    holders = [holder("/pdf", 9, doing="runs, at /srv/shop/pdf.py:7 in draw")]

    finding = found(host(process(1, [full_pool(holders=holders)])), "pool-exhausted")

    assert finding.advice.startswith("Let /pdf return its connection before work that needs no database. ")


def test_outside_httpd_the_size_of_an_exhausted_pool_is_the_advice() -> None:
    finding = found(host(process(1, [full_pool()], mpm="", threads=0, generation=None)), "pool-exhausted")

    assert finding.advice.endswith("Raise max_size in [databases.orders], which is 4.")


def test_no_page_is_blamed_for_an_exhausted_pool_that_many_pages_hold() -> None:
    holders = [holder(f"/{letter}", 1) for letter in "abcd"]

    finding = found(host(process(1, [full_pool(holders=holders)], threads=25)), "pool-exhausted")

    assert "of 4 holders" not in finding.text
    assert finding.advice.startswith("Raise max_size")


def test_threads_have_waited_as_long_as_the_history_says() -> None:
    history = [sample(300, orders={}), sample(240, orders={"waiting": 1}), sample(120, orders={"waiting": 2})]

    finding = found(host(process(1, [full_pool()]), history=history), "pool-exhausted")

    assert "wait for a connection (for 4 min so far):" in finding.text


def test_the_exhausted_pools_of_all_processes_are_one_finding() -> None:
    finding = found(host(process(1, [full_pool()]), process(2, [full_pool()]), process(3)), "pool-exhausted")

    assert finding.text.startswith("6 threads of 2 processes wait for a connection (for 9 s so far): all 8 are in use.")


def test_a_full_pool_without_waiting_threads_is_not_exhausted() -> None:
    assert "pool-exhausted" not in codes(host(process(1, [full_pool(waiting=0)])))


def test_a_holder_outside_requests_is_named_by_its_place() -> None:
    holders = [holder("", 9, doing="runs")]

    finding = found(host(process(1, [full_pool(holders=holders)])), "pool-exhausted")

    assert "holder is /srv/shop/views.py:42 in orders in process 1, for 9 s; it runs." in finding.text


def test_the_checkout_of_a_holder_that_went_on_to_other_code_is_named() -> None:
    holders = [holder("/orders", 9, doing="runs, at /srv/shop/pdf.py:7 in draw")]

    finding = found(host(process(1, [full_pool(holders=holders)])), "pool-exhausted")

    assert "for 9 s, from /srv/shop/views.py:42 in orders; it runs, at /srv/shop/pdf.py:7 in draw." in finding.text


def test_names_and_paths_of_strangers_cannot_write_to_a_terminal() -> None:
    holders = [holder("/\x1b[2J" + "x" * 5000, 9)]

    finding = found(host(process(1, [full_pool(name="a\nb", holders=holders)])), "pool-exhausted")

    assert (finding.text + finding.advice).isprintable()
    assert len(finding.text) < 1000


def test_an_exhausted_budget_names_who_has_most() -> None:
    pools = [pool(idle=0, in_use=10, budget=budget(held=10), holders=[holder("/report", 4)])]
    waiters = [holder("/orders", 3), holder("/orders", 2)]
    starved = [pool(waiting=2, idle=0, in_use=1, budget=budget(held=1, is_starved=True), waiters=waiters)]

    finding = found(host(process(1, pools, threads=4), process(2, starved)), "budget-exhausted")

    assert finding.severity == "critical"
    assert finding.database == "orders"
    assert finding.text == (
        "All 15 connections that the budget of db.example:3306 allows this host are taken, and 2 threads of 1 pool "
        "(orders) wait for one (for 3 s so far): process 1 has 10 and process 2 has 1. The longest holder is /report "
        "in process 1, for 4 s; it waits for the database, at /srv/shop/views.py:42 in orders."
    )
    assert finding.advice.startswith("Make the queries of /report faster. Raise connections in [budget]")


@pytest.mark.parametrize("use", [budget(taken=14, is_starved=True), budget(), budget(limit=None, is_starved=True)])
def test_a_budget_with_permits_or_without_starved_pools_is_not_exhausted(use: Any) -> None:
    assert codes(host(process(1, [pool(budget=use)]))) == []


def test_connects_that_fail_are_named_with_their_error() -> None:
    down = pool(failure="OperationalError: connection refused", waiting=1, totals=Totals(connect_failures=7))

    finding = found(host(process(1), process(2, [down])), "connects-failing")

    assert finding.text == (
        "1 of 2 pools cannot open a connection: OperationalError: connection refused (process 2; 7 connects failed so "
        "far)."
    )


def test_a_failure_of_which_no_process_has_recovered_is_a_finding() -> None:
    assert codes(host(process(1, [pool(failure="refused", idle=0)]))) == ["connects-failing"]


def test_an_old_failure_of_a_process_without_requests_is_no_finding() -> None:
    assert codes(host(process(1), process(2, [pool(failure="refused", idle=0)]))) == []


def test_a_thread_that_holds_a_connection_for_long_is_named() -> None:
    holders = [holder("/export", 65), holder("/orders", 1)]

    finding = found(host(process(1, [pool(in_use=2, holders=holders)])), "long-holder")

    assert finding.text.startswith("1 thread holds a connection for more than 5 s. The longest holder is /export in")


# --- The last minutes ------------------------------------------------------------------------------------------------


def test_timeouts_of_the_last_minutes_are_counted_and_no_older_ones() -> None:
    history = [
        sample(500, orders={"timeouts": 1}),
        sample(240, orders={"timeouts": 5, "checkouts": 900}),
        sample(1, orders={"timeouts": 8, "checkouts": 990}),
    ]
    totals = Totals(checkouts=1000, timeouts=8)

    finding = found(host(process(1, [pool(totals=totals)]), history=history), "checkouts-timed-out")

    assert finding.text.startswith("In the last 4 min, 3 of 103 checkouts got no connection in time")


def test_old_timeouts_are_no_finding() -> None:
    history = [sample(240, orders={"timeouts": 8})]

    assert codes(host(process(1, [pool(totals=Totals(timeouts=8))]), history=history)) == []


def test_counts_of_removed_files_are_no_timeouts() -> None:
    history = [sample(240, orders={"timeouts": 9, "checkouts": 9000, "wait_seconds": 9000.0})]

    assert codes(host(process(1), history=history)) == []


def test_threads_that_waited_in_the_last_minutes_are_a_finding() -> None:
    history = [sample(100, orders={"wait_seconds": 50.0})]
    totals = Totals(checkouts=1000, wait_seconds=200.0)

    finding = found(host(process(1, [pool(totals=totals)]), history=history), "threads-waited")

    assert finding.text == "In the last 100 s, 1.5 threads waited for a connection on average."


def test_a_wait_that_ended_just_now_is_no_average() -> None:
    history = [sample(5, orders={"wait_seconds": 0.0})]

    assert codes(host(process(1, [pool(totals=Totals(wait_seconds=200.0))]), history=history)) == []


def test_the_last_minutes_include_processes_that_have_ended() -> None:
    history = [sample(60, orders={"timeouts": 2})]
    ended = [ClosedPools("orders", ADDRESS, Totals(timeouts=4))]

    assert codes(host(history=history, ended=ended)) == ["checkouts-timed-out"]


# --- Since the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("totals", "code", "text"),
    [
        (
            Totals(checkouts=50, closed={"leaked": 2}),
            "connections-leaked",
            "2 connections of 50 checkouts were not returned, and had to be closed.",
        ),
        (
            Totals(checkouts=1000, reset_failures=10),
            "resets-failing",
            "10 of 1000 returned connections could not be cleaned, and were closed.",
        ),
        (
            Totals(checkouts=1000, opened=10, create_seconds=50),
            "connects-slow",
            "Opening a connection took 5 s on average, 10 times.",
        ),
        (
            Totals(checkouts=300, opened=100, closed={"idle": 80, "broken": 1}),
            "connections-not-reused",
            "100 connections were opened for 300 checkouts. Most were closed as idle (80).",
        ),
        (
            Totals(refused=1),
            "requests-refused",
            "1 checkout was refused since the start, because too many threads waited (TooManyRequests).",
        ),
    ],
)
def test_counters_that_tell_of_trouble_are_findings(totals: Totals, code: str, text: str) -> None:
    assert found(host(process(1, [pool(totals=totals)])), code).text == text


@pytest.mark.parametrize(
    "totals",
    [
        Totals(checkouts=10_000, reset_failures=99),
        Totals(checkouts=10, reset_failures=9),
        Totals(checkouts=1000, opened=9, create_seconds=50),
        Totals(checkouts=1000, opened=10, create_seconds=1),
        Totals(checkouts=99, opened=99),
        Totals(checkouts=1000, opened=200),
    ],
)
def test_counters_within_bounds_are_no_findings(totals: Totals) -> None:
    assert codes(host(process(1, [pool(totals=totals)]))) == []


def test_trouble_of_ended_processes_is_over() -> None:
    totals = Totals(checkouts=300, opened=100, reset_failures=50, refused=9, closed={"leaked": 2}, create_seconds=500)

    assert codes(host(ended=[ClosedPools("orders", ADDRESS, totals)])) == []


def test_processes_that_end_after_few_requests_do_not_reuse_connections() -> None:
    ended = [ClosedPools("orders", ADDRESS, Totals(checkouts=300, opened=100))]
    young = pool(totals=Totals(checkouts=3, opened=1))

    assert codes(host(process(1, [young]), ended=ended)) == ["connections-not-reused"]


@pytest.mark.parametrize("reason", ["idle", "lifetime", "broken", "budget", "leaked", "surplus"])
def test_the_advice_to_reuse_connections_depends_on_why_they_are_closed(reason: str) -> None:
    totals = Totals(checkouts=300, opened=100, closed={reason: 80})

    finding = findings(host(process(1, [pool(totals=totals)])))[-1]

    setting = {"idle": "max_idle in [databases.orders]", "lifetime": "max_lifetime in [databases.orders]"}
    setting |= {"broken": "wait_timeout", "budget": "[budget]", "leaked": "with ", "surplus": "MaxConnectionsPerChild"}
    assert setting[reason] in finding.advice


# --- Processes -------------------------------------------------------------------------------------------------------


def test_a_process_that_does_not_report_is_named() -> None:
    late = process(2, [pool(in_use=1)], at=NOW - 60)

    finding = found(host(process(1), late), "report-late")

    assert finding.text == "Process 2 has not reported for up to 60 s, so its numbers are old."


def test_a_process_without_connections_in_use_has_nothing_to_report() -> None:
    assert codes(host(process(1, at=NOW - 60))) == []


def test_processes_of_before_a_restart_that_keep_connections_are_named() -> None:
    old = [process(pid, [pool(in_use=1, holders=[holder("/export", 4)])]) for pid in range(1, 6)]
    new = process(9, generation=1, started=NOW - 60)

    finding = found(host(*old, new), "old-generation")

    assert finding.text.startswith(
        "Processes 1, 2, 3 and 2 more of before the last restart have 15 connections still. "
    )


def test_old_processes_have_time_to_finish_after_a_restart() -> None:
    assert codes(host(process(1), process(2, generation=1, started=NOW - 29))) == []


def test_a_stopping_process_with_connections_is_named() -> None:
    finding = found(host(process(1, is_stopping=True), process(2)), "process-stopping")

    assert finding.text == "Process 1 stops and has 2 connections until the last request ends."


def test_interpreters_named_by_the_request_are_a_finding() -> None:
    finding = found(host(process(1, application_group="localhost:8080|/shop")), "interpreter-per-host-name")

    assert finding.text.startswith(
        "1 interpreter has a name that comes from the request, such as localhost:8080|/shop."
    )


def test_one_name_for_two_databases_is_a_finding() -> None:
    other = process(2, [pool(address="mysql://shop@test/orders")], settings="")

    finding = found(host(process(1), other), "name-of-two-databases")

    assert finding.text == (
        f"Processes use this name for 2 databases: {ADDRESS} (/srv/shop/wsgipool.toml) and mysql://shop@test/orders "
        "(without a settings file). The plots add them up."
    )


# --- Sizes -----------------------------------------------------------------------------------------------------------


def test_a_pool_larger_than_the_threads_of_its_process_is_a_finding() -> None:
    finding = found(host(process(1, [pool(max_size=40)])), "pool-larger-than-threads")

    assert finding.text == "max_size is 40, but process 1 (daemon shop) has 4 threads."


def test_a_pool_outside_httpd_may_be_larger_than_its_process() -> None:
    assert codes(host(process(1, [pool(max_size=40)], mpm="", process_group="", generation=None))) == []


def test_a_pool_that_its_load_never_filled_is_a_finding() -> None:
    rested = pool(max_size=25, max_in_use=3, totals=Totals(checkouts=20_000, opened=3))

    finding = found(host(process(1, [rested], threads=25, started=NOW - 7200)), "pool-never-full")

    assert finding.text == "No process has had more than 3 of 25 connections in use at the same time."


@pytest.mark.parametrize(("checkouts", "age"), [(9_999, 7200), (20_000, 3599)])
def test_a_pool_is_not_called_too_large_before_its_load_is_known(checkouts: int, age: int) -> None:
    rested = pool(max_size=25, max_in_use=3, totals=Totals(checkouts=checkouts, opened=3))

    assert codes(host(process(1, [rested], threads=25, started=NOW - age))) == []


# --- All -------------------------------------------------------------------------------------------------------------


def test_the_worst_findings_come_first() -> None:
    report = host(process(1, [pool(max_size=40), full_pool(name="stock")], at=NOW - 60, is_stopping=True))

    severities = [finding.severity for finding in findings(report)]

    assert severities == sorted(severities, key=SEVERITIES.index)
    assert set(severities) == set(SEVERITIES)


def test_the_reference_lists_every_code_with_its_severity() -> None:
    section = METRICS.read_text().split("## Findings\n")[1].split("\n## ")[0]

    assert dict(re.findall(r"(?m)^\| `([a-z-]+)` \| (\w+) \|", section)) == CODES


def test_codes_are_listed_from_the_worst_to_the_least() -> None:
    severities = list(CODES.values())

    assert severities == sorted(severities, key=SEVERITIES.index)

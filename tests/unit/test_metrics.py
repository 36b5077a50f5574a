"""The metrics of a host, and how /wsgipool-metrics writes them."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from unit.fakes import run_python
from unit.hosts import ADDRESS, LOCKS, POOL, PROCESS, SERVER, TOTALS, buckets, host, two_processes
from wsgipool import histogram, pools
from wsgipool.errors import ConfigError
from wsgipool.handlers.metrics import application
from wsgipool.scoreboard import metrics, reading
from wsgipool.scoreboard.model import BudgetUse, HostReport

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
"""The Accept header of Prometheus."""

ORDERS = {"db_client_connection_pool_name": "orders", "address": ADDRESS}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that sets the report of the host."""
    monkeypatch.setattr(pools, "runtime_dir", lambda: tmp_path)

    def set_report(of_host: HostReport) -> None:
        monkeypatch.setattr(reading, "host", lambda _: (of_host, LOCKS))

    set_report(two_processes())
    return set_report


def get(query: str = "", **headers: str) -> tuple[str, dict[str, str], str]:
    """Return status, headers and body of an answer."""
    answered: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "", "QUERY_STRING": query, **headers}
    body = application(environ, lambda *arguments: answered.extend(arguments))
    return answered[0], dict(answered[1]), b"".join(body).decode()


def scrape() -> dict[str, Metric]:
    _, _, body = get()
    return {family.name: family for family in parse_text(body)}


def value(name: str, **labels: str) -> float | None:
    """Return the value of a sample, None if it is missing."""
    samples = [sample for family in scrape().values() for sample in family.samples if sample.name == name]
    found = [sample.value for sample in samples if sample.labels == labels]
    assert len(found) < 2
    return found[0] if found else None


# --- the two formats -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
def test_both_formats_parse_and_say_the_same() -> None:
    plain, openmetrics = get(), get(HTTP_ACCEPT=OPENMETRICS)

    assert plain[1]["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics[1]["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    samples = [
        {sample for family in families for sample in map(plain_sample, family.samples)}
        for families in (parse_text(plain[2]), parse_openmetrics(openmetrics[2]))
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) > 50


def plain_sample(sample: Any) -> tuple[str, frozenset[tuple[str, str]], float]:
    return sample.name, frozenset(sample.labels.items()), sample.value


@pytest.mark.usefixtures("report")
def test_promtool_dislikes_only_a_name_of_opentelemetry() -> None:
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=get()[2], capture_output=True, text=True, check=False
    )

    assert found.stderr.splitlines() == [
        'db_client_connection_count non-histogram and non-summary metrics should not have "_count" suffix'
    ]


def test_every_metric_has_one_name_and_its_own_labels(report: Any) -> None:
    report(host())
    families = scrape()

    assert list(families) == [metrics.prometheus_name(metric) for metric in metrics.every_metric()]
    assert len(set(families)) == len(families)


@pytest.mark.usefixtures("report")
def test_a_scrape_may_name_the_metrics_that_it_wants() -> None:
    _, _, body = get("name[]=wsgipool_checkouts_total&name[]=db_client_connection_max")

    assert [family.name for family in parse_text(body)] == ["db_client_connection_max", "wsgipool_checkouts"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "größe \N{SNOWMAN}", "{le=1}"])
def test_a_name_of_a_pool_with_any_character_is_written_and_read(name: str, report: Any) -> None:
    report(host(replace(PROCESS, pools=[replace(POOL, name=name)])))

    for families in (parse_text(get()[2]), parse_openmetrics(get(HTTP_ACCEPT=OPENMETRICS)[2])):
        (maximum,) = [family.samples for family in families if family.name == "db_client_connection_max"]
        assert [sample.labels["db_client_connection_pool_name"] for sample in maximum] == [name]


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("db_client_connection_count", {**ORDERS, "db_client_connection_state": "idle"}, 4),
        ("db_client_connection_count", {**ORDERS, "db_client_connection_state": "used"}, 6),
        ("db_client_connection_count", {**ORDERS, "db_client_connection_state": "connecting"}, 2),
        ("db_client_connection_max", ORDERS, 16),
        ("db_client_connection_pending_requests", ORDERS, 8),
        ("wsgipool_pools", ORDERS, 2),
        ("wsgipool_pools_failing", ORDERS, 1),
        ("wsgipool_pools_starved", ORDERS, 1),
        ("wsgipool_permits_held", ORDERS, 14),
        ("wsgipool_budget_limit", {"server": SERVER}, 15),
        ("wsgipool_budget_taken", {"server": SERVER}, 15),
        ("wsgipool_processes", {"place": "daemon shop", "state": "running"}, 1),
        ("wsgipool_processes", {"place": "daemon shop", "state": "stopping"}, 1),
        ("wsgipool_caches_size", {"cache": "prices"}, 7),
    ],
)
def test_gauges_add_up_the_live_processes(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(name, **labels) == expected


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("wsgipool_checkouts_total", ORDERS, 1020),
        ("wsgipool_waits_total", ORDERS, 4),
        ("wsgipool_refused_total", ORDERS, 12),
        ("wsgipool_connections_opened_total", ORDERS, 15),
        ("wsgipool_connections_closed_total", {**ORDERS, "reason": "idle"}, 6),
        ("wsgipool_connections_closed_total", {**ORDERS, "reason": "leaked"}, 3),
        ("wsgipool_connections_closed_total", {**ORDERS, "reason": "broken"}, 0),
        ("wsgipool_connects_failed_total", ORDERS, 18),
        ("wsgipool_resets_failed_total", ORDERS, 21),
        ("db_client_connection_timeouts_total", ORDERS, 9),
        ("wsgipool_processes_ended_total", {}, 3),
        ("wsgipool_locks_turns_total", {"lock": "stock", "scope": "host", "database": ""}, 60),
        ("wsgipool_locks_contended_total", {"lock": "stock", "scope": "host", "database": ""}, 20),
        ("wsgipool_locks_timeouts_total", {"lock": "stock", "scope": "host", "database": ""}, 1),
        ("wsgipool_caches_hits_total", {"cache": "prices"}, 50),
        ("wsgipool_caches_errors_total", {"cache": "prices"}, 5),
    ],
)
def test_counters_include_ended_processes(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(name, **labels) == expected


@pytest.mark.usefixtures("report")
def test_a_checkout_without_a_wait_is_in_the_lowest_bucket() -> None:
    name = "db_client_connection_wait_time_seconds"

    assert value(f"{name}_bucket", **ORDERS, le="0.001") == 1020 - 4
    assert value(f"{name}_bucket", **ORDERS, le="0.1") == 1020 - 2
    assert value(f"{name}_bucket", **ORDERS, le="+Inf") == value(f"{name}_count", **ORDERS) == 1020
    assert value(f"{name}_sum", **ORDERS) == pytest.approx(3 * 0.26)


def test_the_buckets_of_a_histogram_are_exact(report: Any) -> None:
    times = [random.uniform(0.5, 20) * 10 ** random.randint(-5, 0) for _ in range(500)] + list(metrics.BOUNDS)
    report(host(replace(PROCESS, pools=[replace(POOL, totals=replace(TOTALS, use_time=buckets(*times)))])))

    for bound in metrics.BOUNDS:
        found = value("db_client_connection_use_time_seconds_bucket", **ORDERS, le=str(bound))
        assert found == sum(time <= bound for time in times)


def test_the_bounds_are_among_those_of_the_scoreboard() -> None:
    assert set(metrics.BOUNDS) <= set(histogram.BOUNDS)


def test_a_pool_without_a_budget_has_no_numbers_of_one(report: Any) -> None:
    report(host(replace(PROCESS, pools=[replace(POOL, budget=None)])))

    assert value("wsgipool_permits_held", **ORDERS) is None
    assert value("wsgipool_pools_starved", **ORDERS) == 0
    assert value("wsgipool_budget_taken", server=SERVER) is None


def test_a_limit_that_is_not_known_yet_is_missing(report: Any) -> None:
    report(host(replace(PROCESS, pools=[replace(POOL, budget=BudgetUse(SERVER, "/run/budget", None, 3, 3, False))])))

    assert value("wsgipool_budget_limit", server=SERVER) is None
    assert value("wsgipool_budget_taken", server=SERVER) == 3


def test_two_budgets_for_one_server_are_added_up(report: Any) -> None:
    other = replace(POOL, name="archive", budget=BudgetUse(SERVER, "/run/other", 5, 2, 2, False))
    report(host(replace(PROCESS, pools=[POOL, other])))

    assert value("wsgipool_budget_limit", server=SERVER) == 15 + 5
    assert value("wsgipool_budget_taken", server=SERVER) == 14 + 2


def test_the_number_of_series_does_not_depend_on_the_number_of_processes(report: Any) -> None:
    report(host(PROCESS))
    of_one = len(get()[2].splitlines())
    report(host(*(replace(PROCESS, pid=pid) for pid in range(100, 164))))

    assert len(get()[2].splitlines()) == of_one


# --- answers without numbers -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
def test_a_foreign_name_gets_no_metrics() -> None:
    status, _, body = get(HTTP_HOST="evil.example", SERVER_NAME="shop.example")

    assert status == "421 Misdirected Request"
    assert "'evil.example'" in body
    assert get(HTTP_HOST="shop.example:80", SERVER_NAME="shop.example")[0] == "200 OK"


def test_wrong_settings_are_answered_503_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> Path:
        raise ConfigError("/etc/wsgipool.toml: no url")

    monkeypatch.setattr(pools, "runtime_dir", wrong)

    assert get() == (
        "503 Service Unavailable",
        {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "27"},
        "/etc/wsgipool.toml: no url\n",
    )


def test_without_the_package_the_answer_and_the_log_say_how_to_install_it() -> None:
    printed = run_python("""
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
sys.modules["prometheus_client"] = None
from wsgipool.handlers.metrics import application
for _ in range(2):
    print(*application({"REQUEST_METHOD": "GET"}, lambda status, headers: print(status)))
""")

    assert printed.count("503 Service Unavailable\n") == 2
    assert printed.count("WARNING the metrics need the package prometheus-client: ") == 1
    assert "/pip install 'wsgipool[metrics]'" in printed

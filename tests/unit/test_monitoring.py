"""The alerts for Prometheus and the dashboard for Grafana."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsgipool.scoreboard.metrics import every_metric, prometheus_label, prometheus_name

ROOT = Path(__file__).parents[2]
RULES = ROOT / "apache" / "prometheus-rules.yaml"
ALERTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "apache" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
SERIES = {prometheus_name(metric) + suffix for metric in every_metric() for suffix in SUFFIXES[metric.kind]}
LABELS = {prometheus_label(label) for metric in every_metric() for label in metric.labels}


def names_in(expression: str) -> set[str]:
    """Return the names of the series that an expression reads."""
    return set(re.findall(r"\b(?:wsgipool|db_client_connection)_\w+", expression)) - LABELS


# --- the alerts ------------------------------------------------------------------------------------------------------


def promtool(*arguments: str | Path) -> str:
    outcome = subprocess.run(
        ["promtool", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", RULES)


POOL = 'instance="web1",db_client_connection_pool_name="orders",address="mysql://db/orders"'
QUIET = {
    'up{job="wsgipool",instance="web1"}': "1x60",
    f"db_client_connection_pending_requests{{{POOL}}}": "0x60",
    f'db_client_connection_count{{{POOL},db_client_connection_state="idle"}}': "3x60",
    f"db_client_connection_timeouts_total{{{POOL}}}": "7x60",
    f"wsgipool_refused_total{{{POOL}}}": "7x60",
    f"wsgipool_pools_starved{{{POOL}}}": "0x60",
    f"wsgipool_connects_failed_total{{{POOL}}}": "7x60",
    f"wsgipool_pools_failing{{{POOL}}}": "0x60",
    f'wsgipool_connections_closed_total{{{POOL},reason="leaked"}}': "7x60",
    f'wsgipool_connections_closed_total{{{POOL},reason="idle"}}': "0+7x60",
    f'db_client_connection_wait_time_seconds_bucket{{{POOL},le="0.1"}}': "0+1000x60",
    f"db_client_connection_wait_time_seconds_count{{{POOL}}}": "0+1000x60",
}
"""The series of a host without trouble, a value a minute, in promtool's notation."""

EXHAUSTED = {
    f"db_client_connection_pending_requests{{{POOL}}}": "4x60",
    f'db_client_connection_count{{{POOL},db_client_connection_state="idle"}}': "0x60",
}


@pytest.mark.parametrize(
    ("changes", "alerts"),
    [
        ({}, []),
        ({'up{job="wsgipool",instance="web1"}': "0x60"}, ["WsgipoolMetricsAbsent"]),
        ({'up{job="wsgipool",instance="web1"}': "_x60"}, ["WsgipoolMetricsAbsent"]),
        (EXHAUSTED, ["WsgipoolPoolExhausted"]),
        ({f"db_client_connection_pending_requests{{{POOL}}}": "4x60"}, []),  # a connection is idle: they get it
        (
            {f"db_client_connection_wait_time_seconds_count{{{POOL}}}": "0+1020x60"},
            ["WsgipoolSlowCheckouts"],
        ),
        ({f"db_client_connection_timeouts_total{{{POOL}}}": "0+1x60"}, ["WsgipoolTimeouts"]),
        ({f"wsgipool_refused_total{{{POOL}}}": "0+1x60"}, ["WsgipoolTimeouts"]),
        ({f"wsgipool_pools_starved{{{POOL}}}": "2x60"}, ["WsgipoolBudgetUsedUp"]),
        ({f"wsgipool_connects_failed_total{{{POOL}}}": "0+1x60"}, ["WsgipoolConnectFailures"]),
        ({f"wsgipool_pools_failing{{{POOL}}}": "1x60"}, ["WsgipoolConnectFailures"]),
        ({f'wsgipool_connections_closed_total{{{POOL},reason="leaked"}}': "7x10 8x50"}, ["WsgipoolLeaks"]),
    ],
)
def test_an_alert_fires_at_its_trouble_and_at_no_other(
    changes: dict[str, str], alerts: list[str], tmp_path: Path
) -> None:
    series = [{"series": name, "values": values} for name, values in {**QUIET, **changes}.items()]
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "30m",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
    }
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": [firing]}]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))

    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_reads_known_series_and_leads_to_its_runbook(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"(?m)^#+ (.+)$", (ROOT / page).read_text())

    assert names_in(alert["expr"]) <= SERIES
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


# --- the dashboard ---------------------------------------------------------------------------------------------------


def test_the_panels_of_the_dashboard_have_numbers_of_their_own_and_say_what_they_show() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]

    assert len(set(numbers)) == len(numbers)
    assert all(panel["title"] and panel["description"] for panel in PANELS)


def test_the_dashboard_reads_known_series_only() -> None:
    assert set().union(*map(names_in, EXPRESSIONS)) <= SERIES


def test_the_dashboard_shows_every_metric_of_a_database() -> None:
    shown = set().union(*map(names_in, EXPRESSIONS))
    missing = {
        prometheus_name(metric)
        for metric in every_metric()
        if "address" in metric.labels and not shown & {prometheus_name(metric) + each for each in SUFFIXES[metric.kind]}
    }

    assert missing == {"wsgipool_pools"}

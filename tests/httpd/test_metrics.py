"""/wsgipool-metrics on a real site: read by the official parsers, and scraped by a real Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from httpd.background import Background
from httpd.harness import RunningSite, eventually, running_site
from httpd.loads import Load
from httpd.prometheus import DASHBOARD, RULES, Prometheus, running_prometheus
from wsgipool.httpd.express import PACKAGE

OPTIONS = ("--include-file", str(PACKAGE / "apache" / "metrics.conf"))
BUDGET: dict[str, str | int] = {"connections": 20}

COUNTERS = re.compile(r"\w+_(total|bucket|seconds_count|seconds_sum)\[")


def samples(site: RunningSite, accept: str = "text/plain") -> dict[str, float]:
    """Return the samples of the site's metrics, by name and labels."""
    answer = site.request("/wsgipool-metrics", headers={"Accept": accept})
    assert answer.status_code == 200, answer.text
    parse: Any = parse_openmetrics if "openmetrics" in answer.headers["Content-Type"] else parse_text
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def total(site: RunningSite, name: str) -> float:
    """Return the sum of the samples of one name."""
    return sum(value for sample, value in samples(site).items() if sample.startswith(f"{name}["))


@pytest.mark.parametrize("mode", ["prefork", "daemon"])
def test_the_metrics_are_those_of_all_processes(mode: str, folder: Path, shop: str) -> None:
    processes, threads = (4, 1) if mode == "prefork" else (2, 2)
    with running_site(
        folder, mode, {"shop": shop}, processes=processes, threads=threads, budget=BUDGET, express_options=OPTIONS
    ) as site:
        answers = site.load(lambda _: "/hold?seconds=0.02", requests=60, clients=4)
        assert len({answer["pid"] for answer in answers}) > 1

        eventually(lambda: total(site, "wsgipool_checkouts_total") == 60, "all checkouts to be counted")
        assert total(site, "db_client_connection_wait_time_seconds_count") == 60
        assert total(site, "db_client_connection_use_time_seconds_count") == 60
        assert total(site, "db_client_connection_max") == processes * threads
        assert total(site, "wsgipool_processes") == total(site, "wsgipool_pools") == processes
        assert total(site, "wsgipool_budget_limit") == 20
        assert samples(site).keys() == samples(site, "application/openmetrics-text;version=1.0.0").keys()


def test_a_sub_interpreter_answers_with_the_metrics_of_the_main_one(folder: Path, shop: str) -> None:
    elsewhere = folder / "elsewhere.conf"
    elsewhere.write_text('<Location "/wsgipool-metrics">\n    WSGIApplicationGroup another\n</Location>\n')
    options = (*OPTIONS, "--include-file", str(elsewhere))
    with running_site(
        folder, "daemon", {"shop": shop}, processes=1, threads=2, budget=BUDGET, express_options=options
    ) as site:
        site.get("/hold")

        eventually(lambda: total(site, "wsgipool_checkouts_total") == 1, "the checkout to be counted")
        assert "wsgipool_processes[('place', 'daemon wsgipool, another'), ('state', 'running')]" in samples(site)


def test_a_foreign_name_in_the_host_header_gets_no_metrics(folder: Path, shop: str) -> None:
    with running_site(folder, "daemon", {"shop": shop}, processes=1, threads=2, express_options=OPTIONS) as site:
        statuses = {
            host: site.request("/wsgipool-metrics", headers={"Host": host}).status_code
            for host in ("localhost", "127.0.0.1:80", "evil.example")
        }

    assert statuses == {"localhost": 200, "127.0.0.1:80": 200, "evil.example": 421}


def test_metrics_may_be_for_other_machines_only(folder: Path, shop: str) -> None:
    required = folder / "required.conf"
    required.write_text(f'Define WSGIPOOL_METRICS_REQUIRE "ip 192.0.2.7"\nInclude {PACKAGE}/apache/metrics.conf\n')
    options = ("--include-file", str(required))
    with running_site(folder, "daemon", {"shop": shop}, processes=1, threads=2, express_options=options) as site:
        assert site.request("/wsgipool-metrics").status_code == 403


def test_without_the_define_there_are_no_metrics(folder: Path, shop: str) -> None:
    with running_site(folder, "daemon", {"shop": shop}, processes=1, threads=2) as site:
        assert "db_client_connection" not in site.request("/wsgipool-metrics").text


# --- over restarts ---------------------------------------------------------------------------------------------------


class Scraper(Background):
    """Scrapes a site again and again, and collects the counters that decreased."""

    def __init__(self, site: RunningSite) -> None:
        super().__init__(self._run)
        self.scrapes = 0
        self.decreases: list[tuple[str, float, float]] = []
        self._site = site
        self._last: dict[str, float] = {}

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                now = {name: value for name, value in samples(self._site).items() if COUNTERS.match(name)}
            except (AssertionError, requests.ConnectionError):
                continue  # the process that was to answer ended, or was killed
            self.decreases += [
                (name, self._last[name], now.get(name, 0)) for name in self._last if self._last[name] > now.get(name, 0)
            ]
            self._last = now
            self.scrapes += 1

    def wait_for_more(self, scrapes: int) -> None:
        """Wait for a number of scrapes."""
        goal = self.scrapes + scrapes
        eventually(lambda: self.scrapes >= goal, "more scrapes")


@pytest.mark.parametrize("mode", ["prefork", "event", "daemon"])
def test_no_counter_decreases_over_restarts_and_killed_processes(mode: str, folder: Path, shop: str) -> None:
    processes, threads = (4, 1) if mode == "prefork" else (2, 4)
    with (
        running_site(
            folder,
            mode,
            {"shop": shop},
            processes=processes,
            threads=threads,
            settings={"max_size": 1 if mode == "prefork" else 2},  # many checkouts wait
            budget=BUDGET,
            express_options=OPTIONS,
        ) as site,
        Load(site, "/hold?seconds=0.01", "/place-order?seconds=0.001", clients=8) as load,
    ):
        with Scraper(site) as scraper:
            load.wait_for_more(20)
            for disturb in (site.graceful_restart, lambda: kill_a_server_of(load, site), site.graceful_restart):
                load.wait_for_a_new_process_after(disturb)
                load.wait_for_more(20)
                scraper.wait_for_more(3)
        checkouts = total(site, "wsgipool_checkouts_total")

    assert scraper.decreases == []
    assert checkouts > 20
    assert "is skipped" not in site.log()


def kill_a_server_of(load: Load, site: RunningSite) -> None:
    """Kill a process that serves requests."""
    assert any(site.kill(pid) for pid, _ in reversed(list(load.served)))


# --- a real Prometheus -----------------------------------------------------------------------------------------------


def expressions() -> dict[str, str]:
    """Return the expressions of the dashboard by the titles of their panels, as Grafana sends them."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(instance|pool)", ".*", text)
    return found


def test_a_prometheus_answers_each_question_of_the_dashboard(folder: Path, shop: str) -> None:
    with (
        running_site(
            folder, "daemon", {"shop": shop}, processes=2, threads=4, budget=BUDGET, express_options=OPTIONS,
        ) as site,
        running_prometheus(folder, urlsplit(site.url).netloc, [RULES]) as prometheus,
        Load(site, "/hold?seconds=0.02", "/place-order?seconds=0.001", "/leak", clients=4) as load,
    ):  # fmt: skip
        prometheus.wait_for("wsgipool_checkouts_total > 0")
        load.wait_for_more(20)
        for title, expression in expressions().items():
            found = prometheus.wait_for(expression) if title != "Cache hits A" else prometheus.query(expression)
            print(title, found[:2])
        assert prometheus.wait_for("wsgipool_processes")[0][0]["place"] == "daemon wsgipool"
        load.wait_for_a_new_process_after(site.graceful_restart)
        prometheus.wait_for("wsgipool_processes_ended_total > 0")
        histories = prometheus.history(
            r'{__name__=~"wsgipool_.*_total|db_.*(_total|_bucket|_seconds_count|_seconds_sum)"}'
        )
        assert [series for series, values in histories if values != sorted(values)] == []
        alert = eventually(lambda: firing(prometheus, "WsgipoolLeaks"), "the alert of leaks to fire")
        assert {rule["health"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]} == {"ok"}

    assert alert is not None
    assert alert["annotations"]["summary"] == (
        f"The site on {urlsplit(site.url).netloc} does not return connections to shop"
    )


def firing(prometheus: Prometheus, name: str) -> dict[str, Any] | None:
    """Return an alert if it fires."""
    alerts = prometheus.get("alerts")["alerts"]
    return next((each for each in alerts if each["labels"]["alertname"] == name and each["state"] == "firing"), None)

"""A real Prometheus, which scrapes the site of a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from httpd.harness import LONG, eventually
from wsgipool.httpd.express import PACKAGE, free_port

INTERVAL = "500ms"


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the HTTP API."""
        answer = requests.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=LONG).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and values of an expression now."""
        found = self.get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def history(self, selector: str) -> list[tuple[dict[str, str], list[float]]]:
        """Return the labels and all values of the last ten minutes of some series."""
        found = self.get("query", query=f"{selector}[10m]")["result"]
        return [(each["metric"], [float(value) for _, value in each["values"]]) for each in found]

    def wait_for(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Wait until an expression has data, and return it."""
        return eventually(lambda: self.query(expression), f"Prometheus to have data of {expression}")


@contextmanager
def running_prometheus(folder: Path, target: str, rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Start a Prometheus with its files in `folder`, which scrapes /wsgipool-metrics of a target all the time."""
    port = free_port()
    configuration = folder / "prometheus.yml"
    configuration.write_text(f"""
global: {{scrape_interval: {INTERVAL}, scrape_timeout: {INTERVAL}, evaluation_interval: {INTERVAL}}}
rule_files: {[str(file) for file in rules]}
scrape_configs:
  - {{job_name: wsgipool, metrics_path: /wsgipool-metrics, static_configs: [{{targets: ['{target}']}}]}}
""")
    command = [
        *("prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'prometheus'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            eventually(lambda: process.poll() is not None or _is_ready(port), "Prometheus to start")
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            yield prometheus
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=LONG).ok
    except requests.ConnectionError:
        return False


RULES = PACKAGE / "apache" / "prometheus-rules.yaml"
DASHBOARD = PACKAGE / "apache" / "grafana.json"

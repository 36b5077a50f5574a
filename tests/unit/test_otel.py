"""The pools of a process in OpenTelemetry, as its SDK collects them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import wsgipool
from wsgipool import otel, pools
from wsgipool.scoreboard.metrics import metrics_of_pools, prometheus_label, prometheus_name

Values = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, _no_settings: None) -> Iterator[None]:
    settings = {"databases": {name: {"url": f"sqlite:///{tmp_path}/{name}.db"} for name in ("orders", "archive")}}
    with pools.override(settings):
        yield


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    otel.instrument(provider)
    yield reader
    provider.shutdown()


def collected(reader: InMemoryMetricReader) -> Values:
    """Return the values of all instruments, by the values of their attributes but the address."""
    data = reader.get_metrics_data()
    metrics = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
    return {
        metric.name: {
            tuple(str(value) for name, value in (point.attributes or {}).items() if name != "address"): point.value
            for point in metric.data.data_points
            if hasattr(point, "value")
        }
        for metric in metrics
    }


def test_a_collection_has_the_numbers_of_the_pools_of_this_process(reader: InMemoryMetricReader) -> None:
    for _ in range(3):
        with wsgipool.connection("orders"):
            pass
    with wsgipool.connection("orders"), wsgipool.connection("archive"):
        values = collected(reader)

    assert values["db.client.connection.count"][("orders", "used")] == 1
    assert values["db.client.connection.count"][("archive", "idle")] == 0
    assert values["wsgipool.checkouts"] == {("orders",): 4, ("archive",): 1}
    assert values["wsgipool.connections.opened"] == {("orders",): 1, ("archive",): 1}
    assert values["wsgipool.use_time"][("orders",)] > 0


def test_before_the_first_pool_there_are_no_numbers(reader: InMemoryMetricReader) -> None:
    assert collected(reader) == {}


def test_the_counts_of_a_pool_stay_when_the_pool_is_closed(reader: InMemoryMetricReader) -> None:
    with wsgipool.connection("orders"):
        assert collected(reader)["db.client.connection.count"][("orders", "used")] == 1

    wsgipool.close()

    values = collected(reader)
    assert values["db.client.connection.count"][("orders", "used")] == 0
    assert values["wsgipool.checkouts"][("orders",)] == 1


def test_a_second_call_for_a_provider_counts_nothing_twice() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    otel.instrument(provider)
    otel.instrument(provider)
    with wsgipool.connection("orders"):
        pass

    assert collected(reader)["wsgipool.checkouts"] == {("orders",): 1}


def test_without_a_provider_nothing_happens() -> None:
    otel.instrument()

    with wsgipool.connection("orders"):
        pass


def test_the_names_in_prometheus_are_those_of_opentelemetrys_own_exporter() -> None:
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    otel.instrument(MeterProvider([reader], shutdown_on_exit=False))
    with wsgipool.connection("orders"):
        pass

    exported = {family.name: family for family in registry.collect()}

    for metric in metrics_of_pools():
        if metric.kind != "histogram" and metric.name != "wsgipool.permits.held":  # SQLite has no budget
            family: Any = exported[prometheus_name(metric)]
            assert family.type == metric.kind
            assert set(family.samples[0].labels) == {prometheus_label(label) for label in metric.labels}


def test_a_time_is_a_counter_of_seconds_because_no_histogram_can_be_observed() -> None:
    names = {metric.name: otel.name_of(metric) for metric in metrics_of_pools() if metric.kind == "histogram"}

    assert names == {
        "db.client.connection.wait_time": "wsgipool.wait_time",
        "db.client.connection.use_time": "wsgipool.use_time",
        "db.client.connection.create_time": "wsgipool.create_time",
    }

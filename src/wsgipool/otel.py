"""OpenTelemetry's instruments for the pools of this process.

They need the extra ``otel``, which brings OpenTelemetry's API. The site brings the SDK, its exporter and its
``MeterProvider``. Nothing happens at a checkout: the SDK asks for the numbers when it exports.

The numbers are those of one process. An exporter in each process needs a resource with a ``service.instance.id`` of its
own, or the processes overwrite each other's numbers. ``/wsgipool-metrics`` has the numbers of the whole host.

OpenTelemetry's API has no histogram that the SDK asks for its numbers. So the times of waits, uses and connects are
counters of seconds here: ``wsgipool.wait_time``, ``wsgipool.use_time`` and ``wsgipool.create_time``. Divide them by
``wsgipool.checkouts`` or ``wsgipool.connections.opened`` for averages.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator

from opentelemetry import metrics as api
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

import wsgipool
from wsgipool.scoreboard.collecting import Collector
from wsgipool.scoreboard.metrics import Distribution, Metric, metrics_of_pools, values_in_process

__all__ = ["instrument"]

_instrumented: weakref.WeakSet[MeterProvider] = weakref.WeakSet()
_lock = threading.Lock()


def instrument(meter_provider: MeterProvider | None = None) -> None:
    """Report the pools of this process by OpenTelemetry, also those that are created later.

    A second call for the same provider does nothing. A pool that was closed is not reported any more.

    Args:
        meter_provider: The provider whose readers get the numbers. Default: the global one.
    """
    provider = meter_provider or api.get_meter_provider()
    with _lock:
        if provider in _instrumented:
            return
        _instrumented.add(provider)
    meter = provider.get_meter("wsgipool", wsgipool.__version__)
    collector = Collector()
    create = {
        "gauge": meter.create_observable_up_down_counter,
        "counter": meter.create_observable_counter,
        "histogram": meter.create_observable_counter,
    }
    for metric in metrics_of_pools():
        create[metric.kind](name_of(metric), [_callback(metric, collector)], metric.unit, metric.text)


def name_of(metric: Metric) -> str:
    """Return the name of the instrument for a metric."""
    return metric.name.replace("db.client.connection", "wsgipool") if metric.kind == "histogram" else metric.name


def _callback(metric: Metric, collector: Collector) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(_: CallbackOptions) -> Iterator[Observation]:
        for labels, value in values_in_process(metric, collector.report()).items():
            number = value.seconds if isinstance(value, Distribution) else value
            yield Observation(number, dict(zip(metric.labels, labels, strict=True)))

    return observe

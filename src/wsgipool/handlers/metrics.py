"""The metrics of all processes of the host, for Prometheus and for OpenTelemetry's collector.

The official library writes them: as Prometheus' text or as OpenMetrics, which the request chooses. Its own registry of
the process and its files for several processes are not used, because the scoreboard knows all processes.

apache/metrics.conf restricts access.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from wsgipool import pools
from wsgipool.errors import ConfigError
from wsgipool.handlers.known_hosts import is_known_host
from wsgipool.httpd import errorlog
from wsgipool.scoreboard import metrics, reading
from wsgipool.scoreboard.metrics import BOUNDS, Distribution, Values
from wsgipool.shared.one_time_warnings import warn_once

if TYPE_CHECKING:
    from prometheus_client.core import Metric

StartResponse = Callable[..., Any]
WSGIApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    if not is_known_host(environ):
        name = environ["HTTP_HOST"][:255]
        return _refuse(
            start_response,
            "421 Misdirected Request",
            f"The metrics are not answered under the name {name!r}. Use an IP address, localhost, or the server's "
            "ServerName.",
        )
    try:
        return _exposition()(environ, start_response)
    except ImportError as error:
        pip = f"{sys.prefix}/bin/pip" if sys.prefix != sys.base_prefix else "pip"
        message = f"the metrics need the package prometheus-client: {pip} install 'wsgipool[metrics]' ({error})"
        warn_once(message)
    except ConfigError as error:
        message = str(error)
    return _refuse(start_response, "503 Service Unavailable", message)


def _refuse(start_response: StartResponse, status: str, message: str) -> Iterable[bytes]:
    body = f"{message}\n".encode("utf-8", "backslashreplace")
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


@functools.cache
def _exposition() -> WSGIApplication:
    """Return the library's application for the metrics of the host. Raises ImportError until it is installed."""
    from prometheus_client import CollectorRegistry, make_wsgi_app

    registry = CollectorRegistry()
    registry.register(HostCollector())
    answer: WSGIApplication = make_wsgi_app(registry)
    return answer


class HostCollector:
    """Reads the scoreboard for the library, at each scrape."""

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. Raises ConfigError."""
        for metric, values in metrics.families(*reading.host(pools.runtime_dir())):
            yield _family(metric, values)

    def describe(self) -> Iterator[Metric]:
        """Yield all metrics without values."""
        for metric in metrics.every_metric():
            yield _family(metric, {})


def _family(metric: metrics.Metric, values: Values) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    families: dict[metrics.Kind, Any] = {
        "gauge": GaugeMetricFamily,
        "counter": CounterMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    family = families[metric.kind](
        metrics.prometheus_name(metric),
        metric.text,
        labels=[metrics.prometheus_label(label) for label in metric.labels],
        unit="seconds" if metric.unit == "s" else "",
    )
    for labels, value in values.items():
        if isinstance(value, Distribution):
            counts = zip(map(str, [*BOUNDS, "+Inf"]), [*value.counts, value.count], strict=True)
            family.add_metric(labels, list(counts), value.seconds)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return] # the families have different methods of one name


errorlog.show_lines()

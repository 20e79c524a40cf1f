"""vLLM's own figures, under the names that its own server gives them, with two labels more: which executor, and which of its copies.

They go to prometheus_client, so where PROMETHEUS_MULTIPROC_DIR is set they stand on the page that kernel/metrics.py puts together. vLLM's logger for Ray would
take them to Ray's agent instead, which counts each token's latency once more, one by one. Knows vLLM's metric classes. Does not know who reads the page.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram
from vllm.distributed.ec_transfer.ec_connector.metrics import ECConnectorProm
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorProm
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.perf import PerfMetricsProm
from vllm.v1.spec_decode.metrics import SpecDecodingProm

LIVE: Final = "live"
"""Begins the modes of gauges that end with their process."""


class _Labelled:
    """A metric of prometheus_client whose first labels are known already."""

    def __init__(
        self,
        kind: type[Counter | Gauge | Histogram],
        known: dict[str, str],
        name: str,
        documentation: str,
        labelnames: Any = (),
        **options: Any,
    ) -> None:
        if kind is Gauge:
            mode = options.get("multiprocess_mode") or "mostrecent"
            options["multiprocess_mode"] = LIVE + mode.removeprefix(
                LIVE
            )  # else an engine that has ended would be busy for ever
        self._metric = kind(name, documentation, (*known, *labelnames), **options)
        self._known = known

    def labels(self, *values: object, **named: object) -> Any:
        """Return the series of these labels and the known ones."""
        return (
            self._metric.labels(**self._known, **named)
            if named
            else self._metric.labels(*self._known.values(), *values)
        )

    def __getattr__(self, name: str) -> Any:
        """Return a method of the one series of a metric that has no labels of its own."""
        return getattr(self.labels(), name)


def ray_logger() -> type[PrometheusStatLogger]:
    """Return vLLM's class of stat loggers that tell Ray, for a node where nobody puts the figures of processes together."""
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    found: type[PrometheusStatLogger] = RayPrometheusStatLogger
    return found


def logger(executor: str, replica: str) -> type[PrometheusStatLogger]:
    """Return a class of stat loggers for one engine.

    replica  one of a few values, such as a rank, and not a new one at each restart: the series of ended processes are kept in the sums
    """
    known = {"executor": executor, "replica": replica}
    counter, gauge, histogram = (
        partial(_Labelled, kind, known) for kind in (Counter, Gauge, Histogram)
    )

    class Speculation(SpecDecodingProm):  # type: ignore[misc]  # vLLM has no types
        _counter_cls = counter

    class KvConnector(KVConnectorProm):  # type: ignore[misc]
        _gauge_cls, _counter_cls, _histogram_cls = gauge, counter, histogram

    class EcConnector(ECConnectorProm):  # type: ignore[misc]
        _gauge_cls, _counter_cls, _histogram_cls = gauge, counter, histogram

    class Performance(PerfMetricsProm):  # type: ignore[misc]
        _counter_cls = counter

    class Figures(PrometheusStatLogger):  # type: ignore[misc]
        _gauge_cls, _counter_cls, _histogram_cls = gauge, counter, histogram
        _spec_decoding_cls, _kv_connector_cls, _ec_connector_cls, _perf_metrics_cls = (
            Speculation,
            KvConnector,
            EcConnector,
            Performance,
        )

    return Figures

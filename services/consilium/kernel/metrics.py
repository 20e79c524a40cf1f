"""The way to count.

    metrics = of_this_process()
    metrics.add("consilium_gateway_requests_total", route="chat", code="200", executor="core")

Names and labels are those of metrics_table.py. A process that is alone serves `Metrics.page`. Several processes of one node add up: where PROMETHEUS_MULTIPROC_DIR
is set when a process starts, its values lie in files there, and metrics_files.py reads the sum. However many label values come, the page stays small: what is
above a bound is counted under `other`, and consilium_metrics_folded_total says so. Knows Prometheus. Does not know when something is counted.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from consilium.kernel.config import environment_value
from consilium.kernel.metrics_names import OTHER, Names
from consilium.kernel.metrics_space import take_room
from consilium.kernel.metrics_table import BY_NAME, TABLE, Metric

__all__ = ["BY_NAME", "CONTENT_TYPE", "OTHER", "TABLE", "Metric", "Metrics", "of_this_process"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

MOST_SERIES: Final = 2000
"""Combinations of label values of one metric in one process."""

# A second series for each, with the time at which it began, which nobody reads.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
take_room()


class Metrics:
    """The counters of one process. Unknown names raise KeyError, other labels than the table's raise ValueError.

    shared  folder in which all processes of this node note the names that they tell apart; None = this process tells its own apart
    """

    def __init__(self, *, most_series: int = MOST_SERIES, shared: Path | None = None) -> None:
        self._registry = CollectorRegistry()
        self._made: dict[str, Any] = {}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._asked: dict[tuple[str, tuple[tuple[str, str], ...]], Any] = {}
        self._series: defaultdict[str, int] = defaultdict(int)
        self._names = Names(shared)
        self._most = most_series

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter or a gauge; a gauge also takes negative amounts."""
        self._child(name, labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram, in the unit of its row."""
        self._child(name, labels).observe(value)

    def page(self) -> str:
        """Return the figures of this process alone in the text format."""
        return generate_latest(self._registry).decode()

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        asked = name, tuple(labels.items())
        child = self._asked.get(asked)
        if child is not None:
            return child
        row = BY_NAME[name]
        if labels.keys() != set(row.labels):
            msg = (
                f"{name} has the labels {', '.join(row.labels) or 'none'}, not {', '.join(labels)}"
            )
            raise ValueError(msg)
        values = tuple(str(labels[label]) for label in row.labels)
        kept = self._bounded(row, values)
        child = self._children.get((name, kept)) or self._new(row, kept)
        if kept == values:
            self._asked[asked] = child
        elif OTHER in kept and name != "consilium_metrics_folded_total":
            self.add("consilium_metrics_folded_total", metric=name)
        return child

    def _bounded(self, row: Metric, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return the label values under which these are counted."""
        if row.named:
            at, name = row.labels.index(row.named), values[row.labels.index(row.named)]
            values = (
                *values[:at],
                self._names.kept(row.named, name, row.most),
                *values[at + 1 :],
            )
        if (row.name, values) not in self._children and self._series[row.name] >= self._most:
            return (OTHER,) * len(values)
        return values

    def _new(self, row: Metric, values: tuple[str, ...]) -> Any:
        made = self._made.get(row.name)
        if made is None:
            made = self._made[row.name] = _make(row, self._registry)
        child = made.labels(*values) if values else made
        self._children[row.name, values] = child
        self._series[row.name] += 1
        return child


@cache
def of_this_process() -> Metrics:
    """Return the counters that all of this process share: two that count the same name beside each other would overwrite each other's files."""
    figures = environment_value("PROMETHEUS_MULTIPROC_DIR")
    return Metrics(shared=Path(figures) if figures else None)


def packed(page: str, accept_encoding: str) -> tuple[bytes, str]:
    """Return a page as it goes over the wire and its Content-Encoding, empty for none. Prometheus asks for gzip, which is a tenth of the bytes."""
    body = page.encode()
    for offer in accept_encoding.lower().split(","):
        name, _, weight = offer.partition(";")
        if name.strip() in ("gzip", "*") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return gzip.compress(body, 1, mtime=0), "gzip"
    return body, ""


def _make(row: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if row.kind == "counter":
        return Counter(row.name, row.help, row.labels, registry=registry)
    if row.kind == "gauge":
        return Gauge(row.name, row.help, row.labels, registry=registry, multiprocess_mode=row.mode)
    return Histogram(row.name, row.help, row.labels, registry=registry, buckets=row.buckets)

"""Every metric of the house in one table, and the way to count.

    metrics = of_this_process()
    metrics.add("consilium_gateway_requests_total", route="chat", code="200", executor="core")

A process that is alone serves `Metrics.page`. Several processes of one node add up: where PROMETHEUS_MULTIPROC_DIR is set when a process starts, its values lie
in files there, and `page_of` reads the sum. Names are consilium_<service>_<noun>_<unit>[_total]; label values are bounded sets. Knows Prometheus. Does not know when something is counted.
"""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OTHER: Final = "other"
"""Stands for label values above the bound."""

MOST_SERIES: Final = 2000
"""Combinations of label values of one metric in one process."""

Kind = Literal["counter", "gauge", "histogram"]
Mode = Literal["livesum", "livemin", "livemax"]

_TOKEN_TIMES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TURN_TIMES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_DECISION_TIMES: Final = (
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_2,
    0.000_5,
    0.001,
    0.005,
    0.01,
    0.1,
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row.

    unit     of the value
    buckets  upper bounds of a histogram, in its unit
    mode     how a gauge of several living processes becomes one
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    unit: str
    buckets: tuple[float, ...] = ()
    mode: Mode = "livesum"


TABLE: Final[tuple[Metric, ...]] = (
    Metric(
        "consilium_gateway_requests_total",
        "counter",
        ("route", "code", "executor"),
        "Requests that were answered, by HTTP status or gRPC status.",
        "requests",
    ),
    Metric(
        "consilium_gateway_rejected_total",
        "counter",
        ("reason",),
        "Requests that were refused before the engine, by error code.",
        "requests",
    ),
    Metric(
        "consilium_gateway_inflight_requests",
        "gauge",
        ("executor",),
        "Requests in work now.",
        "requests",
    ),
    Metric(
        "consilium_gateway_waiting_requests",
        "gauge",
        ("executor",),
        "Requests that wait for a place because their key has its share.",
        "requests",
    ),
    Metric(
        "consilium_gateway_first_token_seconds",
        "histogram",
        ("route", "executor"),
        "From the request to its first token.",
        "seconds",
        _TOKEN_TIMES,
    ),
    Metric(
        "consilium_gateway_turn_seconds",
        "histogram",
        ("route", "executor"),
        "From the request to the end of its answer.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_gateway_tokens_total",
        "counter",
        ("kind", "executor", "role"),
        "Tokens by kind: prompt, completion, cached.",
        "tokens",
    ),
    Metric(
        "consilium_gateway_fallbacks_total",
        "counter",
        ("executor", "instead"),
        "Turns that another executor answered because the first was down.",
        "turns",
    ),
    Metric(
        "consilium_gateway_rpc_seconds",
        "histogram",
        ("method", "code"),
        "gRPC calls from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_gateway_redis_up",
        "gauge",
        (),
        "1 while Redis answers every gateway replica of this node, else 0.",
        "bool",
        mode="livemin",
    ),
    Metric(
        "consilium_engine_up",
        "gauge",
        ("executor",),
        "1 while an executor answers the gateway, 0 while it starts or is down.",
        "bool",
        mode="livemin",
    ),
    Metric(
        "consilium_engine_starts_total",
        "counter",
        ("executor",),
        "Engine replicas that became ready; more than there are copies means that some were started anew, however they ended.",
        "starts",
    ),
    Metric(
        "consilium_engine_restarts_total",
        "counter",
        ("executor", "reason"),
        "Times an engine replica ended itself to be started anew, by the error that it could not go on after.",
        "restarts",
    ),
    Metric(
        "consilium_engine_router_decision_seconds",
        "histogram",
        ("reason",),
        "Time to choose a replica, by what decided.",
        "seconds",
        _DECISION_TIMES,
    ),
    Metric(
        "consilium_room_up",
        "gauge",
        ("room",),
        "Processes of a room that serve: not those that are starting or draining.",
        "processes",
    ),
    Metric(
        "consilium_room_rpc_seconds",
        "histogram",
        ("room", "method", "code"),
        "gRPC calls of a room from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_room_http_seconds",
        "histogram",
        ("room", "method", "code"),
        "Requests to a room's inner HTTP from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
)

BY_NAME: Final[dict[str, Metric]] = {metric.name: metric for metric in TABLE}


class Metrics:
    """The counters of one process. Unknown names raise KeyError, other labels than the table's raise ValueError."""

    def __init__(self, *, most_series: int = MOST_SERIES) -> None:
        self._registry = CollectorRegistry()
        self._made: dict[str, Any] = {}
        self._seen: dict[str, set[tuple[str, ...]]] = {}
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
        row = BY_NAME[name]
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = _make(row, self._registry)
        if not row.labels and not labels:
            return made
        if labels.keys() != set(row.labels):
            msg = (
                f"{name} has the labels {', '.join(row.labels) or 'none'}, not {', '.join(labels)}"
            )
            raise ValueError(msg)
        values = tuple(str(labels[label]) for label in row.labels)
        return made.labels(*self._bounded(name, values))

    def _bounded(self, name: str, values: tuple[str, ...]) -> tuple[str, ...]:
        seen = self._seen.setdefault(name, set())
        if values in seen:
            return values
        if len(seen) >= self._most:
            return (OTHER,) * len(values)
        seen.add(values)
        return values


@cache
def of_this_process() -> Metrics:
    """Return the counters that all of this process share: two that count the same name beside each other would overwrite each other's files."""
    return Metrics()


def packed(page: str, accept_encoding: str) -> tuple[bytes, str]:
    """Return a page as it goes over the wire and its Content-Encoding, empty for none. Prometheus asks for gzip, which is a tenth of the bytes."""
    body = page.encode()
    for offer in accept_encoding.lower().split(","):
        name, _, weight = offer.partition(";")
        if name.strip() in ("gzip", "*") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return gzip.compress(body, 1, mtime=0), "gzip"
    return body, ""


def page_of(folder: Path, *, sees_processes: bool = True) -> str:
    """Return the sum of all processes whose values lie in a folder, in the text format; empty before there are any.

    sees_processes  whether they have the same numbers here as where they run. In another container of a pod they have others, or none: then nobody is taken for ended

    Counters and histograms of ended processes stay in the sum, so it never falls. Their gauges are taken out.
    """
    if sees_processes:
        forget_ended(folder)
    if not any(folder.glob("*.db")):
        return ""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry).decode()


def forget_ended(folder: Path) -> None:
    """Remove the gauges of processes that have ended, one that had the number of this process among them."""
    for file in folder.glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found is not None and not (_is_alive(int(found[1])) and _holds(int(found[1]), file)):
            file.unlink(missing_ok=True)


def _make(row: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if row.kind == "counter":
        return Counter(row.name, row.help, row.labels, registry=registry)
    if row.kind == "gauge":
        return Gauge(row.name, row.help, row.labels, registry=registry, multiprocess_mode=row.mode)
    return Histogram(row.name, row.help, row.labels, registry=registry, buckets=row.buckets)


def _holds(pid: int, file: Path) -> bool:
    """Return False if the process of this number does not have the file mapped: it is another one, which got the number of one that ended."""
    try:
        return str(file.resolve()) in Path(f"/proc/{pid}/maps").read_text(
            encoding="utf-8", errors="replace"
        )
    except OSError:
        return True  # not ours to read, or a system without /proc


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

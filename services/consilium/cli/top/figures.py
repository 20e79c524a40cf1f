"""What `top` shows, as values: from readings of the cluster's page to rates, quantiles, watts and joules per token.

    series = Series(window_s)
    figures = series.take(page, at)      # with rates from the second reading on

Pure. Knows metrics by their names. Does not know where pages come from or how figures are drawn.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from consilium.cli.top.cards import ENERGY, GAUGES, Card, cards_of, memory_of, price_of, watts_of
from consilium.cli.top.exporters import DRIVER, SAMPLE_AGE, silent_drivers, why_no_cards
from consilium.cli.top.growth import INSTANCE, Growth, Step, Window
from consilium.cli.top.page import Page, rows
from consilium.cli.top.quantile import quantile

G: Final = "consilium_gateway_"
REQUESTS: Final = f"{G}requests_total"
TOKENS: Final = f"{G}tokens_total"
FIRST: Final = f"{G}first_token_seconds_bucket"
MADE: Final = "vllm:generation_tokens_total"
READ: Final = "vllm:prompt_tokens_total"
AGE: Final = "consilium_metrics_source_age_seconds"
BORN: Final = frozenset({REQUESTS, TOKENS, FIRST, MADE, READ})
"""Counters that begin at zero when a label value comes for the first time."""
COUNTERS: Final = BORN | {ENERGY}
WANTED: Final = (
    COUNTERS
    | GAUGES
    | {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        f"{G}inflight_requests",
        f"{G}waiting_requests",
        f"{G}redis_up",
        "consilium_engine_up",
        "consilium_part_up",
        AGE,
    }
)
"""Every metric that is read."""
STALE_S: Final = 5.0
"""Seconds from which the figures of a source are called old."""
CARDS_STALE_S: Final = 60.0
"""The same for those of cards while their driver answers: they may be read once a minute."""
HISTORY: Final = 120
"""Readings that the little curves remember."""
OWN_ROUTE: Final = "metrics"
"""Requests for the page itself, which are no work of the cluster."""
NOBODY: Final = frozenset({"", "none", "embeddings"})
"""What stands for an executor where there is none."""
_BAD: Final = 400
_LEFT: Final = 499
_KWH: Final = 3.6e6
_GOOD: Final = frozenset({"OK", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Executor:
    """One executor; None = not told, or nothing happened.

    made_s, read_s  tokens a second, generated and of prompts
    first_s         p50 and p95 of the time to the first token, in seconds
    waiting         in the engine and, for their share, in the gateway
    kv              share of the room for caches that is used, of the fullest replica
    cost            of a million generated tokens, in the currency of the price
    """

    name: str
    is_up: bool | None = None
    made_s: float = 0.0
    read_s: float = 0.0
    first_s: tuple[float, float] | None = None
    running: float = 0.0
    waiting: float = 0.0
    kv: float | None = None
    memory_bytes: float | None = None
    degrees: float | None = None
    watts: float | None = None
    joules_per_token: float | None = None
    cost: float | None = None
    held_back: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """One moment.

    window_s     seconds that rates and quantiles are made of; 0 = this is the first reading, and they are not known
    ever_first_s p50 and p95 of the time to the first token since the gateways began
    errors       code -> how many in the window
    watts        of all cards
    joules_per_token, cost  of those that executors hold, by the tokens of these executors
    price        of a kilowatt-hour, and its currency
    redis        None = nobody says
    down         parts that are not up
    old          source -> age of its figures in seconds, where they are older than STALE_S
    silent       sentences about drivers that do not answer their exporters
    no_cards     why no card is told of; empty where there are cards
    curves       name -> values, one a reading: made_s, first_p95_s, watts
    """

    window_s: float = 0.0
    made_s: float = 0.0
    read_s: float = 0.0
    requests_s: float = 0.0
    first_s: tuple[float, float] | None = None
    ever_first_s: tuple[float, float] | None = None
    running: float = 0.0
    waiting: float = 0.0
    errors: Mapping[str, float] = field(default_factory=dict)
    watts: float | None = None
    joules_per_token: float | None = None
    cost: float | None = None
    price: tuple[float, str] | None = None
    redis: bool | None = None
    down: tuple[str, ...] = ()
    old: Mapping[str, float] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    no_cards: str = ""
    executors: tuple[Executor, ...] = ()
    cards: tuple[Card, ...] = ()
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Series:
    """Takes readings one after another.

    window_s    seconds that rates and quantiles are made of
    has_driver  whether an NVIDIA driver is on this machine, where the cluster runs; None = it runs elsewhere
    """

    def __init__(self, window_s: float, *, has_driver: bool | None = None) -> None:
        self._has_driver = has_driver
        self._growth = Growth(COUNTERS, BORN)
        self._window = Window(window_s)
        self._seen = False
        self._curves: dict[str, deque[float]] = {
            name: deque(maxlen=HISTORY) for name in ("made_s", "first_p95_s", "watts")
        }

    def take(self, page: Page, at: float) -> Figures:
        """Return the figures with this reading. `at` is when it was made, on the monotonic clock."""
        step = self._growth.step(page, at)
        if step is not None:
            self._window.add(step)
        self._seen = self._seen or step is not None
        seen = _figures(page, self._window, self._curved(page, step), has_rates=self._seen)
        if seen.cards:
            return seen
        return replace(seen, no_cards=why_no_cards(page, has_driver=self._has_driver))

    def _curved(self, page: Page, step: Step | None) -> dict[str, tuple[float, ...]]:
        if step is not None:
            alone = Window(step.seconds)
            alone.add(step)
            made = _tokens(page, alone)[0]
            first = _first(alone.sums(FIRST, "executor", "le"), _bounds(page))
            self._curves["made_s"].append(sum(made.values()) / step.seconds)
            self._curves["first_p95_s"].append(first.get("", (0.0, 0.0))[1])
            self._curves["watts"].append(sum(card.watts or 0.0 for card in cards_of(page)))
        return {name: tuple(values) for name, values in self._curves.items()}


def _figures(
    page: Page, window: Window, curves: Mapping[str, tuple[float, ...]], *, has_rates: bool
) -> Figures:
    seconds = window.seconds if has_rates else 0.0
    cards, price = cards_of(page), price_of(page)
    made, read = _tokens(page, window)
    first = _first(window.sums(FIRST, "executor", "le"), _bounds(page))
    requests = window.sums(REQUESTS, "route", "code")
    turns = sum(count for (route, _), count in requests.items() if route != OWN_ROUTE)
    joules = _joules(cards, window, seconds)
    total = sum(made.values())
    held = [card for card in cards if card.holders]
    on_cards = sum(
        made.get(name, 0.0) for name in {name for card in held for name in card.executors}
    )
    energy = sum(joules.get(card.uuid, 0.0) for card in held)
    per_token = energy / on_cards if energy and on_cards else None
    executors = tuple(
        _executor(name, page, window_s=seconds, made=made, read=read, first=first, cards=cards,
                  joules=joules, price=price)
        for name in _names(page)
    )  # fmt: skip
    known_watts = [card.watts for card in cards if card.watts is not None]
    return Figures(
        window_s=seconds,
        made_s=_rate(total, seconds),
        read_s=_rate(sum(read.values()), seconds),
        requests_s=_rate(turns, seconds),
        first_s=first.get(""),
        ever_first_s=_first(_ever(page), _bounds(page)).get(""),
        running=sum(one.running for one in executors),
        waiting=sum(one.waiting for one in executors),
        errors=_errors(requests),
        watts=sum(known_watts) if known_watts else None,
        joules_per_token=per_token,
        cost=_cost(per_token, price),
        price=price,
        redis=_all_up(page, f"{G}redis_up"),
        down=tuple(
            dict.fromkeys(
                labels.get("part", "")
                for labels, value in rows(page, "consilium_part_up")
                if not value
            )
        ),
        old=_old(page),
        silent=silent_drivers(page),
        executors=executors,
        cards=cards,
        curves=curves,
    )


def _executor(
    name: str,
    page: Page,
    *,
    window_s: float,
    made: Mapping[str, float],
    read: Mapping[str, float],
    first: Mapping[str, tuple[float, float]],
    cards: tuple[Card, ...],
    joules: Mapping[str, float],
    price: tuple[float, str] | None,
) -> Executor:
    mine = [card for card in cards if name in card.executors]
    energy = sum(joules[card.uuid] * card.share(name) for card in mine if card.uuid in joules)
    per_token = energy / made[name] if energy and made.get(name) else None
    states = [value for labels, value in rows(page, "consilium_engine_up") if labels.get("executor") == name]  # fmt: skip
    engine = _of(page, "vllm:num_requests_running", name)
    running = sum(engine) if engine else sum(_of(page, f"{G}inflight_requests", name))
    waiting = sum(_of(page, "vllm:num_requests_waiting", name)) + sum(
        _of(page, f"{G}waiting_requests", name)
    )
    return Executor(
        name=name,
        is_up=min(states) > 0 if states else None,
        made_s=_rate(made.get(name, 0.0), window_s),
        read_s=_rate(read.get(name, 0.0), window_s),
        first_s=first.get(name),
        running=running,
        waiting=waiting,
        kv=max(_of(page, "vllm:kv_cache_usage_perc", name), default=None),
        memory_bytes=memory_of(cards, name),
        degrees=max((card.degrees for card in mine if card.degrees is not None), default=None),
        watts=watts_of(cards, name),
        joules_per_token=per_token,
        cost=_cost(per_token, price),
        held_back=tuple(sorted({why for card in mine for why in card.held_back})),
    )


def _names(page: Page) -> list[str]:
    """Return the executors, the core first."""
    names = {
        labels.get("executor", "")
        for name in ("consilium_engine_up", "vllm:num_requests_running", TOKENS)
        for labels, _ in rows(page, name)
    } - NOBODY
    return sorted(names, key=lambda name: (name != "core", name))


def _tokens(page: Page, window: Window) -> tuple[dict[str, float], dict[str, float]]:
    """Return the tokens by executor, generated and of prompts: as the engine counts, token by token, else as the gateway does at the end of each turn."""
    engines = {labels.get("executor", "") for labels, _ in rows(page, MADE)}
    found = []
    for by_engine, kind in ((MADE, "completion"), (READ, "prompt")):
        of_gateway = window.sums(TOKENS, "executor", kind=kind)
        tokens = {name: value for (name,), value in of_gateway.items() if name not in engines}
        tokens |= {name: value for (name,), value in window.sums(by_engine, "executor").items()}
        found.append(tokens)
    return found[0], found[1]


def _bounds(page: Page) -> frozenset[float]:
    return frozenset(float(labels["le"]) for labels, _ in rows(page, FIRST) if "le" in labels)


def _ever(page: Page) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for labels, value in rows(page, FIRST):
        key = (labels.get("executor", ""), labels.get("le", ""))
        found[key] = found.get(key, 0.0) + value
    return found


def _first(
    sums: Mapping[tuple[str, ...], float], bounds: frozenset[float]
) -> dict[str, tuple[float, float]]:
    """Return p50 and p95 by executor, and of all under the empty name.

    sums    (executor, upper bound) -> observations up to it, without those that are 0
    bounds  all upper bounds
    """
    buckets: dict[str, dict[float, float]] = {}
    for (executor, bound), count in sums.items():
        for name in (executor, ""):
            of_name = buckets.setdefault(name, {})
            of_name[float(bound)] = of_name.get(float(bound), 0.0) + count
    found = {}
    for name, of_name in buckets.items():
        whole = {bound: of_name.get(bound, 0.0) for bound in bounds}
        middle, high = quantile(0.5, whole), quantile(0.95, whole)
        if middle is not None and high is not None:
            found[name] = (middle, high)
    return found


def _errors(requests: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """Return how many requests ended with which code: HTTP statuses from 400 on but for callers that left, and gRPC statuses but OK."""
    found: dict[str, float] = {}
    for (route, code), count in requests.items():
        is_bad = int(code) >= _BAD and int(code) != _LEFT if code.isdigit() else code not in _GOOD
        if count and is_bad and route != OWN_ROUTE:
            found[code] = found.get(code, 0.0) + count
    return dict(sorted(found.items(), key=lambda row: (-row[1], row[0])))


def _joules(cards: tuple[Card, ...], window: Window, seconds: float) -> dict[str, float]:
    """Return the energy of each card in the window: by its counter, else its watts of now over that time."""
    counted: dict[str, float] = {}
    for (uuid, *_), value in window.sums(ENERGY, "uuid", INSTANCE).items():
        counted[uuid] = max(value, counted.get(uuid, 0.0))  # two exporters may tell of one card
    found = {}
    for card in cards:
        if card.uuid in counted:
            found[card.uuid] = counted[card.uuid]
        elif card.watts is not None and seconds:
            found[card.uuid] = card.watts * seconds
    return found


def _cost(joules_per_token: float | None, price: tuple[float, str] | None) -> float | None:
    """Return what a million tokens cost in electricity."""
    if joules_per_token is None or price is None:
        return None
    return joules_per_token * 1e6 / _KWH * price[0]


def _old(page: Page) -> dict[str, float]:
    ages: dict[str, float] = {}
    for labels, value in rows(page, AGE):  # each pod tells of its own
        source = labels.get("source", "?")
        ages[source] = max(value, ages.get(source, 0.0))
    hangs = _all_up(page, DRIVER) is False
    for _, value in rows(page, SAMPLE_AGE):
        if hangs or value > CARDS_STALE_S:
            ages["cards"] = max(value, ages.get("cards", 0.0))
    return {name: age for name, age in sorted(ages.items()) if age >= STALE_S}


def _of(page: Page, name: str, executor: str) -> list[float]:
    return [value for labels, value in rows(page, name) if labels.get("executor") == executor]


def _all_up(page: Page, name: str) -> bool | None:
    values = [value for _, value in rows(page, name)]
    return all(values) if values else None


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds and math.isfinite(amount) else 0.0

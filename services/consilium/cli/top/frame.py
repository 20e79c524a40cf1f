"""One picture of the figures, as wide as the terminal: what is wrong first, then the cluster, its executors, its cards.

Columns that do not fit are left out, the least important first; those that nobody tells anything about are not there. Knows rich's Text. Does not know terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consilium.cli.top.cards import Card
from consilium.cli.top.figures import Executor, Figures

if TYPE_CHECKING:
    from rich.text import Text

BARS: Final = "▁▂▃▄▅▆▇█"
NONE: Final = "-"
HOT: Final = 85.0
"""Degrees from which a temperature is told in red; most cards slow down a little above."""
FULL: Final = 0.95
"""Share of the room for caches from which it is told in red."""
GAP: Final = 2
HEAD: Final = 11
"""Columns of the words on the left."""
WIDEST_CURVE: Final = 48
NARROWEST_CURVE: Final = 6


@dataclass(frozen=True, slots=True)
class About:
    """What stands over a frame.

    where   address of the cluster
    clock   time of day
    wrong   what went wrong with reading, a sentence each
    hint    what keys do; empty where there are none
    """

    where: str
    clock: str
    wrong: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a table. `weight`: the lower it is, the sooner it is left out."""

    head: str
    weight: int
    cells: tuple[tuple[str, str], ...]
    """Text and style of each row."""
    left: bool = False

    @property
    def width(self) -> int:
        return max(len(self.head), *(len(text) for text, _ in self.cells))


def frame(figures: Figures, about: About, width: int) -> Text:
    """Return the picture. `width` is in characters; no line is longer."""
    from rich.text import Text

    lines = [_title(about, figures, width)]
    lines += [Text(f"! {line}", style="bold red") for line in (*about.wrong, *wrong(figures))]
    lines += [Text(""), *_summary(figures, width)]
    if figures.executors:
        lines += [Text(""), *_table(_executor_columns(figures.executors), width)]
    if figures.cards:
        lines += [Text(""), *_table(_card_columns(figures.cards), width)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def wrong(figures: Figures) -> list[str]:
    """Return what is wrong with the cluster, a line each, the words that matter first."""
    lines = []
    if figures.down:
        lines.append(f"down: {', '.join(figures.down)} ('consilium status' says why)")
    if figures.redis is False:
        lines.append("Redis does not answer: keys and quotas are kept by each gateway alone")
    lines += [
        f"executor {one.name} is not ready" for one in figures.executors if one.is_up is False
    ]
    if figures.old:
        ages = ", ".join(f"{name} {age:.0f} s" for name, age in figures.old.items())
        lines.append(f"old figures: {ages}")
    lines += figures.silent
    lines += [
        f"card {card.index or card.uuid} has fallen off the bus"
        for card in figures.cards
        if not card.is_up
    ]
    return lines


def curve(values: Sequence[float], width: int) -> str:
    """Return the last values as bars from zero to the highest of them; nothing where there is no room, or only one."""
    if width < NARROWEST_CURVE or len(values) < 2:
        return ""
    shown = values[-min(width, WIDEST_CURVE) :]
    top = max(shown)
    if top <= 0:
        return BARS[0] * len(shown)
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in shown)


def amount(value: float) -> str:
    """Return a number in at most five characters or so: 0, 3.1, 182, 12.4k, 3.2M."""
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.1f}k"
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"


def span(seconds: float) -> str:
    """Return seconds as ms or s."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def money(value: float) -> str:
    """Return an amount of money with three digits that say something."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _title(about: About, figures: Figures, width: int) -> Text:
    from rich.text import Text

    title = Text("consilium top", style="bold")
    window = f"of {figures.window_s:.0f} s" if figures.window_s else ""
    for word in (about.clock, about.where, window, about.hint):
        if word and len(title) + GAP + len(word) <= width:
            title.append(f"  {word}", style="dim")
    return title


def _summary(figures: Figures, width: int) -> list[Text]:
    first = f"p50 {NONE}  p95 {NONE}"
    if figures.first_s is not None:
        first = f"p50 {span(figures.first_s[0])}  p95 {span(figures.first_s[1])}"
    elif figures.ever_first_s is not None:
        middle, high = (span(value) for value in figures.ever_first_s)
        first = f"no turn (since start: p50 {middle}  p95 {high})"
    rate = NONE if not figures.window_s else amount(figures.made_s)
    read = NONE if not figures.window_s else amount(figures.read_s)
    curves = figures.curves
    lines = [
        _line("tokens/s", f"{rate} out  {read} in", width, curves.get("made_s", ())),
        _line("first token", first, width, curves.get("first_p95_s", ())),
        _line(
            "requests",
            f"{amount(figures.running)} running  {amount(figures.waiting)} waiting  {amount(figures.requests_s)}/s",
            width,
        ),
        _line("errors", _errors(figures), width, style="red" if figures.errors else ""),
    ]
    if figures.watts is not None:
        words = [f"{figures.watts:.0f} W"]
        if figures.joules_per_token is not None:
            words.append(f"{amount(figures.joules_per_token)} J/token")
        if figures.cost is not None and figures.price is not None:
            words.append(f"{money(figures.cost)} {figures.price[1]}/Mtok".replace(" /", "/"))
        lines.append(_line("power", "  ".join(words), width, curves.get("watts", ())))
    if figures.no_cards:
        lines.append(_line("cards", f"none: {figures.no_cards}", width, style="dim"))
    if figures.redis is not None:
        up = figures.redis
        lines.append(_line("redis", "up" if up else "down", width, style="" if up else "red"))
    return lines


def _errors(figures: Figures) -> str:
    if not figures.errors:
        return "none"
    codes = ", ".join(f"{code} x {amount(count)}" for code, count in figures.errors.items())
    return f"{amount(sum(figures.errors.values()))} ({codes})"


def _line(
    head: str, words: str, width: int, values: Sequence[float] = (), *, style: str = ""
) -> Text:
    from rich.text import Text

    line = Text(f"{head:<{HEAD}}  ", style="bold")
    line.append(words, style=style or "not bold")
    if bars := curve(values, width - max(len(line), HEAD + 26) - GAP):
        line.pad_right(max(0, HEAD + 26 - len(line)))
        line.append(f"  {bars}", style="cyan not bold")
    return line


def _executor_columns(executors: tuple[Executor, ...]) -> list[_Column]:
    def column(
        head: str, weight: int, told: Callable[[Executor], tuple[str, str]], *, left: bool = False
    ) -> _Column:
        return _Column(head, weight, tuple(told(one) for one in executors), left)

    return [
        column("executor", 99, lambda one: (one.name, "bold"), left=True),
        column("state", 40, _state, left=True),
        column("out/s", 95, lambda one: (amount(one.made_s), "")),
        column("in/s", 30, lambda one: (amount(one.read_s), "")),
        column("p50", 35, lambda one: (span(one.first_s[0]) if one.first_s else NONE, "")),
        column("p95", 80, lambda one: (span(one.first_s[1]) if one.first_s else NONE, "")),
        column("run", 90, lambda one: (amount(one.running), "")),
        column("wait", 85, lambda one: (amount(one.waiting), "yellow" if one.waiting else "")),
        column("cache", 60, lambda one: _share(one.kv, FULL)),
        column("VRAM", 70, lambda one: (_size(one.memory_bytes), "")),
        column("°C", 50, lambda one: _degrees(one.degrees)),
        column("W", 75, lambda one: (_whole(one.watts), "")),
        column(
            "J/tok",
            65,
            lambda one: (
                NONE if one.joules_per_token is None else amount(one.joules_per_token),
                "",
            ),
        ),
        column("held back by", 45, lambda one: _held_back(one.held_back), left=True),
    ]


def _card_columns(cards: tuple[Card, ...]) -> list[_Column]:
    def column(
        head: str, weight: int, told: Callable[[Card], tuple[str, str]], *, left: bool = False
    ) -> _Column:
        return _Column(head, weight, tuple(told(one) for one in cards), left)

    return [
        column("card", 99, lambda one: (one.index or one.uuid[:12], "bold"), left=True),
        column("name", 30, lambda one: (one.name.removeprefix("NVIDIA "), ""), left=True),
        column("executors", 60, lambda one: (",".join(one.executors) or NONE, ""), left=True),
        column("busy", 80, lambda one: _share(one.busy, 2.0)),
        column("VRAM", 90, _room),
        column("°C", 85, lambda one: _degrees(one.degrees)),
        column("W", 88, _draw),
        column("held back by", 70, lambda one: _held_back(one.held_back), left=True),
    ]


def _table(columns: Iterable[_Column], width: int) -> list[Text]:
    from rich.text import Text

    shown = [one for one in columns if any(text != NONE for text, _ in one.cells)]
    while len(shown) > 1 and sum(one.width + GAP for one in shown) - GAP > width:
        shown.remove(min(shown, key=lambda one: one.weight))
    lines = [Text() for _ in range(len(shown[0].cells) + 1)]
    for number, one in enumerate(shown):
        for line, (text, style) in zip(lines, ((one.head, "dim"), *one.cells), strict=True):
            padded = f"{text:<{one.width}}" if one.left else f"{text:>{one.width}}"
            line.append((" " * GAP if number else "") + padded, style=style)
    for line in lines:
        line.rstrip()
    return lines


def _state(one: Executor) -> tuple[str, str]:
    if one.is_up is None:
        return NONE, ""
    return ("up", "green") if one.is_up else ("down", "bold red")


def _share(value: float | None, red: float) -> tuple[str, str]:
    return (NONE, "") if value is None else (f"{value:.0%}", "red" if value >= red else "")


def _degrees(value: float | None) -> tuple[str, str]:
    return (NONE, "") if value is None else (f"{value:.0f}", "red" if value >= HOT else "")


def _held_back(reasons: tuple[str, ...]) -> tuple[str, str]:
    return (", ".join(reasons).replace("_", " ") or NONE, "yellow" if reasons else "")


def _room(card: Card) -> tuple[str, str]:
    if card.used is None:
        return NONE, ""
    return (_size(card.used) if card.total is None else f"{_size(card.used)}/{_size(card.total)}"), ""  # fmt: skip


def _draw(card: Card) -> tuple[str, str]:
    if card.watts is None or card.limit_watts is None:
        return _whole(card.watts), ""
    return f"{card.watts:.0f}/{card.limit_watts:.0f}", ""


def _size(value: float | None) -> str:
    return NONE if value is None else f"{value / 2**30:.1f}G"


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"

"""Buying, renting and electricity side by side: per month at a stated use, per million tokens, and when buying pays.

Prices come from data/prices.json or from a file of the owner with the same keys, each with its date. Does not fetch prices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from consilium.planner.figures import constant, table
from consilium.planner.proposal import yaml_text
from consilium.planner.refusal import nearest, wrong
from consilium.planner.report import table as text_table
from consilium.planner.speed import Rate
from consilium.planner.verdict import Plan

_MOST: Final = 10**9
_UNVERIFIED: Final = "unverified"
_SCALARS: Final = ("electricity_per_kwh", "years", "busy_share", "remote_per_million_output")


@dataclass(frozen=True, slots=True)
class Cost:
    """One way to pay. Money in the file's currency; None where it does not apply."""

    way: str
    per_month: float
    per_million: float | None
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Return the cost for programs."""
        return asdict(self)


def prices(path: str | None) -> dict[str, Any]:
    """Return the price table: the built-in one, with the owner's file on top. Unknown keys are refused with the nearest known one."""
    base = dict(table("prices"))
    if path is None:
        return base
    loaded = _owner_file(Path(path))
    for key, value in loaded.items():
        if key not in base:
            raise wrong(
                "prices",
                f"{str(key)[:40]!r} is no key of a price file; the nearest is {nearest(str(key), base)!r}",
            )
        if key == "gpus":
            if not isinstance(value, Mapping):
                raise wrong(
                    "prices", "gpus is a block: name of a card -> buy, rent_per_hour, date, source"
                )
            base["gpus"] = {
                **base["gpus"],
                **{str(name): _entry(str(name), entry) for name, entry in value.items()},
            }
        else:
            base[key] = (
                {**base[key], **value}
                if isinstance(base[key], Mapping) and isinstance(value, Mapping)
                else {"value": value}
                if key in _SCALARS
                else value
            )
    for key in ("buy", "watts"):
        _amount(base["host"], key, "host")
    return base


def _entry(name: str, entry: object) -> dict[str, Any]:
    """Return an owner's row for a card, checked: what the owner wrote is what the owner says, and needs no check of ours."""
    if not isinstance(entry, Mapping):
        raise wrong("prices", f"{name[:40]} is a block of buy, rent_per_hour, date and source")
    for key in ("buy", "rent_per_hour"):
        if entry.get(key) is not None:
            _amount(entry, key, name)
    return dict(entry)


def _amount(entry: object, key: str, where: str) -> float:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
        raise wrong("prices", f"{where[:40]}.{key} is {str(value)[:30]!r}; give a number")
    return float(value)


def _owner_file(path: Path) -> Mapping[str, Any]:
    import yaml  # noqa: PLC0415  read only when a file is given

    try:
        loaded = (
            yaml.safe_load(path.read_text(encoding="utf-8"))
            if path.stat().st_size < 1 << 20
            else None
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise wrong(
            "prices",
            f"{path} cannot be read as YAML; copy the output of 'consilium plan --prices show'",
        ) from err
    if not isinstance(loaded, Mapping):
        raise wrong(
            "prices", f"{path} holds no keys; copy the output of 'consilium plan --prices show'"
        )
    return loaded


def example() -> str:
    """Return the built-in prices as the YAML file that an owner edits."""
    tree = {key: value for key, value in table("prices").items() if key != "note"}
    named = {
        key: (
            {json.dumps(name): entry for name, entry in value.items()} if key == "gpus" else value
        )
        for key, value in tree.items()
    }
    return f"# {table('prices')['note']}\n" + yaml_text(named)


def compare(
    plan: Plan,
    rates: Mapping[str, Rate | None],
    path: str | None,
    *,
    hours_per_day: float,
    replicas: int = 1,
) -> list[Cost]:
    """Return the ways to pay for this plan's cards at `hours_per_day` of use. Empty when the card has no price."""
    if not 0 < hours_per_day <= 24:
        raise wrong(
            "hours-per-day",
            f"{hours_per_day:g} hours a day cannot be; give more than 0 and at most 24",
        )
    book = prices(path)
    entry = book["gpus"].get(plan.ask.cards[0].name)
    if entry is None:
        return []
    count = len(plan.ask.cards) * replicas
    watts = plan.ask.cards[0].watts
    hours = hours_per_day * constant("days_per_month")
    busy = _value(book, "busy_share")
    work = busy * watts + (1 - busy) * watts * constant("idle_power_share")
    power = (
        (count * work + float(book["host"]["watts"]))
        / 1000
        * hours
        * _value(book, "electricity_per_kwh")
    )
    best = (
        max(
            (
                rate.likely
                for title, rate in rates.items()
                if rate is not None and title.startswith("writing")
            ),
            default=0.0,
        )
        * replicas
    )
    million = best * 3600 * hours * busy / 1e6
    capital = count * float(entry["buy"]) + float(book["host"]["buy"]) if entry.get("buy") else None
    found = []
    if capital is not None:
        monthly = capital / (_value(book, "years") * 12)
        found.append(
            _cost(
                f"buy {count} x {plan.ask.cards[0].name}",
                monthly + power,
                million,
                f"{capital:,.0f} written off over {_value(book, 'years'):g} years, {_as_of(entry, 'buy')}",
            )
        )
    found.append(
        _cost(
            "electricity alone",
            power,
            million,
            f"cards you own: {hours_per_day:g} h a day, {busy:.0%} of it busy, {_value(book, 'electricity_per_kwh'):g} a kWh",
        )
    )
    if entry.get("rent_per_hour"):
        rent = count * float(entry["rent_per_hour"]) * hours
        found.append(
            _cost(
                f"rent {count} x {plan.ask.cards[0].name}",
                rent,
                million,
                f"{_break_even(capital, rent, power)}; {_as_of(entry, 'rent')}",
            )
        )
    service = _value(book, "remote_per_million_output")
    found.append(
        Cost(
            "a paid service",
            million * service,
            service,
            f"the same tokens there; {_as_of(book['remote_per_million_output'], '')}",
        )
    )
    return found


def _as_of(entry: object, kind: str) -> str:
    """Return the date of a price and whether anybody has checked it: 'price as of 2025-11, unverified'."""
    row = entry if isinstance(entry, Mapping) else {}
    checked = str(row.get(f"{kind}_checked" if kind else "checked", ""))
    return f"price as of {row.get('date', 'an unknown date')}" + (
        f", {_UNVERIFIED}" if checked.startswith(_UNVERIFIED) else ""
    )


def _value(book: Mapping[str, Any], key: str) -> float:
    entry = book[key]
    value = _amount(entry if isinstance(entry, Mapping) else {"value": entry}, "value", key)
    if key == "years" and not value:
        raise wrong(
            "prices", "years is 0; give the years over which hardware is written off, such as 3"
        )
    return value


def _cost(way: str, per_month: float, million: float, note: str) -> Cost:
    return Cost(way, round(per_month, 2), round(per_month / million, 3) if million else None, note)


def _break_even(capital: float | None, rent: float, power: float) -> str:
    if capital is None:
        return "hourly price"
    if rent <= power:
        return "hourly price; buying never pays at this use"
    months = capital / (rent - power)
    return f"hourly price; buying pays after {months:.0f} months of this use"


def lines(costs: Sequence[Cost], path: str | None = None) -> str:
    """Return the money table; path is the owner's price file, for its currency."""
    return text_table(
        (str(prices(path)["currency"])[:12], "per month", "per million tokens", "note"),
        [
            (
                cost.way,
                f"{cost.per_month:,.0f}",
                "" if cost.per_million is None else f"{cost.per_million:.2f}",
                cost.note,
            )
            for cost in costs
        ],
    )

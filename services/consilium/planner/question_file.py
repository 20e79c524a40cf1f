"""Reads consilium.yaml into planner questions: the core and every executor that runs on our own machines.

Takes the parsed tree as plain values, so that it needs none of the configuration models. Does not read files and does not check keys that memory does
not depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consilium.planner import edits, models
from consilium.planner.ask import Ask
from consilium.planner.cards import Card
from consilium.planner.figures import GIB, constant
from consilium.planner.gate import beyond, held_length, settings_of
from consilium.planner.lora_settings import over, with_counted
from consilium.planner.refusal import wrong
from consilium.planner.shapes import from_config
from consilium.planner.sharding import Cut
from consilium.planner.verdict import Plan, plan


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine of the file: its answer, how many copies, and the cards that it takes of the list (start, end); `note` says which context was chosen."""

    name: str
    model: str
    plan: Plan
    replicas: int
    cards: tuple[int, int]
    note: str = ""

    @property
    def ask(self) -> Ask:
        """The question that was answered."""
        return self.plan.ask


def engines(
    tree: Mapping[str, Any], cards: Sequence[Card], ram_bytes: int | None, version: str
) -> list[Engine]:
    """Return the engines of a consilium.yaml tree, with cards given out in order: the core first, then the executors by name.

    Raises invalid_request when there are not enough cards or a value is no setting.
    """
    topology = _mapping(tree.get("topology"), "topology")
    base = _mapping(tree.get("engine"), "engine")
    found, taken = [], 0
    specs: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("core", str(tree.get("model") or "demo"), topology, base)
    ]
    for name, spec in _mapping(tree.get("executors"), "executors").items():
        block = _mapping(spec, f"executors.{name}")
        if block.get("kind", "remote" if "url" in block else "engine") == "engine":
            specs.append(
                (
                    str(name),
                    str(block.get("model") or ""),
                    block,
                    over(base, _mapping(block.get("engine"), "engine")),
                )
            )
    alone = len(specs) == 1
    adapters = _mapping(tree.get("adapters"), "adapters")
    for name, model, shape_block, engine in specs:
        one = _engine(
            name,
            model,
            shape_block,
            with_counted(engine, adapters, name),
            cards=cards[taken:],
            ram=ram_bytes,
            version=version,
            alone=alone,
        )
        found.append(replace(one, cards=(taken, taken + one.cards[1])))
        taken += one.cards[1]
        if one.ask.on_cpu and ram_bytes is not None:
            ram_bytes = max(
                1, ram_bytes - round(one.replicas * (one.plan.bill.spent() + one.plan.bill.kv[1]))
            )
    return found


def _engine(
    name: str,
    model: str,
    block: Mapping[str, Any],
    engine: Mapping[str, Any],
    *,
    cards: Sequence[Card],
    ram: int | None,
    version: str,
    alone: bool,
) -> Engine:
    loaded = models.find(model)
    cut = Cut(_count(block, "tensor_parallel"), _count(block, "pipeline_parallel"))
    on_cpu = block.get("device") == "cpu" or not cards
    overrides = _mapping(engine.get("hf_overrides"), "hf_overrides")
    refused = edits.refusal_of_overrides(loaded.config, overrides)
    if refused:
        raise wrong(f"{name}.hf_overrides", refused)
    shape = from_config(edits.merged(loaded.config, overrides), loaded.shape.name)
    if not on_cpu and len(cards) < cut.cards:
        raise wrong(
            f"{name}.topology",
            f"it takes {cut.cards} cards and {len(cards)} are left; give more cards or a smaller tensor_parallel",
        )
    asked = block.get("replicas", "auto")
    replicas = (
        (max(1, len(cards) // cut.cards) if alone and not on_cpu else 1)
        if asked in {"auto", None}
        else _count(block, "replicas")
    )
    if not on_cpu and len(cards) < cut.cards * replicas:
        raise wrong(
            f"{name}.replicas",
            f"{replicas} copies take {cut.cards * replicas} cards and {len(cards)} are left; give more cards or fewer copies",
        )
    ask = Ask(
        shape=shape,
        cards=()
        if on_cpu
        else tuple(
            sorted(cards[: cut.cards * replicas], key=lambda one: one.total_gib)[: cut.cards]
        ),
        cut=Cut() if on_cpu else cut,
        ram_bytes=ram,
        version=version,
        weights=loaded.weights or "bf16",
        weights_bytes=loaded.file_bytes or None,
    )
    ask = settings_of(engine, ask)
    if on_cpu and ask.kv_bytes is None:
        ask = ask.with_(kv_bytes=round(constant("cpu_kv_default_gib") * GIB))
    wanted = engine.get("max_model_len")
    if wanted and (too_long := beyond(shape, int(wanted), engine)):
        raise wrong(name, too_long)
    answer, note = (
        (plan(ask.with_(context=int(wanted))), "")
        if wanted
        else held_length(ask.with_(context=shape.max_positions))
    )
    return Engine(name, model, answer, replicas, (0, 0 if on_cpu else cut.cards * replicas), note)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(
            where, f"{str(value)[:40]!r} is no block of keys; 'consilium config example' shows them"
        )
    return value


def _count(block: Mapping[str, Any], key: str) -> int:
    value = block.get(key, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(
            key, f"{str(value)[:40]!r} is no number of cards; give a whole number of at least 1"
        )
    return value

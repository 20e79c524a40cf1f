"""The check before a cluster starts: every engine of a configuration tree against the cards or the RAM of this machine, given out in order.

Takes the tree as plain values. Does not look at the machine and does not know where models lie: the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from consilium.kernel.errors import ConsiliumError
from consilium.planner import edits, models
from consilium.planner.cards import Card
from consilium.planner.figures import gib
from consilium.planner.gate import Gate, gate
from consilium.planner.lora_settings import over, with_counted

Where = Callable[[str], Path | Mapping[str, Any] | None]


def known_config(model: str) -> Mapping[str, Any] | None:
    """Return the config.json of a model that the table knows by name, or None."""
    try:
        return models.by_name(model).config
    except ConsiliumError:
        return None


def gates(
    tree: Mapping[str, Any],
    *,
    cards: Sequence[Card],
    ram_bytes: int,
    ram_total_bytes: int | None = None,
    config_of: Where = known_config,
) -> list[tuple[str, Gate]]:
    """Return (name, gate) of every engine that runs here: the core, then the executors by their order.

    tree       model, topology, engine, executors, adapters as plain values (None = not set)
    ram_bytes  what is free now; ram_total_bytes is what the machine has, to say whether ending other programs would help
    cards      the GPUs; each engine takes tensor x pipeline x replicas of them, as long as there are enough
    config_of  where a model's config.json is; None = not known yet, the engine is left out

    Too few cards is another check's business: an engine that gets none is left out too.
    """
    base = dict(tree.get("engine") or {})
    rows: list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("core", str(tree.get("model") or ""), tree.get("topology") or {}, base)
    ]
    for name, row in (tree.get("executors") or {}).items():
        if row.get("kind", "engine") == "engine":
            rows.append(
                (str(name), str(row.get("model") or ""), row, over(base, row.get("engine")))
            )
    found, taken, left = [], 0, ram_bytes
    for name, model, shape, settings in rows:
        engine = with_counted(settings, tree.get("adapters"), name)
        config = config_of(model)
        tp, pp = int(shape.get("tensor_parallel") or 1), int(shape.get("pipeline_parallel") or 1)
        on_cpu = shape.get("device") == "cpu" or not cards
        copies = _copies(shape, on_cpu=on_cpu, alone=len(rows) == 1, ways=len(cards) // (tp * pp))
        mine = () if on_cpu else tuple(cards[taken : taken + tp * pp * copies])
        taken += len(mine)
        if config is None or (not on_cpu and len(mine) < tp * pp):
            continue
        one = gate(
            config,
            engine,
            cards=mine,
            ram_bytes=left if on_cpu else None,
            tensor_parallel=1 if on_cpu else tp,
            pipeline_parallel=1 if on_cpu else pp,
        )
        if (
            on_cpu
            and one.verdict == "no"
            and one.plan is not None
            and ram_total_bytes is not None
            and ram_total_bytes > ram_bytes
        ):
            whole = gate(config, engine, ram_bytes=ram_total_bytes - (ram_bytes - left))
            one = _told_with_free_ram(one, whole, free=ram_bytes, total=ram_total_bytes)
        found.append((name, one))
        if on_cpu and one.plan is not None:
            left -= round(copies * (one.plan.bill.spent() + one.plan.bill.kv[1]))
    return found


def _told_with_free_ram(now: Gate, whole: Gate, *, free: int, total: int) -> Gate:
    """Return the refusal with what is free now beside what the machine has, and whether all of it would do."""
    where = f"Of the {gib(total):.1f} GiB of RAM of this machine {gib(free):.1f} GiB are free now."
    if whole.verdict != "no":
        return replace(
            now,
            sentence=f"{now.sentence} {where} With all of them it would start: end other programs.",
        )
    if (
        now.knob == "model"
        and whole.knob != "model"
        and now.plan is not None
        and whole.plan is not None
    ):
        change = whole.sentence.removeprefix(whole.plan.binding).strip()
        return replace(
            now,
            sentence=f"{now.plan.binding} {where} End other programs as well as this. {change}",
            knob=whole.knob,
            value=whole.value,
        )
    return replace(now, sentence=f"{now.sentence} {where}")


def breaking_edit(
    tree: Mapping[str, Any], config_of: Where = known_config
) -> tuple[str, str] | None:
    """Return (key, sentence) of the first hf_overrides in a tree that breaks its model, or None. To be asked before anything is loaded."""
    rows = [("engine", str(tree.get("model") or ""), tree.get("engine") or {})]
    rows += [
        (f"executors.{name}.engine", str(row.get("model") or ""), row.get("engine") or {})
        for name, row in (tree.get("executors") or {}).items()
        if row.get("kind", "engine") == "engine"
    ]
    common = rows[0][2].get("hf_overrides") or {}
    for key, model, engine in rows:
        config = config_of(model)
        overrides = engine.get("hf_overrides") or common
        if config is None or not overrides:
            continue
        loaded = (
            models.read_json(config / "config.json" if config.is_dir() else config)
            if isinstance(config, Path)
            else config
        )
        sentence = edits.refusal_of_overrides(loaded, overrides)
        if sentence is not None:
            return f"{key}.hf_overrides", sentence
    return None


def _copies(shape: Mapping[str, Any], *, on_cpu: bool, alone: bool, ways: int) -> int:
    asked = shape.get("replicas")
    if isinstance(asked, int):
        return max(1, asked)
    return (
        max(1, ways) if alone and not on_cpu and shape.get("kind", "replicas") == "replicas" else 1
    )

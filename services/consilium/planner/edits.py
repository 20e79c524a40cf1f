"""What an edit of config.json does: legal, harmful, silently wrong, or breaking; each with a sentence.

Knows the table data/edits.json and compares two files, or a file and overrides. Does not read tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from consilium.planner.figures import table

Effect = Literal["legal", "harmful", "silently_wrong", "breaks", "unknown"]
ORDER: Final[tuple[Effect, ...]] = ("breaks", "silently_wrong", "harmful", "unknown", "legal")
YARN_LIMIT: Final = 4.0
_NESTED: Final = ("text_config",)


@dataclass(frozen=True, slots=True)
class Edit:
    """One changed key."""

    key: str
    old: object
    new: object
    effect: Effect
    sentence: str


def judge(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Edit]:
    """Return every key that differs between two config.json files, worst first. A key that only `old` has counts as removed (new value None)."""
    before, after = _flat(old), _flat(new)
    found = [
        _one(key, before, after)
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return sorted(found, key=lambda edit: (ORDER.index(edit.effect), edit.key))


def _one(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Edit:
    rows = [row for row in table("edits")["rows"] if row["key"] == key.rsplit(".", maxsplit=1)[-1]]
    old, new = before.get(key), after.get(key)
    for row in rows:
        if _CONDITIONS[row["when"]](old, new, {**before, **after}):
            return Edit(key, old, new, row["verdict"], row["sentence"])
    if rows and rows[-1]["verdict"] == "breaks":
        return Edit(key, old, new, "breaks", rows[-1]["sentence"])
    return Edit(
        key,
        old,
        new,
        "unknown",
        "This key is not in the table. Compare the answers before and after, and keep the old file.",
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in config.items() if key not in _NESTED}
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            flat.update(inner)
    return flat


def _numbers(old: object, new: object) -> tuple[float, float] | None:
    if (
        isinstance(old, int | float)
        and isinstance(new, int | float)
        and not isinstance(old, bool)
        and not isinstance(new, bool)
    ):
        return float(old), float(new)
    return None


def _higher(old: object, new: object, _: Mapping[str, Any]) -> bool:
    pair = _numbers(old, new)
    return pair is not None and pair[1] > pair[0]


def _lower(old: object, new: object, _: Mapping[str, Any]) -> bool:
    pair = _numbers(old, new)
    return pair is not None and pair[1] < pair[0]


def _experts(config: Mapping[str, Any]) -> float:
    count = config.get("num_experts") or config.get("num_local_experts") or 0
    return float(count) if isinstance(count, int | float) else 0.0


def _above_experts(old: object, new: object, config: Mapping[str, Any]) -> bool:
    pair = _numbers(old, new)
    if not _experts(config):
        return False
    return pair is None or pair[1] > _experts(config) or pair[1] < 1 or pair[1] != int(pair[1])


def _below_half(old: object, new: object, _: Mapping[str, Any]) -> bool:
    pair = _numbers(old, new)
    return pair is not None and 1 <= pair[1] < pair[0] / 2


def yarn_factor(rope: object) -> float | None:
    """Return the factor of a YaRN block, or None when it is no YaRN block."""
    if not isinstance(rope, Mapping) or str(rope.get("rope_type") or rope.get("type")) != "yarn":
        return None
    factor = rope.get("factor")
    return (
        float(factor) if isinstance(factor, int | float) and not isinstance(factor, bool) else None
    )


def _yarn_within(_: object, new: object, __: Mapping[str, Any]) -> bool:
    factor = yarn_factor(new)
    plain = new is None or (
        isinstance(new, Mapping)
        and str(new.get("rope_type", new.get("type", "default"))) == "default"
    )
    return plain or (factor is not None and 1.0 <= factor <= YARN_LIMIT)


def _yarn_above(_: object, new: object, __: Mapping[str, Any]) -> bool:
    factor = yarn_factor(new)
    return factor is not None and not 1.0 <= factor <= YARN_LIMIT


def _higher_with_yarn(old: object, new: object, config: Mapping[str, Any]) -> bool:
    factor = yarn_factor(config.get("rope_scaling")) or yarn_factor(config.get("rope_parameters"))
    pair = _numbers(old, new)
    return factor is not None and pair is not None and pair[0] < pair[1] <= pair[0] * factor


_CONDITIONS: Final[dict[str, Callable[[object, object, Mapping[str, Any]], bool]]] = {
    "any": lambda _old, _new, _config: True,
    "higher": lambda old, new, config: (
        _higher(old, new, config) and not _higher_with_yarn(old, new, config)
    ),
    "lower": _lower,
    "higher_with_yarn": _higher_with_yarn,
    "within": lambda old, new, config: (
        not _above_experts(old, new, config) and not _below_half(old, new, config)
    ),
    "above_experts": _above_experts,
    "below_half": _below_half,
    "no_experts": lambda _old, _new, config: not _experts(config),
    "yarn_within": _yarn_within,
    "yarn_above": _yarn_above,
    "not_yarn": lambda old, new, config: (
        not _yarn_within(old, new, config) and not _yarn_above(old, new, config)
    ),
    "true_to_false": lambda old, new, _config: bool(old) and not new,
    "false_to_true": lambda old, new, _config: bool(new) and not old,
}


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config with overrides on top; a nested object is merged, as the engine does with --hf-overrides."""
    found = dict(config)
    for key, value in overrides.items():
        inner = found.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            found[key] = {**inner, **value}
        elif (
            key not in found
            and isinstance(found.get("text_config"), Mapping)
            and key in found["text_config"]
        ):
            found["text_config"] = {**found["text_config"], key: value}
        else:
            found[key] = value
    return found


def refusal_of_overrides(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> str | None:
    """Return the sentence for the first breaking edit among hf_overrides, or None when none breaks. To be asked before anything is loaded."""
    if not overrides:
        return None
    for edit in judge(config, merged(config, overrides)):
        if edit.effect == "breaks":
            return f"hf_overrides: {edit.key} {_short(edit.old)} -> {_short(edit.new)} breaks the model. {edit.sentence}"
    return None


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def meaning(key: str) -> str:
    """Return what a key of config.json means, in one sentence; empty when it is not known."""
    return str(table("edits")["meanings"]["keys"].get(key, ""))


def rules(key: str) -> list[tuple[str, str, str]]:
    """Return (when, verdict, sentence) of every rule about a key."""
    return [
        (row["when"], row["verdict"], row["sentence"])
        for row in table("edits")["rows"]
        if row["key"] == key
    ]

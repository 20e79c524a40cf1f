"""The receipt of one answer: what was done, by whom, and why. Kept for a day, and printed as a timeline.

Knows the fields and their wording. Does not know where receipts are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

STAGES: Final[tuple[tuple[str, str], ...]] = (
    ("gateway", "to check, frame and send it"),
    ("adapter", "to wait for a slot of its adapter"),
    ("queue", "to wait in the engine"),
    ("prefill", "to read the prompt"),
    ("first_token", "from the engine's door to the first token"),
    ("first_byte", "from the request to the first byte of the answer"),
    ("engine", "from the engine's door to the last token"),
    ("total", "from the request to the end of the answer"),
)
"""Stages in the order of the timeline, with what each milliseconds say."""


LONGEST_BYTES: Final = 16 * 1024
"""Bytes of a receipt: it travels in the last chunk of each answer and is kept for a day. The four bounds below keep it so."""
MOST_NOTES: Final = 12
LONGEST_NOTE: Final = 300
MOST_NAME: Final = 128
MOST_IDS: Final = 20
LONGEST_ID: Final = 100
_TIERS: Final = {
    "slot": "a slot of the engine",
    "ram": "the engine's memory; it was put into a slot",
    "ssd": "the store; it was loaded",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """An executor that did not answer: the code of its error, and how long that took in milliseconds."""

    executor: str
    code: str
    took_ms: float


@dataclass(frozen=True, slots=True)
class Added:
    """What a room added to the turn: how many pieces it gave, in how many milliseconds, and why it gave none."""

    source: str
    pieces: int
    took_ms: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt.

    created       Unix seconds of the end of the answer
    model_asked   what the caller wrote; target what it meant; model the id of the one that answered
    profile_why   the rule that chose the profile
    replica_why   why that copy answered, where there are several
    attempts      executors that did not answer, in the order in which they were tried; `executor` is the last one
    contributions what other rooms added; passages and memories name what stands in the prompt, by id and span, never by text
    adapters      which answered, with their versions and weights; adapter_why who chose them, or why none was chosen; adapter_tier
                  where the engine had them when the call came: slot, ram or ssd
    tables        what the gateway held of rooms' tables, with their age where a room is down
    guard         what the guard said
    template      plain when the model has no chat template and ours was used
    usage         prompt_tokens, completion_tokens, cached_tokens
    timings       stage -> milliseconds
    notes         what else was out of the ordinary
    key_id        who asked; it is stored with the receipt and shown to admins only
    """

    id: str
    created: float
    route: str
    model_asked: str
    target: str
    executor: str
    role: str | None = None
    profile: str = ""
    profile_why: str = ""
    model: str = ""
    replica: str = ""
    replica_why: str = ""
    revision: str = ""
    template: str = "model"
    usage: dict[str, int] = field(default_factory=dict)
    finish_reason: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    status: int = 200
    key_id: str = ""
    lane: str = ""
    conversation: str = ""
    attempts: tuple[Tried, ...] = ()
    contributions: tuple[Added, ...] = ()
    adapters: tuple[str, ...] = ()
    adapter_why: str = ""
    adapter_tier: str = ""
    passages: tuple[str, ...] = ()
    memories: tuple[str, ...] = ()
    guard: tuple[str, ...] = ()
    tables: dict[str, str] = field(default_factory=dict)

    @property
    def fallback_from(self) -> str | None:
        """Return the executor that was asked first and gave way to another, or None."""
        first = self.attempts[0] if self.attempts else None
        return first.executor if first is not None and first.executor != self.executor else None

    @property
    def fallback_why(self) -> str | None:
        """Return the code of the error that the first executor gave, or None where it answered."""
        return self.attempts[0].code if self.fallback_from is not None else None

    def as_dict(self) -> dict[str, Any]:
        """Return what the caller sees: fields that say something, without the key."""
        return {
            key: value
            for key, value in self.stored().items()
            if value not in (None, "", (), {}, []) and key != "key_id"
        }

    def stored(self) -> dict[str, Any]:
        """Return every field, as it is kept, within LONGEST_BYTES."""
        told = {
            name: getattr(self, name) for name in self.__slots__
        }  # asdict copies deeply, a quarter of a turn's cost here
        told["conversation"] = self.conversation[:MOST_NAME]
        told["notes"] = _bounded(self.notes, MOST_NOTES, LONGEST_NOTE)
        for name in ("adapters", "passages", "memories", "guard"):
            told[name] = _bounded(told[name], MOST_IDS, LONGEST_ID)
        told["attempts"] = [
            {"executor": each.executor, "code": each.code, "took_ms": each.took_ms}
            for each in self.attempts
        ]
        told["contributions"] = [
            {"source": each.source, "pieces": each.pieces, "took_ms": each.took_ms}
            | ({"note": each.note[:LONGEST_NOTE]} if each.note else {})
            for each in self.contributions
        ]
        if self.fallback_from is not None:
            told |= {"fallback_from": self.fallback_from, "fallback_why": self.fallback_why}
        return told


def _bounded(texts: tuple[str, ...], most: int, longest: int) -> list[str]:
    if len(texts) <= most:
        return [text[:longest] for text in texts]
    return [*(text[:longest] for text in texts[: most - 1]), f"and {len(texts) - most + 1} more"]


def timeline(raw: Mapping[str, Any]) -> str:
    """Return a stored receipt as lines for a person: what was asked, each decision with its reason, each stage with its time."""
    lines = [
        f"receipt   {raw.get('id', '')}",
        f"answered  {_when(raw.get('created'))}, status {raw.get('status', '')}",
        *_decisions(raw),
    ]
    timings = raw.get("timings") or {}
    stages = [
        (name, words, timings[name])
        for name, words in STAGES
        if isinstance(timings.get(name), int | float)
    ]
    if stages:
        lines += ["", "      ms  stage"]
        lines += [f"{took:8.1f}  {name:<12} {words}" for name, words, took in stages]
    return "\n".join(lines)


def _decisions(raw: Mapping[str, Any]) -> list[str]:
    rows = [("asked", f"{raw.get('model_asked', '')}, taken as {raw.get('target', '')}")]
    if raw.get("role"):
        rows.append(("role", str(raw["role"])))
    if raw.get("profile"):
        rows.append(("profile", f"{raw['profile']}: {raw.get('profile_why', '')}"))
    if raw.get("fallback_from"):
        rows.append(
            (
                "fallback",
                f"{raw['fallback_from']} did not answer ({raw.get('fallback_why', '')}), so {raw.get('executor', '')} did",
            )
        )
    rows.append(
        (
            "executor",
            " ".join(
                part
                for part in (
                    str(raw.get("executor", "")),
                    str(raw.get("replica") or ""),
                    str(raw.get("revision") or ""),
                )
                if part
            ),
        )
    )
    rows += [
        (
            str(each.get("source")),
            f"{each.get('pieces')} pieces in {each.get('took_ms')} ms"
            if not each.get("note")
            else str(each["note"]),
        )
        for each in raw.get("contributions") or ()
    ]
    rows += [
        (kind, ", ".join(map(str, raw[kind])))
        for kind in ("adapters", "passages", "memories", "guard")
        if raw.get(kind)
    ]
    if raw.get("adapter_why"):
        rows.append(("because", str(raw["adapter_why"])))
    if raw.get("adapter_tier"):
        rows.append(("found in", _TIERS.get(str(raw["adapter_tier"]), str(raw["adapter_tier"]))))
    if raw.get("replica_why"):
        rows.append(("replica", str(raw["replica_why"])))
    if raw.get("template") == "plain":
        rows.append(("template", "plain: the model has no chat template, so ours was used"))
    usage = raw.get("usage") or {}
    if usage:
        cached = (
            f", {usage.get('cached_tokens', 0)} of them from the cache"
            if usage.get("cached_tokens")
            else ""
        )
        rows.append(
            (
                "tokens",
                f"{usage.get('prompt_tokens', 0)} read{cached}, {usage.get('completion_tokens', 0)} written",
            )
        )
    if raw.get("finish_reason"):
        rows.append(("ended by", str(raw["finish_reason"])))
    rows += [("note", str(note)) for note in raw.get("notes") or ()]
    return [f"{name:<9} {text}" for name, text in rows]


def _when(unix: object) -> str:
    if not isinstance(unix, int | float):
        return "at an unknown time"
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

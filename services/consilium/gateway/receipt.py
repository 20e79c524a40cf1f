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
    ("queue", "to wait in the engine"),
    ("prefill", "to read the prompt"),
    ("first_token", "from the engine's door to the first token"),
    ("first_byte", "from the request to the first byte of the answer"),
    ("engine", "from the engine's door to the last token"),
    ("total", "from the request to the end of the answer"),
)
"""Stages in the order of the timeline, with what each milliseconds say."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt.

    created       Unix seconds of the end of the answer
    model_asked   what the caller wrote; target what it meant; model the id of the one that answered
    profile_why   the rule that chose the profile
    replica_why   why that copy answered, where there are several
    fallback_from executor that was asked first, and fallback_why the error it gave; None where none was needed
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
    fallback_from: str | None = None
    fallback_why: str | None = None
    revision: str = ""
    template: str = "model"
    usage: dict[str, int] = field(default_factory=dict)
    finish_reason: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    status: int = 200
    key_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return what the caller sees: fields that say something, without the key."""
        return {
            key: value
            for key, value in self.stored().items()
            if value not in (None, "", (), {}, []) and key != "key_id"
        }

    def stored(self) -> dict[str, Any]:
        """Return every field, as it is kept."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "notes": list(self.notes)
        }  # asdict copies deeply, a quarter of a turn's cost here


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

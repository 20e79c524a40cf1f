"""Which adapter answers a turn, and why: what the caller or the role says, then a trigger in the text, then its meaning, else the plain model.

    wish = wished(decision's name, request, role)            what was asked for
    chosen = resolve(wish.parts, known, executors)           a reference that engines know, or the sum that must be made first

Pure, made from the table that the gateway holds. Knows adapters and executors by name. Does not know vectors (meaning.py) or who makes sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from consilium.gateway.adapter_rows import Known, Row, Version
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.client import Part, parse

By = Literal["request", "role", "trigger", "meaning", "none"]

DOWN_S: Final = 5.0
"""After so many seconds it is worth asking again for an adapter whose room is away."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What answers.

    reference  what the engine is told; "" = the plain model
    names      what the receipt tells: each part with its version and weight
    parts      of a sum that is not made yet: (reference, weight) each; then `reference` is ""
    fits       executor -> why it cannot answer there; "" = it can
    """

    reference: str = ""
    names: tuple[str, ...] = ()
    by: By = "none"
    why: str = ""
    parts: tuple[tuple[str, float], ...] = ()
    fits: Mapping[str, str] | None = None

    @property
    def is_plain(self) -> bool:
        """Say whether the plain model answers."""
        return not self.names

    def why_not(self, executor: str) -> str:
        """Return why it cannot answer on an executor, or ""."""
        if self.is_plain or self.fits is None:
            return ""
        if not self.fits:
            return f"no engine has told yet which adapters it can hold: {executor} is starting, or has no slots for them (set engine.lora.slots, and start the cluster anew)"
        return self.fits.get(
            executor,
            f"{executor} has no slots for adapters (set engine.lora.slots, and start the cluster anew)",
        )


PLAIN: Final = Chosen()
NO_SLOTS: Final = "engines are still starting, or have no slots for adapters (set engine.lora.slots, and start the cluster anew)"


def asked_for(value: object, field: str) -> tuple[Part, ...]:
    """Return the parts that `consilium.adapters` of a request names: a list of names, each with version and weight as in `adapter/...`.

    Raises ConsiliumError(invalid_request).
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return parse(value, param=field) if value else ()
    if not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        reason = 'it must be a list of names, such as ["sport", "core@0.5"]'
        raise ConsiliumError("invalid_request", field=field, reason=reason, param=field)
    return parse("+".join(value), param=field) if value else ()


def resolve(parts: Sequence[Part], known: Known, *, by: By, why: str = "") -> Chosen:
    """Return what these parts mean now. One that has a core brings it along.

    Raises ConsiliumError: adapter_down before the room was ever heard, adapter_unknown with the nearest name, adapter_refused for one that may not answer.
    """
    if not parts:
        return PLAIN
    if not known.heard:
        raise down([part.name for part in parts], "the table was never heard")
    whole = _with_cores(parts, known)
    versions = [(part, _version(part, known)) for part in whole]
    if len(versions) > 1:
        for part, _ in versions:
            if known.rows[part.name].isolated:
                reason = f"adapter {part.name!r} is isolated, so it is never added to another one. Ask for adapter/{part.name} alone"
                raise ConsiliumError("adapter_refused", reason=reason)
    told = tuple(
        version.reference + ("" if part.weight == 1.0 else f"@{part.weight:g}")
        for part, version in versions
    )
    only, version = versions[0]
    if len(versions) == 1 and only.weight == 1.0:
        return Chosen(version.reference, told, by, why, fits=version.fits)
    needed = tuple(sorted((version.reference, part.weight) for part, version in versions))
    made = known.sums.get(needed)
    fits = _fits([version for _, version in versions]) if made is None else made.fits
    return Chosen("" if made is None else made.reference, told, by, why, needed, fits)


def triggered(text: str, known: Known) -> Chosen:
    """Return the adapter whose trigger stands in the text, the first one in it; the plain model where none does."""
    found = [
        (at, -len(trigger), row.name, trigger)
        for row in known.with_triggers
        for trigger in row.triggers
        if (at := text.find(trigger)) >= 0
    ]
    if not found:
        return PLAIN
    _, _, name, trigger = min(found)
    return resolve((Part(name),), known, by="trigger", why=f"{trigger!r} stands in the text")


def down(names: Sequence[str], detail: str = "") -> ConsiliumError:
    """Return the error for adapters that cannot be told while their room is away."""
    return ConsiliumError("adapter_down", detail, name=", ".join(names), retry_after_s=DOWN_S)


def unknown(name: str, known: Known) -> ConsiliumError:
    """Return the error for a name that no adapter has."""
    near = get_close_matches(name, known.rows, n=1, cutoff=0.5)
    if near:
        return ConsiliumError("adapter_unknown", name=name, nearest=near[0], param="model")
    return ConsiliumError("adapter_unknown", name=name, param="model")


def _with_cores(parts: Sequence[Part], known: Known) -> list[Part]:
    """Return the parts with the core of each that has one, once. Weights of a name's own apply where the caller gave none."""
    found: dict[str, Part] = {}
    for part in parts:
        row = known.rows.get(part.name)
        if row is None:
            raise unknown(part.name, known)
        found[part.name] = _weighted(part, row)
    for row in [known.rows[part.name] for part in parts]:
        core = row.with_core
        if core and core not in found and len(parts) == 1:
            if core not in known.rows:
                reason = f"adapter {row.name!r} is always added to {core!r}, and there is no such adapter. Add {core!r}, or take with_core from {row.name!r}"
                raise ConsiliumError("adapter_refused", reason=reason)
            found[core] = Part(core, "", row.core_weight)
    return list(found.values())


def _weighted(part: Part, row: Row) -> Part:
    is_said = part.is_weighed or part.weight != 1.0
    return part if is_said else Part(part.name, part.sha, row.weight)


def _version(part: Part, known: Known) -> Version:
    row = known.rows[part.name]
    version = row.version(part.sha)
    if version is not None and (version.answers or not part.sha):
        return version
    broken = row.damaged(part.sha)
    if broken is not None:
        reason = f"the files of {part.name}:{broken.sha[:8]} are damaged in the store, so it answers nobody. Add it again ('consilium adapters add'): the same content puts it right"
        raise ConsiliumError("adapter_refused", reason=reason)
    if version is not None:
        reason = f"{part.name}:{version.sha[:8]} is {version.proof}, so it answers nobody. 'consilium adapters show {part.name}' says why; 'consilium adapters switch {part.name} {version.sha[:8]} --force' lets it answer all the same"
        raise ConsiliumError("adapter_refused", reason=reason)
    if part.sha:
        there = ", ".join(each.sha[:8] for each in row.versions) or "none"
        reason = f"adapter {part.name!r} has no single version that begins with {part.sha!r}; it has {there}"
        raise ConsiliumError("adapter_refused", reason=reason)
    proofs = (
        ", ".join(f"{each.sha[:8]} is {each.proof}" for each in row.versions) or "it has no version"
    )
    if row.versions and not any("" in each.fits.values() for each in row.versions):
        why = next((why for each in row.versions for why in each.fits.values()), NO_SLOTS)
        reason = f"adapter {part.name!r} answers nobody, because no engine that runs now can hold it: {why}"
        raise ConsiliumError("adapter_refused", reason=reason)
    told = row.versions[0].sha[:8] if len(row.versions) == 1 else "VERSION"
    if row.versions and row.versions[0].proof == "unproven":
        proofs += ", and an engine tries it as soon as it is idle, which takes seconds"
    reason = f"adapter {part.name!r} answers nobody yet: {proofs}. 'consilium adapters show {part.name}' says why; 'consilium adapters switch {part.name} {told} --force' lets it answer all the same"
    raise ConsiliumError("adapter_refused", reason=reason)


def _fits(versions: Sequence[Version]) -> Mapping[str, str]:
    """Return on which executors all of them fit."""
    executors = set.intersection(*(set(version.fits) for version in versions))
    return {
        name: next((version.fits[name] for version in versions if version.fits[name]), "")
        for name in executors
    }

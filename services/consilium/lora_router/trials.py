"""What each model has shown of an adapter: one that is sound on one model may do nothing, or harm, on another of the same shapes.

A trial belongs to the revision of a model: a short fingerprint of its files, as its replicas tell it. Pure. Does not know who tries, or when.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from consilium.lora_router.ports import Proof, StoredVersion, Trial

FAULTLESS: Final = frozenset({Proof.OK, Proof.UNPROVEN})


def of(version: StoredVersion, revision: str) -> Trial:
    """Return what a model has shown of a version. One that was tried before it was written down on which model counts as tried on all."""
    if not version.trials:
        return Trial(version.proof, version.fingerprint)
    return version.trials.get(revision, Trial())


def is_open(version: StoredVersion, revision: str) -> bool:
    """Say whether a model has found no fault with a version: it is sound there, or nobody has tried it there."""
    return of(version, revision).proof in FAULTLESS


def fault(version: StoredVersion) -> Proof:
    """Return what is wrong with a version where a model has found it not sound."""
    found = (version.proof, *(each.proof for each in version.trials.values()))
    return next((each for each in found if each not in FAULTLESS), version.proof)


def is_doubted(version: StoredVersion) -> bool:
    """Say whether a trial, on any model, has found that a version is not sound."""
    return fault(version) not in FAULTLESS


def after(
    version: StoredVersion, revision: str, trial: Trial, living: Collection[str]
) -> dict[str, Trial]:
    """Return the trials of a version with one more; those on models that no engine has any more are forgotten."""
    kept = {name: each for name, each in version.trials.items() if name in living}
    return {**kept, revision: trial}


def without_doubts(version: StoredVersion) -> StoredVersion:
    """Return a version as if nobody had found fault with it: it is tried again where it was not sound, and answers on where it is."""
    sound = {name: each for name, each in version.trials.items() if each.proof is Proof.OK}
    if not sound:
        return replace(version, proof=Proof.UNPROVEN, proof_json="", fingerprint="", trials={})
    return replace(version, proof=Proof.OK, trials=sound)


def all_in_all(trials: Mapping[str, Trial], last: Proof) -> Proof:
    """Return what is said of a version that is asked about without a model: sound if it is so on one."""
    return Proof.OK if any(each.proof is Proof.OK for each in trials.values()) else last


def why_not(version: StoredVersion, revision: str) -> str:
    """Return why a version that answers elsewhere may not answer on a model; "" = it may."""
    trial = of(version, revision)
    if trial.proof is Proof.OK:
        return ""
    if trial.proof is Proof.UNPROVEN:
        return "it was tried on another model and not on this one yet; that is done as soon as an engine of it is idle"
    return f"tried on this model, it is {trial.proof}"


def as_text(trials: Mapping[str, Trial]) -> str:
    """Return trials as the registry keeps them."""
    return json.dumps({name: [str(t.proof), t.fingerprint] for name, t in sorted(trials.items())})


def from_text(text: str) -> dict[str, Trial]:
    """Return the trials that the registry has kept."""
    rows: dict[str, tuple[str, str]] = json.loads(text)
    return {name: Trial(Proof(proof), mark) for name, (proof, mark) in rows.items()}

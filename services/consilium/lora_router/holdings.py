"""Which adapters are registered, and which of them a name means.

A value: whoever reads it twice sees the same. Knows names, versions and sums. Does not know files or SQL.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.identity import MIX, lora_int_id, parse, reference
from consilium.lora_router.ports import Changes, Held, Named, Proof, Registered, StoredVersion

SHOWN: Final = 12
"""Characters of a hash that are enough for a person."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that is registered.

    versions  name -> sha -> version; sums under the name mix
    hidden    references that are being removed, and names with all their versions: they are found no more
    damaged   hash -> what is wrong with its files: such a version stays, is shown, and answers nobody
    """

    names: Mapping[str, Named] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, Held]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    damaged: Mapping[str, str] = field(default_factory=dict)

    def after(self, changes: Changes) -> Holdings:
        """Return the holdings with changes taken over."""
        names = {name: row for name, row in self.names.items() if name not in changes.gone_names}
        names |= {row.registered.name: row for row in changes.names}
        touched = {name for name, _ in changes.gone_versions}
        touched |= {held.version.name for held in changes.versions}
        versions = dict(self.versions)
        for name in touched:
            gone = {sha for other, sha in changes.gone_versions if other == name}
            now = {sha: held for sha, held in self.of(name).items() if sha not in gone}
            now |= {h.version.sha: h for h in changes.versions if h.version.name == name}
            versions[name] = now
            if not now:
                del versions[name]
        return replace(self, names=names, versions=versions)

    def of(self, name: str) -> Mapping[str, Held]:
        """Return the versions of a name, by hash; none for a name that nobody knows."""
        return self.versions.get(name, {})

    def newest_first(self, name: str) -> tuple[Held, ...]:
        """Return the versions of a name, the newest first."""
        return tuple(
            sorted(
                self.of(name).values(),
                key=lambda held: (held.version.stored_at, held.version.sha),
                reverse=True,
            )
        )

    def all(self) -> Iterable[Held]:
        """Return every version of every name, and the sums."""
        return (held for versions in self.versions.values() for held in versions.values())

    def files(self) -> dict[str, Mapping[str, int]]:
        """Return hash -> size of each file, of all that must lie in the store."""
        return {held.version.sha: held.file_bytes for held in self.all()}

    def holders(self, sha: str) -> tuple[Held, ...]:
        """Return the versions with this content: several names may have the same."""
        return tuple(versions[sha] for versions in self.versions.values() if sha in versions)

    def check_whole(self, version: StoredVersion) -> None:
        """Raise ConsiliumError(conflict) if the files of a version are damaged."""
        why = self.damaged.get(version.sha)
        if why is not None:
            told = reference(version.name, version.sha)
            raise ConsiliumError(
                "conflict",
                reason=f"The files of {told} are damaged: {why}. Add it again: the same content puts them right.",
            )

    def check_core(self, said: Registered) -> None:
        """Raise ConsiliumError(invalid_request) where what is said of a name cannot be: it answers with no core then, or never. The configuration is held to the same (config.py)."""
        name, core = said.name, said.with_core
        known = {other for other in self.names if not self.is_hidden(other)}
        if core == name:
            raise _wrong("with_core", "an adapter is never added to itself; name another one, or leave with_core out")  # fmt: skip
        if core and core not in known:
            near = difflib.get_close_matches(core, known - {name}, n=1, cutoff=0.5)
            raise _wrong("with_core", f"there is no adapter {core!r}" + (f"; the nearest one is {near[0]!r}" if near else ""))  # fmt: skip
        if core and (said.isolated or self.names[core].registered.isolated):
            alone = name if said.isolated else core
            raise _wrong("with_core", f"{alone!r} is isolated, so it is never added to another one")
        leaning = [r.registered.name for r in self.names.values() if r.registered.with_core == name]
        if said.isolated and leaning:
            raise _wrong("isolated", f"{name!r} is the core of {', '.join(sorted(leaning))}, so it is always added to them")  # fmt: skip

    def is_hidden(self, name: str) -> bool:
        """Say whether a name with all its versions is being removed."""
        return name in self.hidden

    def check_stays(self, name: str, sha: str, parts: Sequence[tuple[str, float]] = ()) -> None:
        """Raise ConsiliumError(concurrent_change) if a version is to be added to what is being removed, or a sum of what is gone."""
        leaving = {name, reference(name, sha)} & self.hidden
        there = {reference_of(held) for held in self.all()} - self.hidden if parts else set()
        leaving |= {part for part, _ in parts if part not in there}
        if leaving:
            told = " and ".join(sorted(leaving))
            raise ConsiliumError(
                "concurrent_change",
                reason=f"{told} is being removed. Ask again in a moment.",
                retry_after_s=1.0,
            )

    def named(self, name: str) -> Named:
        """Return what is known of a name. Raises ConsiliumError(adapter_unknown) with the nearest one."""
        found = self.names.get(name)
        if found is None or self.is_hidden(name):
            raise self._unknown(name)
        return found

    def find(self, text: str) -> Held:
        """Return the version that NAME, NAME:VERSION or a reference means.

        Raises ConsiliumError: invalid_request (not written so), adapter_unknown, conflict (no version of it answers, or several begin so).
        """
        parts = parse(text, param="adapter")
        if len(parts) != 1 or parts[0].weight != 1.0:
            raise ConsiliumError(
                "invalid_request",
                field="adapter",
                reason=f"{text[:120]!r} names no single version; write NAME or NAME:VERSION",
            )
        name, beginning = parts[0].name, parts[0].sha
        if not beginning:
            return self._current(self.named(name))
        found = [held for held in self.of(name).values() if _begins(held, beginning)]
        found = [held for held in found if reference_of(held) not in self.hidden]
        if not found:
            raise self._no_such_version(name, beginning)
        if len(found) > 1:
            several = ", ".join(sorted(held.version.sha[:SHOWN] for held in found))
            raise ConsiliumError(
                "conflict",
                reason=f"Several versions of {name!r} begin with {beginning!r}: {several}. Write more of the hash.",
            )
        return found[0]

    def sum_at(self, address: str) -> Held | None:
        """Return the sum that was stored under an address, or None."""
        return next((h for h in self.of(MIX).values() if h.address == address), None)

    def sums_with(self, references: Iterable[str]) -> tuple[Held, ...]:
        """Return the sums in which one of these versions is."""
        wanted = set(references)
        return tuple(
            held
            for held in self.of(MIX).values()
            if any(part in wanted for part, _ in held.version.parts)
        )

    def meant(self, text: str) -> tuple[Held, ...]:
        """Return what goes when this is removed: all versions of NAME, or the one of NAME:VERSION, and the sums with them.

        Raises ConsiliumError: adapter_unknown, conflict (the version answers, or another adapter is always added to it).
        """
        name = text.partition(":")[0]
        if ":" not in text:
            self.named(name)
            leaning = [
                row.registered.name
                for row in self.names.values()
                if row.registered.with_core == name
            ]
            if leaning:
                raise ConsiliumError(
                    "conflict",
                    reason=f"{name!r} is the core of {', '.join(sorted(leaning))}: remove those first, or take with_core from them.",
                )
            going: Sequence[Held] = tuple(self.of(name).values())
        else:
            one = self.find(text)
            going = (one,)
            row = self.names.get(one.version.name)
            if row is not None and row.registered.current == one.version.sha:
                raise ConsiliumError(
                    "conflict",
                    reason=f"{reference_of(one)} is the version of {name!r} that answers. Switch to another one first, or remove {name!r} with all its versions.",
                )
        return (*going, *self.sums_with(map(reference_of, going)))

    def surplus(
        self, name: str, keep: int, is_busy: Callable[[str], bool], *, beside: str = ""
    ) -> tuple[Held, ...]:
        """Return the versions of a name beyond the `keep` newest, but for the current one, those in use, and the one `beside`."""
        row = self.names.get(name)
        spared = {row.registered.current if row else "", beside}
        return tuple(
            held
            for held in self.newest_first(name)[keep:]
            if held.version.sha not in spared and not is_busy(reference_of(held))
        )

    def sums(self) -> tuple[Held, ...]:
        """Return every sum."""
        return tuple(self.of(MIX).values())

    def idle_sums(self, is_busy: Callable[[str], bool]) -> tuple[Held, ...]:
        """Return the sums that nobody uses, the one that was used longest ago first."""
        idle = [held for held in self.of(MIX).values() if not is_busy(reference_of(held))]
        return tuple(
            sorted(idle, key=lambda held: max(held.uses.last_used_at, held.version.stored_at))
        )

    def number_for(self, name: str, sha: str) -> int:
        """Return the number under which engines will know a version.

        It is made from the hash. The same content under a second name gets one of its own, so that an engine never takes the one for the other.
        Raises ConsiliumError(adapter_refused) if another version has it.
        """
        number = lora_int_id(sha)
        if self.holders(sha):
            number = lora_int_id(hashlib.sha256(f"{name}:{sha}".encode()).hexdigest())
        taken = next((h for h in self.all() if h.version.lora_int_id == number), None)
        if taken is not None:
            raise ConsiliumError(
                "adapter_refused",
                reason=f"{reference(name, sha)} would have the number {number} in engines, which {reference_of(taken)} has. Remove that one, or save this one again with another seed (int_id_taken)",
                check="int_id_taken",
            )
        return number

    def _current(self, row: Named) -> Held:
        name, current = row.registered.name, row.registered.current
        found = self.of(name).get(current)
        if found is not None and reference_of(found) not in self.hidden:
            return found
        waiting = self.newest_first(name)
        if not waiting:
            reason = f"The files of {name!r} are gone from the store. Add it again."
        else:
            version = waiting[0].version
            told = version.sha[:SHOWN]
            reason = f"No version of {name!r} answers: {name}:{told} is {version.proof}. "
            reason += (
                f"It is tried as soon as an engine is idle; 'consilium adapters switch {name} {told} --force' lets it answer untried."
                if version.proof is Proof.UNPROVEN
                else "Add another one."
            )
        raise ConsiliumError("conflict", reason=reason)

    def _unknown(self, name: str) -> ConsiliumError:
        known = [other for other in self.names if other != name]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        if near:
            return ConsiliumError("adapter_unknown", name=name, nearest=near[0])
        return ConsiliumError("adapter_unknown", name=name)

    def _no_such_version(self, name: str, beginning: str) -> ConsiliumError:
        told = f"{name}:{beginning}"
        if name != MIX and (name not in self.names or self.is_hidden(name)):
            return self._unknown(name)
        waiting = self.newest_first(name)
        if not waiting or name == MIX:
            return ConsiliumError("adapter_unknown", name=told)
        shas = {held.version.sha[: len(beginning)]: held.version.sha for held in waiting}
        near = difflib.get_close_matches(beginning, list(shas), n=1, cutoff=0.0)
        return ConsiliumError(
            "adapter_unknown", name=told, nearest=f"{name}:{shas[near[0]][:SHOWN]}"
        )


def _wrong(field_: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field_, reason=reason, param=field_)


def reference_of(held: Held) -> str:
    """Return what engines call a version."""
    return reference(held.version.name, held.version.sha)


def _begins(held: Held, beginning: str) -> bool:
    return held.version.sha.startswith(beginning) or (
        bool(held.address) and held.address.startswith(beginning)
    )

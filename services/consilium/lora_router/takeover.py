"""Versions that wait to take over from the one that answers: when each may, and what keeps it from it.

    await takeover.of("sport")     looks at what waits for this name, and lets it answer if it may
    takeover.lost(version)         executor -> why the version that answers now would be lost there

A version takes over once every model on which the old one answers has found it sound. Knows library, fleet and what is told. Does not know how a switch is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import audit, fitting, trials
from consilium.lora_router.fleet import GONE_S, Fleet
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Proof, StoredVersion
from consilium.lora_router.told import Told

_log = logs.get("lora_router")


class TakeOver:
    """One per room.

    switch  (version, whether it still waits) -> whether it was done; raises ConsiliumError, with nothing changed
    """

    def __init__(
        self,
        library: Library,
        fleet: Fleet,
        told: Told,
        clock: Clock,
        switch: Callable[[StoredVersion, Callable[[], bool]], Awaitable[bool]],
    ) -> None:
        self._library, self._fleet, self._told, self._clock = library, fleet, told, clock
        self._switch = switch
        self._begun_at = clock.monotonic()
        self._switching: set[str] = set()
        self._reasons: dict[str, str] = {}

    def lost(self, version: StoredVersion) -> dict[str, str]:
        """Return the executors on which the version that answers now does so, and this one would not, with the reason; those that were there lately count too."""
        old = self._old(version)
        if old is None:
            return {}
        known = self._fleet.revisions()
        lost = fitting.lost(self._told.told_fits(old), self._told.told_fits(version))
        return {executor: why for executor, why in lost.items() if executor in known}

    async def of(self, name: str) -> None:
        """Let the version of a name answer that waits for it, if it may. What keeps it from it is told once."""
        while (version := self._waiting(name)) is not None:
            if name in self._switching or not self._told.answers(version) or self._is_open(version):
                return
            self._switching.add(name)
            try:
                done = await self._switch(version, self._still(version))
            except (ConsiliumError, OSError) as error:
                self._tell(version, error)
                if self._waits(name) == version.sha:
                    return
            else:
                self._reasons.pop(name, None)
                if done:
                    audit.note("version_switched", by=audit.CANARY, adapter=name, sha=version.sha)
            finally:
                self._switching.discard(name)

    def _still(self, version: StoredVersion) -> Callable[[], bool]:
        return lambda: self._waits(version.name) == version.sha

    def _waits(self, name: str) -> str:
        row = self._library.holdings.names.get(name)
        return row.waiting if row is not None else ""

    def _waiting(self, name: str) -> StoredVersion | None:
        sha = self._waits(name)
        try:
            return self._library.find(f"{name}:{sha}") if sha else None
        except ConsiliumError:
            return None  # it is gone, or damaged

    def _old(self, version: StoredVersion) -> StoredVersion | None:
        row, versions = self._library.get(version.name)
        old = next((each for each in versions if each.sha == row.current), None)
        return old if old is not None and self._told.answers(old) else None

    def _is_open(self, version: StoredVersion) -> bool:
        """Say whether a model on which the old version is sound has not tried this one yet: it will, or has not come back since the room began."""
        fits = self._told.fits(version)
        revisions = self._fleet.revisions()
        if any(
            trials.of(version, revisions[executor]).proof is Proof.UNPROVEN
            for executor in self.lost(version)
            if not fits.get(executor)
        ):
            return True
        old = self._old(version)
        if old is None or not version.trials or self._clock.monotonic() - self._begun_at > GONE_S:
            return False
        silent = old.trials.keys() - set(revisions.values()) - version.trials.keys()
        return any(old.trials[revision].proof is Proof.OK for revision in silent)

    def _tell(self, version: StoredVersion, error: Exception) -> None:
        reason = error.public() if isinstance(error, ConsiliumError) else repr(error)
        told = f"{version.sha}: {reason}"
        if self._reasons.get(version.name) != told:
            self._reasons[version.name] = told
            _log.error(
                "version_not_switched", adapter=version.name, sha=version.sha[:16], reason=reason
            )

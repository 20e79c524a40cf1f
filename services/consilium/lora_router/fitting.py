"""On which executors a version fits, by what their replicas have said of their engine; each question is answered once.

Reading a version's header takes milliseconds, and an engine that is heard for the first time asks for all of them: that is done in a thread, before its first report is
answered. Knows versions and engines. Does not know what formats say (it is told by `fit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Described, Refusal, Registered, StoredVersion
from consilium.lora_router.refusal import from_error
from consilium.lora_router.reports import Report

AT_ONCE: Final = 8
"""So few are read without a thread."""

MOST_TOLD: Final = 3
"""Refusals that are told of one version and one engine."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What the replicas of one executor have said of their engine.

    config          config.json of its model; "" = not told
    max_rank        largest rank; 0 = not told
    target_modules  modules that have slots; empty = every one
    mixed_experts   whether it takes experts in both layouts
    """

    config: str = ""
    max_rank: int = 0
    target_modules: tuple[str, ...] = ()
    mixed_experts: bool = False


class Fitting:
    """One per room.

    fit       what an adapter is, and an engine -> why it does not fit; empty = it fits
    outline   what a stored version is; reads its header, raises ConsiliumError
    versions  every version that is stored
    """

    def __init__(
        self,
        fit: Callable[[Described, Engine], Sequence[Refusal]],
        outline: Callable[[StoredVersion], Described],
        versions: Callable[[], Iterable[StoredVersion]],
    ) -> None:
        self._fit, self._outline, self._versions = fit, outline, versions
        self._engines: dict[str, Engine] = {}
        self._found: dict[tuple[str, Engine], str] = {}

    @property
    def largest_rank(self) -> int:
        """Return the largest rank that an engine holds; 0 = none has said."""
        return max((engine.max_rank for engine in self._engines.values()), default=0)

    @property
    def engines(self) -> tuple[tuple[str, Engine], ...]:
        """Return executor and engine of all that were heard."""
        return tuple(self._engines.items())

    async def weighed(self, report: Report) -> None:
        """Return when it is known what fits the engine of a replica that reports."""
        engine = self._engine(report)
        if self._engines.get(report.executor) == engine:
            return
        open_ = [each for each in self._versions() if (each.sha, engine) not in self._found]
        if len(open_) > AT_ONCE:
            await asyncio.to_thread(self._weigh, open_, engine)
            there = {each.sha for each in self._versions()}
            for each in open_:
                if (
                    each.sha not in there
                ):  # its files went meanwhile, and what was seen of them is no answer
                    self._found.pop((each.sha, engine), None)

    def heard(self, report: Report) -> None:
        """Take over what a replica says of its engine, and forget engines that nobody has."""
        self._engines[report.executor] = self._engine(report)
        engines = set(self._engines.values())
        self._found = {key: why for key, why in self._found.items() if key[1] in engines}

    def of(self, version: StoredVersion, rows: Sequence[Registered]) -> dict[str, str]:
        """Return executor -> why a version does not fit there; "" = it fits.

        rows  what is said of its name; of a sum, of the names of all its parts
        """
        found = {}
        for executor, engine in self._engines.items():
            without = next(
                (r.name for r in rows if r.executors and executor not in r.executors), ""
            )
            if without:
                found[executor] = f"adapters.{without}.executors does not name it"
                continue
            key = (version.sha, engine)
            if key not in self._found:
                self._weigh([version], engine)
            found[executor] = self._found[key]
        return found

    def misfit(
        self, refuses: Callable[[Engine], Sequence[Refusal]], executors: Sequence[str]
    ) -> dict[str, Refusal]:
        """Return executor -> why an adapter does not fit there, if it fits none of those that were heard; else nothing.

        refuses    engine -> what refuses it there
        executors  that may hold it; empty = all
        """
        found: dict[str, Refusal] = {}
        for executor, engine in list(self._engines.items()):
            if executors and executor not in executors:
                continue
            refusals = refuses(engine)
            if not refusals:
                return {}
            found[executor] = refusals[0]
        return found

    def _weigh(self, versions: Iterable[StoredVersion], engine: Engine) -> None:
        for version in versions:
            key = (version.sha, engine)
            if key not in self._found:
                self._found[key] = self._why(version, engine)

    def _why(self, version: StoredVersion, engine: Engine) -> str:
        try:
            refusals = self._fit(self._outline(version), engine)
        except ConsiliumError as error:
            refusals = [from_error(error)]
        return "; ".join(str(refusal) for refusal in refusals[:MOST_TOLD])

    def _engine(self, report: Report) -> Engine:
        known = self._engines.get(report.executor, Engine())
        return Engine(
            report.base_config or known.config,
            report.max_rank,
            report.target_modules,
            report.mixed_experts,
        )


def lost(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the executors where one version fits and another does not, with the reason. Both come as `Fitting.of` returns them."""
    return {
        executor: new[executor] for executor, why in old.items() if not why and new.get(executor)
    }

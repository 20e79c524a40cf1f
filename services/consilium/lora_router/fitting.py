"""On which executors a version fits, by what their replicas have said of their engine; each question is answered once.

Reading a version's header takes milliseconds, and an engine that is heard for the first time asks for all of them: that is done in a thread, before its first report is
answered. That files could not be read is no answer: the store may be away for a moment, so they are read again beside later reports. Knows versions and engines. Does not know what formats say (it is told by `fit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Described, Refusal, Registered, StoredVersion
from consilium.lora_router.refusal import from_error
from consilium.lora_router.reports import Report

AT_ONCE: Final = 8
"""So few are read without a thread."""

AGAIN_S: Final = 10.0
"""Files that could not be read are tried again no sooner."""

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


Key: TypeAlias = tuple[str, Engine]
"""Hash of a version, and an engine."""


class Unread(str):
    """Why files could not be read: true for now only."""

    __slots__ = ()


class Fitting:
    """One per room.

    fit       what an adapter is, and an engine -> why it does not fit; empty = it fits
    outline   what a stored version is; reads its header, raises ConsiliumError
    versions  every version that is stored
    on_read   called when files were read that could not be read before: what `of` said of them is over
    """

    def __init__(
        self,
        fit: Callable[[Described, Engine], Sequence[Refusal]],
        outline: Callable[[StoredVersion], Described],
        versions: Callable[[], Iterable[StoredVersion]],
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._fit, self._outline, self._versions = fit, outline, versions
        self._on_read = on_read
        self._engines: dict[str, Engine] = {}
        self._found: dict[Key, str] = {}
        self._unread: set[Key] = set()
        self._reading: asyncio.Task[None] | None = None
        self._read_at, self._times_read = float("-inf"), 0

    @property
    def largest_rank(self) -> int:
        """Return the largest rank that an engine holds; 0 = none has said."""
        return max((engine.max_rank for engine in self._engines.values()), default=0)

    @property
    def basis(self) -> object:
        """Return what the answers stand on; equal as long as `of` says the same of a version."""
        return tuple(self._engines.items()), self._times_read

    async def weighed(self, report: Report) -> None:
        """Return when it is known what fits the engine of a replica that reports."""
        engine = self._engine(report)
        if self._engines.get(report.executor) == engine:
            self._read_again()
            return
        open_ = [each for each in self._versions() if (each.sha, engine) not in self._found]
        if len(open_) > AT_ONCE:
            keys = [(each, engine) for each in open_]
            self._keep(await asyncio.to_thread(self._weigh, keys))

    def heard(self, report: Report) -> None:
        """Take over what a replica says of its engine, and forget engines that nobody has."""
        self._engines[report.executor] = self._engine(report)
        self._drop_unasked()

    def forget(self, executors: Iterable[str]) -> None:
        """Forget the engines of executors that are gone."""
        for executor in executors:
            self._engines.pop(executor, None)
        self._drop_unasked()

    def _drop_unasked(self) -> None:
        engines = set(self._engines.values())
        self._found = {key: why for key, why in self._found.items() if key[1] in engines}
        self._unread = {key for key in self._unread if key[1] in engines}

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
            known = self._found.get((version.sha, engine))
            found[executor] = self._now(version, engine) if known is None else known
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

    def _now(self, version: StoredVersion, engine: Engine) -> str:
        answers = self._weigh([(version, engine)])
        self._keep(answers)
        (why,) = answers.values()
        return str(why)

    def _read_again(self) -> None:
        """Begin to read what could not be read, beside the reports: a disk that is away may answer late."""
        now = asyncio.get_running_loop().time()
        is_reading = self._reading is not None and not self._reading.done()
        if self._unread and not is_reading and now - self._read_at >= AGAIN_S:
            self._read_at = now
            self._reading = asyncio.create_task(self._all_again())

    async def _all_again(self) -> None:
        engines = set(self._engines.values())
        keys = [
            (version, engine)
            for version in self._versions()
            for engine in engines
            if (version.sha, engine) in self._unread
        ]
        before = {(version.sha, engine) for version, engine in keys}
        self._unread &= before  # the others are gone
        self._keep(await asyncio.to_thread(self._weigh, keys))
        read = before & self._found.keys()
        self._unread -= read
        if read:
            self._times_read += 1
            self._on_read()

    def _keep(self, answers: Mapping[Key, str | Unread]) -> None:
        """Take over answers. What went while its files were read is left out: what was seen of them is no answer."""
        there = {each.sha for each in self._versions()}
        for key, why in answers.items():
            if key[0] not in there:
                continue
            if isinstance(why, Unread):
                self._unread.add(key)
            else:
                self._found[key] = why

    def _weigh(self, keys: Iterable[tuple[StoredVersion, Engine]]) -> dict[Key, str | Unread]:
        """Return why versions do not fit, and which could not be read. Changes nothing: it may run in a thread."""
        return {(version.sha, engine): self._why(version, engine) for version, engine in keys}

    def _why(self, version: StoredVersion, engine: Engine) -> str | Unread:
        try:
            refusals = self._fit(self._outline(version), engine)
        except ConsiliumError as error:
            return Unread(str(from_error(error)))
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

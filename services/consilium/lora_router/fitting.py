"""On which executors a version fits, by what their replicas have said of their model; each question is answered once.

Reading a version's header takes milliseconds, and a model that is heard for the first time asks for all of them: that is done in a thread, before its first report is
answered. Knows versions and models. Does not know what formats say (it is told by `fit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from consilium.lora_router.ports import Registered, StoredVersion
from consilium.lora_router.reports import Report

AT_ONCE: Final = 8
"""So few are read without a thread."""


class Fitting:
    """One per room.

    fit       (version, config.json of a model, largest rank there) -> why it does not fit; "" = it fits
    versions  every version that is stored
    """

    def __init__(
        self,
        fit: Callable[[StoredVersion, str, int], str],
        versions: Callable[[], Iterable[StoredVersion]],
    ) -> None:
        self._fit, self._versions = fit, versions
        self._models: dict[str, tuple[str, int]] = {}
        self._found: dict[tuple[str, str, int], str] = {}

    @property
    def largest_rank(self) -> int:
        """Return the largest rank that an engine holds; 0 = none has said."""
        return max((rank for _, rank in self._models.values()), default=0)

    async def weighed(self, report: Report) -> None:
        """Return when it is known what fits the model of a replica that reports."""
        model = self._model(report)
        if self._models.get(report.executor) == model:
            return
        open_ = [each for each in self._versions() if (each.sha, *model) not in self._found]
        if len(open_) > AT_ONCE:
            await asyncio.to_thread(self._weigh, open_, model)
            there = {each.sha for each in self._versions()}
            for each in open_:
                if (
                    each.sha not in there
                ):  # its files went meanwhile, and what was seen of them is no answer
                    self._found.pop((each.sha, *model), None)

    def heard(self, report: Report) -> None:
        """Take over what a replica says of its model, and forget models that nobody has."""
        self._models[report.executor] = self._model(report)
        models = set(self._models.values())
        self._found = {key: why for key, why in self._found.items() if key[1:] in models}

    def of(self, version: StoredVersion, rows: Sequence[Registered]) -> dict[str, str]:
        """Return executor -> why a version does not fit there; "" = it fits.

        rows  what is said of its name; of a sum, of the names of all its parts
        """
        found = {}
        for executor, model in self._models.items():
            without = next(
                (r.name for r in rows if r.executors and executor not in r.executors), ""
            )
            if without:
                found[executor] = f"adapters.{without}.executors does not name it"
                continue
            key = (version.sha, *model)
            if key not in self._found:
                self._weigh([version], model)
            found[executor] = self._found[key]
        return found

    def _weigh(self, versions: Iterable[StoredVersion], model: tuple[str, int]) -> None:
        for version in versions:
            key = (version.sha, *model)
            if key not in self._found:
                self._found[key] = self._fit(version, *model)

    def _model(self, report: Report) -> tuple[str, int]:
        config = report.base_config or self._models.get(report.executor, ("", 0))[0]
        return config, report.max_rank

"""What gateways and replicas are told of adapters: rows of the table, and targets. After a change only what it touches is made anew.

Knows the library, and on which engines its versions fit. Does not know replicas or the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Table
from consilium.lora_router import rows, trials
from consilium.lora_router.config import LoraRouter
from consilium.lora_router.derived import Changes, Derived
from consilium.lora_router.fitting import Fitting
from consilium.lora_router.holdings import Holdings
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Placement, Proof, Registered, StoredVersion, Trial
from consilium.lora_router.reports import Target
from consilium.lora_router.sums import Parts, Sums


class Told:
    """One per room. `settings` are asked at each change: the configuration lives.

    revisions  executor -> short fingerprint of its model
    """

    def __init__(
        self,
        library: Library,
        fitting: Fitting,
        sums: Sums,
        settings: Callable[[], LoraRouter],
        revisions: Callable[[], Mapping[str, str]],
    ) -> None:
        self._library, self._fitting, self._sums, self._settings = library, fitting, sums, settings
        self._revisions = revisions
        self._changes = Changes(library)
        self._targets: dict[str, Derived[Target]] = {}
        self._told: tuple[Holdings, object] | None = None
        self._standing: Mapping[Parts, Placement] = {}
        self._standing_at: Holdings | None = None
        self._leaning: frozenset[str] = frozenset()

    def answers(self, version: StoredVersion) -> bool:
        """Say whether a version may answer: it was tried and is sound, or its owner wants no canary, or insists; of a sum whether it answers anywhere."""
        if version.sha in self._library.damaged:
            return False
        if version.name == MIX and (on := self._revisions_that_may_hold(version)):
            return any(trials.is_open(version, revision) for revision in on)
        if version.proof is Proof.OK:
            return True
        if version.proof is not Proof.UNPROVEN:
            return rows.is_forced(version)
        return not self._settings().canary or rows.is_forced(version) or version.name == MIX

    def _revisions_that_may_hold(self, version: StoredVersion) -> frozenset[str]:
        """Return the models that a version fits, of those that were heard."""
        revisions = self._revisions()
        fits = self.fits(version)
        return frozenset(revisions.get(executor, "") for executor, why in fits.items() if not why)

    def fits(self, version: StoredVersion) -> dict[str, str]:
        """Return executor -> why a version does not fit there; "" = it fits. Of one that is damaged nobody can tell."""
        if version.sha in self._library.damaged:
            return {}
        return self._fitting.of(version, self._rows_in(version))

    def told_fits(self, version: StoredVersion) -> dict[str, str]:
        """Return executor -> why a version does not answer there: it does not fit, or the model of that executor has not shown that it is sound."""
        fits, revisions = self.fits(version), self._revisions()
        is_sum = version.name == MIX  # what was found of one counts without a canary, too
        if not version.trials or rows.is_forced(version):
            return fits
        if not self._settings().canary and not is_sum:
            return fits
        for executor in [executor for executor, why in fits.items() if not why]:
            revision = revisions.get(executor, "")
            is_open = trials.of(version, revision).proof is Proof.UNPROVEN
            if not is_sum or not is_open:
                fits[executor] = trials.why_not(version, revision)
        return fits

    def placement(self, version: StoredVersion) -> Placement:
        """Return where a version is to be: where its adapter is, if it is the one that answers; a sum of an adapter with its core where that one is."""
        if version.name == MIX:
            return self._standing_now().get(version.parts, Placement.SSD)
        row = self.row_of(version)
        if row is None or row.current != version.sha or not self.answers(version):
            return Placement.SSD
        return Placement.SSD if row.with_core else row.placement

    def row_of(self, version: StoredVersion) -> Registered | None:
        """Return what is said of the name of a version; None for a sum, and for what is being removed."""
        if version.name == MIX:
            return None
        try:
            return self._library.get(version.name)[0]
        except ConsiliumError:
            return None

    # targets

    def targets(self, executor: str) -> Mapping[str, Target]:
        """Return what replicas of an executor may be asked for, by reference. Not to be kept: the next question changes it."""
        if executor not in self._targets:
            self._targets[executor] = Derived(
                self._changes, lambda version: self._target(version, executor)
            )
        return self._targets[executor].now((self._basis, self._standing_now()))

    def _target(self, version: StoredVersion, executor: str) -> Target | None:
        if self.fits(version).get(executor, "?"):
            return None
        revision = self._revisions().get(executor, "")
        if version.name == MIX and not trials.is_open(version, revision):
            return None  # it was tried on this model, and it is not sound
        trial = trials.of(version, revision)
        return Target(
            reference(version.name, version.sha),
            version.sha,
            version.lora_int_id,
            version.rank,
            version.size_bytes,
            str(version.path),
            self.placement(version),
            version.is_3d,
            trial.fingerprint,
            Proof.UNPROVEN if self._is_to_be_tried(version, trial) else Proof.OK,
        )

    def _is_to_be_tried(self, version: StoredVersion, trial: Trial) -> bool:
        if not self._settings().canary or trial.proof is not Proof.UNPROVEN:
            return False
        return version.name != MIX or self._sums.is_to_be_tried(version)

    def _standing_now(self) -> Mapping[Parts, Placement]:
        """Return the sums of adapters with their cores; they are looked for only where one of these adapters has changed."""
        holdings, before = self._library.holdings, self._standing_at
        if before is holdings:
            return self._standing
        self._standing_at = holdings
        if before is None or any(map(self._may_lean, self._changes.since(before).names)):
            self._standing = self._sums.standing()
            registered = (row.registered for row in holdings.names.values())
            pairs = ((row.name, row.with_core) for row in registered if row.with_core)
            self._leaning = frozenset(name for pair in pairs for name in pair)
        return self._standing

    def _may_lean(self, name: str) -> bool:
        row = self._library.holdings.names.get(name)
        return name in self._leaning or (row is not None and bool(row.registered.with_core))

    # rows

    def tell(self, table: Table) -> None:
        """Bring the table that gateways follow to what the library holds now."""
        holdings, basis = self._library.holdings, self._basis
        if self._told is None or self._told[1] != basis:
            sums = [each for each in self._library.versions() if each.name == MIX]
            made = self._rows(holdings.names, {reference(MIX, each.sha): each for each in sums})
            there = {key: row for key, row in made.items() if row is not None}
            table.replace({rows.RULES: rows.rules(self._settings()), **there})
        else:
            new = self._changes.since(self._told[0])
            made = self._rows(new.names, new.versions)
            there = {key: row for key, row in made.items() if row is not None}
            table.change(there, tuple(made.keys() - there.keys()))
        self._told = holdings, basis

    @property
    def _basis(self) -> object:
        """Return what rows and targets are made of besides what is held."""
        damaged = frozenset(self._library.damaged)
        return self._settings(), self._fitting.basis, damaged, dict(self._revisions())

    def _rows(
        self, names: Iterable[str], versions: Mapping[str, StoredVersion | None]
    ) -> dict[str, rows.Row | None]:
        """Return the rows of names, and of the sums among versions; None = there is none any more."""
        made = {name: self._row(name) for name in names if name != MIX}
        sums = {key: each for key, each in versions.items() if key.startswith(f"{MIX}:")}
        return made | {key: self._sum_row(each) for key, each in sums.items()}

    def _row(self, name: str) -> rows.Row | None:
        try:
            row, versions = self._library.get(name)
        except ConsiliumError:
            return None  # it is gone, or being removed
        current = next((each for each in versions if each.sha == row.current), None)
        answers = current is not None and self.answers(current)
        return rows.adapter(
            replace(row, current=row.current if answers else ""),
            [(each, self.told_fits(each), self.answers(each)) for each in versions],
        )

    def _sum_row(self, version: StoredVersion | None) -> rows.Row | None:
        if version is None or not self.answers(version):
            return None
        return rows.sum_(version, self.told_fits(version), self._sums.alike(version.sha))

    def _rows_in(self, version: StoredVersion) -> list[Registered]:
        """Return what is said of the name of a version, or of the names of a sum's parts."""
        names = [part.partition(":")[0] for part, _ in version.parts] or [version.name]
        found = map(self._library.holdings.names.get, names)
        return [row.registered for row in found if row is not None]

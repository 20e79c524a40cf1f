"""What the replicas of one executor have in common: in a rolling restart an old one and a new one are there at once, and an adapter must fit both. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from consilium.lora_router.reports import Report


def common(reports: Sequence[Report]) -> Report:
    """Return the newest replica's report, with what every replica of its executor holds: the smallest rank, and the modules that all have slots for.

    reports  the last one of each replica, the newest replica at the end. Its model counts; what it does not tell, an older one has told.
    """
    newest = reports[-1]
    named = [each.target_modules for each in reports if each.target_modules]  # none named = all
    modules = tuple(m for m in named[-1] if all(m in each for each in named)) if named else ()
    return replace(
        newest,
        base_revision=next((r.base_revision for r in reversed(reports) if r.base_revision), ""),
        base_config=next((r.base_config for r in reversed(reports) if r.base_config), ""),
        max_rank=min((each.max_rank for each in reports if each.max_rank), default=0),
        # Where they share none at all, those of the newest: no module named would stand for all.
        target_modules=modules or newest.target_modules,
        mixed_experts=all(each.mixed_experts for each in reports),
    )

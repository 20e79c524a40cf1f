"""The rows of the table `adapters`, which every gateway follows: all that a turn needs to know of an adapter, and nothing about where it is.

The other end is gateway/adapter_rows.py. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from consilium.lora_router.config import LoraRouter
from consilium.lora_router.identity import reference
from consilium.lora_router.ports import Registered, StoredVersion

RULES: Final = "#rules"
"""Key of the row with the limits; no adapter is called so."""
Row = Mapping[str, object]


def adapter(
    row: Registered, versions: Sequence[tuple[StoredVersion, Mapping[str, str], bool]]
) -> Row:
    """Return the row of one name. `versions` come with executor -> why it does not fit there, and whether it may answer who names it."""
    return {
        "kind": "adapter",
        "current": row.current,
        "versions": [
            {
                "sha": version.sha,
                "reference": reference(version.name, version.sha),
                "proof": str(version.proof),
                "fits": dict(fits),
                "answers": answers,
            }
            for version, fits, answers in versions
        ],
        "with_core": row.with_core,
        "core_weight": row.core_weight,
        "weight": row.weight,
        "isolated": row.isolated,
        "domain": row.domain,
        "examples": list(row.examples),
        "triggers": list(row.triggers),
        "threshold": row.threshold,
    }


def sum_(
    version: StoredVersion,
    fits: Mapping[str, str],
    alike: Sequence[Sequence[tuple[str, float]]] = (),
) -> Row:
    """Return the row of a sum. `alike` are other parts that come to the same content."""
    return {
        "kind": "sum",
        "reference": reference(version.name, version.sha),
        "parts": [[name, weight] for name, weight in version.parts],
        "alike": [[[name, weight] for name, weight in parts] for parts in alike],
        "fits": dict(fits),
    }


def rules(settings: LoraRouter) -> Row:
    """Return the row with the limits of choosing by meaning, and of sums that requests may have made."""
    return {
        "kind": "rules",
        "threshold": settings.threshold,
        "margin": settings.margin,
        "sticky_margin": settings.sticky_margin,
        "new_sums_per_minute": settings.new_sums_per_minute,
    }


def is_forced(version: StoredVersion) -> bool:
    """Say whether its owner insists that it answers, whatever a canary says."""
    return bool(_figures(version).get("forced"))


def forced(version: StoredVersion) -> str:
    """Return the figures of a version with the owner's word in them."""
    return json.dumps({**_figures(version), "forced": True}, ensure_ascii=False)


def _figures(version: StoredVersion) -> dict[str, object]:
    try:
        found = json.loads(version.proof_json or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

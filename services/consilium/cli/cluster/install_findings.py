"""What `consilium doctor --cluster` says: every row asked, and what these credentials may not read.

Rules: an Inventory and what is wanted in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from consilium.cli.cluster import install_nodes, install_rows
from consilium.cli.cluster.install_rows import INVENTORY, WANTED
from consilium.cli.cluster.inventory import Inventory
from consilium.cli.cluster.wanted import Wanted
from consilium.kernel.doctor import Facts, Finding, Level, Subject, judge

ROWS: Final = (*install_rows.ROWS[:2], *install_nodes.ROWS, *install_rows.ROWS[2:])


def findings(has: Inventory, asks: Wanted) -> tuple[Finding, ...]:
    """Return what every row finds, in their order, and at the end what could not be read."""
    facts = Facts(Subject(None, Path()), {INVENTORY: has, WANTED: asks})
    unread = tuple(
        Finding(
            f"unread_{kind}",
            kind,
            Level.WARNING,
            f"{kind} could not be read, so nothing is said of them: {why}",
            "Ask with an account that may list them across the cluster: kubectl auth can-i list nodes",
        )
        for kind, why in has.unread.items()
    )
    return (*judge(ROWS, facts), *unread)

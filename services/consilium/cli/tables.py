"""Tables of parts for people: while they come up, and when they run.

Knows rich. Does not know where the figures come from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from consilium.supervisor.state_folder import Cluster

if TYPE_CHECKING:
    from rich.table import Table

    from consilium.supervisor.part_memory import Replica

UNCUT: Final = 1000
"""Columns of a table that has no edge."""

_STYLE: Final = {
    "up": "green",
    "starting": "yellow",
    "waiting": "dim",
    "silent": "red",
    "crashed": "red",
    "failed": "bold red",
    "stopping": "yellow",
    "stopped": "dim",
}

_SUPERVISOR: Final = {"silent": "stands still", "crashed": "gone"}


def show(table: Table) -> None:
    """Print a table: as wide as the terminal, and whole where it goes into a file or another program."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else UNCUT).print(table)


def human(size: int) -> str:
    """Return bytes as MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def starting(cluster: Cluster, now: float) -> Table:
    """Return the table that is redrawn while the parts come up."""
    table = _table("part", "state", "seconds", "")
    for name, part in cluster.parts.items():
        end = part.since if part.state in {"up", "failed"} else now
        seconds = "" if part.state == "waiting" else f"{max(0.0, end - cluster.started):.1f}"
        table.add_row(
            name,
            f"[{_STYLE[part.state]}]{part.state}[/]",
            seconds,
            part.detail[:90] or f"[dim]{part.words}[/]",
        )
    return table


def running(cluster: Cluster, sizes: Mapping[str, int], supervisor: str = "up") -> Table:
    """Return the table of a running cluster: part, state, address, memory.

    supervisor  state of who looks after the parts
    """
    table = _table("part", "state", "address", "memory")
    for name, part in cluster.parts.items():
        word = "not answering" if part.state == "silent" else part.state
        state = f"[{_STYLE[part.state]}]{word}[/]" + (
            f" [dim](restarted {part.restarts} x)[/]" if part.restarts else ""
        )
        table.add_row(
            name,
            state,
            part.address or (f"[dim]{part.detail[:60]}[/]" if part.detail else ""),
            human(sizes[name]) if sizes.get(name) else "",
        )
    rest = sizes.get("supervisor", 0) + sizes.get("other", 0)
    table.add_row(
        "supervisor",
        f"[{_STYLE[supervisor]}]{_SUPERVISOR.get(supervisor, supervisor)}[/]",
        "",
        human(rest),
    )
    table.add_row("[bold]all[/]", "", "", f"[bold]{human(sum(sizes.values()))}[/]")
    return table


def executors(states: Mapping[str, str], model: str, replicas: Iterable[Replica]) -> Table:
    """Return the table of the executors: name, state, model of the core, replicas with their memory."""
    table = _table("executor", "state", "model", "replicas")
    for name, state in states.items():
        mine = [one for one in replicas if one.app == f"executor-{name}"]
        table.add_row(
            name,
            "not answering" if state == "silent" else state,
            model if name == "core" else "",
            ", ".join(f"pid {one.pid} ({human(one.pss_bytes)})" for one in mine),
        )
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))

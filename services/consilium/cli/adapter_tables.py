"""How adapters look to people: a row for each, where it is now, and what is known of it.

Takes the JSON of /v1/adapters. Does not know how it came.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.table import Table

Json = Mapping[str, Any]

SHOWN: Final = 12
"""Characters of a hash."""
_PROOFS: Final = {
    "ok": "green",
    "unproven": "yellow",
    "no_effect": "red",
    "degenerate": "red",
    "failed": "bold red",
    "damaged": "bold red",
}
_SPANS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def adapters(found: Iterable[Json], now: float) -> Table:
    """Return the table of adapters, each with the version that is shown of it."""
    table = _table(
        "name",
        "version",
        "kept in",
        "is now",
        "hits",
        "misses",
        "last use",
        "size",
        "rank",
        "proof",
    )
    for adapter in found:
        for version in adapter["versions"] or [{}]:
            name = adapter["name"]
            table.add_row(
                name + ("" if not adapter["from_config"] else " [dim](configured)[/]"),
                _sha(version, adapter["current"]),
                adapter["placement"] or "",
                where(version),
                str(_hits(version)),
                str(version.get("misses", 0)),
                ago(version.get("last_used_at", 0.0), now),
                size(version.get("size_bytes", 0)),
                str(version.get("rank", "")),
                proof(version),
            )
    return table


def versions(adapter: Json, now: float) -> Table:
    """Return the table of the versions of one adapter."""
    table = _table(
        "version", "stored", "is now", "slot", "memory", "misses", "last use", "size", "rank", "fits", "proof"
    )  # fmt: skip
    for version in adapter["versions"]:
        table.add_row(
            _sha(version, adapter["current"]),
            ago(version["stored_at"], now),
            where(version),
            str(version["slot_hits"]),
            str(version["ram_hits"]),
            str(version["misses"]),
            ago(version["last_used_at"], now),
            size(version["size_bytes"]),
            str(version["rank"]),
            ", ".join(version["fits"]) or "no executor",
            proof(version),
        )
    return table


def details(adapter: Json) -> list[str]:
    """Return what was said of an adapter, a line each."""
    said = [
        ("kept in", adapter["placement"]),
        ("from", "the configuration" if adapter["from_config"] else "the command line"),
        ("with core", adapter["with_core"]),
        ("isolated", "yes, it is never added to another one" if adapter["isolated"] else ""),
        ("executors", ", ".join(adapter.get("executors", ()))),
        ("for", adapter["domain"]),
        ("threshold", adapter.get("threshold")),
        ("called by", ", ".join(adapter["triggers"])),
        ("warning", left_out(adapter)),
    ]
    lines = [f"{key:10} {value}" for key, value in said if value not in ("", None)]
    lines += [f"{'example':10} {text}" for text in adapter.get("examples", ())]
    for version in adapter["versions"]:
        told = version["sha"][:SHOWN]
        lines += [f"{'remark':10} {told}: {remark}" for remark in version["remarks"]]
        if version["proof_json"]:
            lines.append(f"{'canary':10} {told}: {version['proof_json']}")
        lines += [f"{'part':10} {told}: {part}" for part in version["parts"]]
    return lines


def left_out(adapter: Json) -> str:
    """Return why the files that the configuration names are not those that answer; "" where they are."""
    why = str(adapter.get("not_taken_in", ""))
    if not why:
        return ""
    meanwhile = "the version that is stored answers" if adapter["current"] else "nothing answers"
    return f"adapters.{adapter['name']} is not as the configuration says, and {meanwhile}: {why}"


def where(version: Json) -> str:
    """Return where a version is now, in words: slots with their replicas, then memory, else the store."""
    residences: Sequence[Json] = version.get("residences", ())
    told = [_slot(one) for one in residences if one["tier"] == "vram"]
    in_ram = [_replica(one) for one in residences if one["tier"] == "ram"]
    if in_ram:
        told.append(f"RAM of {', '.join(in_ram)}")
    return "; ".join(told) or ("SSD" if version else "nowhere")


def places(residences: Iterable[Json]) -> str:
    """Return the sentence for where something is after it was loaded or let go."""
    return where({"residences": list(residences)})


def proof(version: Json) -> str:
    """Return what is known of the effect."""
    word = str(version.get("proof") or "")
    return f"[{_PROOFS[word]}]{word}[/]" if word in _PROOFS else word


def size(count: int) -> str:
    """Return bytes for people."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def ago(at: float, now: float) -> str:
    """Return how long ago something was."""
    if not at:
        return "never"
    passed = max(0.0, now - at)
    for seconds, unit in _SPANS:
        if passed >= seconds:
            return f"{passed / seconds:.0f} {unit} ago"
    return f"{passed:.0f} s ago"


def _slot(one: Json) -> str:
    pinned = ", pinned" if one["pinned"] else ""
    at = f"slot {one['slot']}" if "slot" in one else "a slot"
    return f"{at} of {_replica(one)}{pinned}"


def _replica(one: Json) -> str:
    busy = f" ({one['in_use']} in use)" if one["in_use"] else ""
    guess = "" if one["exact"] else " (not read from the engine)"
    since = one.get("silent_since", 0.0)
    silent = f" (silent since {time.strftime('%H:%M:%S', time.localtime(since))})" if since else ""
    return f"{one['executor']}/{one['replica'][:8]}{busy}{guess}{silent}"


def _hits(version: Json) -> int:
    return int(version.get("slot_hits", 0)) + int(version.get("ram_hits", 0))


def _sha(version: Json, current: str) -> str:
    sha = str(version.get("sha", ""))
    return sha[:SHOWN] + ("" if sha == current or not sha else " [yellow](does not answer)[/]")


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column, no_wrap=column in ("name", "version"), overflow="fold"
        )  # what other commands ask for is never cut
    return table

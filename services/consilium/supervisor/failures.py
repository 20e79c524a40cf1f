"""Why a part ended: its exit code, and the sentence that it wrote last.

Knows the catalogue and the lines that our programs end with. Does not know processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consilium.kernel.catalogue import BY_CODE
from consilium.supervisor.state_folder import Failure

PASSING: Final = frozenset(
    {"port_taken", "redis_missing", "already_running", "not_running", "part_failed", "disk_full"}
)
"""Codes that another attempt may not meet again. The others say that something must be corrected first."""


def failure_of(name: str, exit_code: int, tail: Sequence[str]) -> Failure:
    """Return why a part ended: by its exit code where the catalogue knows it, with the sentence that it wrote last.

    tail  last lines of its log; `error:` and `next:` lines are what our own programs write before they end
    """
    row = next(
        (row for row in BY_CODE.values() if row.exit_code == exit_code and exit_code != 1),
        BY_CODE["part_failed"],
    )
    said = next(
        (
            line.removeprefix("error:").strip()
            for line in reversed(tail)
            if line.startswith("error:")
        ),
        "",
    )
    step = next(
        (line.removeprefix("next:").strip() for line in reversed(tail) if line.startswith("next:")),
        "",
    )
    if row.code != "part_failed" and said:
        return Failure(row.code, said, step or row.next_step, name)
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    reason = said or " | ".join((f"it ended with {how}", *tail[-3:]))
    return Failure(
        "part_failed",
        BY_CODE["part_failed"].sentence.format(name=name, reason=reason),
        f"'consilium logs {name}' shows what it said.",
        name,
    )

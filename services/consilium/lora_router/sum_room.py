"""Which sums make room for what comes in. Sums are a cache: each can be made again from its parts.

Sums that stand (an adapter with its core, the adapters of a role) go last, and never for one of which only a request has spoken: anybody who may ask can ask for any
weights. Those have a budget of their own. Pure. Does not know files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.holdings import Holdings
from consilium.lora_router.incoming import GIB, Limits
from consilium.lora_router.ports import Held

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Need:
    """What comes in.

    needed    its bytes
    taken     bytes that the store has and those that are on their way
    is_adhoc  a sum that does not stand
    """

    needed: int
    taken: int
    is_adhoc: bool = False


def going(
    holdings: Holdings,
    need: Need,
    limits: Limits,
    is_busy: Callable[[str], bool],
    standing: Collection[object],
) -> Sequence[Held]:
    """Return the sums that must go first.

    standing  the parts of each sum that stands

    Raises ConsiliumError: adapter_store_full; adapter_sums_full where sums that only requests name are all in use, or one alone is too large.
    """
    sums = holdings.sums()
    adhoc = [held for held in sums if held.version.parts not in standing]
    idle = holdings.idle_sums(is_busy)
    first = [held for held in idle if held.version.parts not in standing]
    gone: list[Held] = []
    if need.is_adhoc:
        size = sum(held.version.size_bytes for held in adhoc) + need.needed
        while first and (size > limits.adhoc_bytes or len(adhoc) - len(gone) >= limits.adhoc_sums):
            gone.append(first.pop(0))
            size -= gone[-1].version.size_bytes
        if size > limits.adhoc_bytes or len(adhoc) - len(gone) >= limits.adhoc_sums:
            raise ConsiliumError(
                "adapter_sums_full",
                needed=f"{need.needed / MIB:.1f} MiB",
                count=limits.adhoc_sums,
                limit=f"{limits.adhoc_bytes / GIB:g} GiB",
                retry_after_s=10.0,
            )
    last = () if need.is_adhoc else (held for held in idle if held.version.parts in standing)
    over = need.taken + need.needed - limits.store_bytes
    over -= sum(held.version.size_bytes for held in gone)
    for held in (*first, *last):
        if over <= 0:
            break
        gone.append(held)
        over -= held.version.size_bytes
    if over > 0:
        raise ConsiliumError(
            "adapter_store_full",
            needed=f"{need.needed / MIB:.1f} MiB",
            free=f"{max(0, limits.store_bytes - need.taken) / MIB:.1f} MiB",
            limit=f"{limits.store_bytes / GIB:g} GiB",
        )
    return gone

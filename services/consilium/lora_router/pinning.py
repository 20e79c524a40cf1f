"""Whether one more adapter can be pinned: a slot of each engine stays free for all that are not.

Pure. Knows slots and placements. Does not know who asks, or what replicas do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Placement, Registered


def check(name: str, rows: Iterable[Registered], slots: Mapping[str, int]) -> None:
    """Raise ConsiliumError(adapter_refused) if an engine would have no slot left with one more pinned adapter.

    rows   every adapter, as it is registered
    slots  executor -> slots of its engine; 0 = not known
    """
    pinned = sorted(
        row.name for row in rows if row.placement is Placement.VRAM and row.name != name
    )
    for executor, places in slots.items():
        if places and len(pinned) + 1 >= places:
            reason = f"{name!r} cannot be pinned: {executor} has {places} slots, {len(pinned)} adapters are pinned ({', '.join(pinned)}), and one slot always stays free. Raise engine.lora.slots, or place another one in ram"
            raise ConsiliumError("adapter_refused", reason=reason)

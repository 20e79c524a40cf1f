"""Checks of the adapters' store: how full it is, and whether its disk has room for what it may still take.

Knows the section `lora_router` and the store's folder. Opens no registry.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Final

from consilium.kernel.disk_quota import bytes_under
from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, ok, warning
from consilium.lora_router.config import AdaptersView

GIB: Final = 2**30
NEARLY_FULL: Final = 0.9


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """Bytes that the store has, may have, and that its disk has free; nothing where there is no store yet."""

    stored: int = 0
    quota: int = 0
    free: int = 0


def _store(subject: Subject) -> StoreSeen:
    folder = subject.state / "lora_router" / "store"
    view = subject.view(AdaptersView)
    if view is None or not folder.is_dir():
        return StoreSeen()
    quota = int(view.lora_router.store_gib * GIB)
    return StoreSeen(bytes_under(folder), quota, shutil.disk_usage(folder).free)


STORE: Final = Fact("adapter_store", "The store of adapters", _store, limit_s=4.0)


def _told(facts: Facts) -> Verdict:
    seen = facts[STORE]
    values = {
        "stored": f"{seen.stored / GIB:.1f} GiB",
        "quota": f"{seen.quota / GIB:g} GiB",
        "free": f"{seen.free / GIB:.1f} GiB",
    }
    is_full = seen.stored > NEARLY_FULL * seen.quota
    is_short = seen.free < min(GIB, seen.quota - seen.stored)
    return warning(**values) if is_full or is_short else ok(**values)


ROWS: Final = (
    Row(
        "adapter_store",
        "store of adapters",
        (STORE,),
        _told,
        "it holds {stored} of the {quota} that it may take, and its disk has {free} free",
        "Remove adapters that nobody needs ('consilium adapters ls' shows sizes), raise lora_router.store_gib, or free the disk.",
        "{stored} of {quota}, {free} free on its disk",
        when=lambda facts: facts[STORE].quota > 0,
    ),
)

"""Who changed what of the adapters: one line for each change, and for each that was refused, in the log `audit`.

    with audit.change("adapter_placed", principal, adapter="sport", placement="vram") as told:
        ...
        told["sha"] = "3f9c..."

Knows principals, and what asks for itself: the configuration, a canary. Does not know what a change is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import CLUSTER, Principal

CONFIGURATION: Final = "configuration"
CANARY: Final = "canary"

_log = logs.get("audit")


def name_of(who: object) -> dict[str, str]:
    """Return what is written down of a call's principal: `by`, the id of a key, and `tenant`. Without one it is the cluster itself."""
    if not isinstance(who, Principal) or who == CLUSTER:
        return {"by": "cluster", "tenant": ""}
    return {"by": who.key_id or "no key", "tenant": who.tenant}


def note(event: str, *, by: str, **fields: object) -> None:
    """Write down a change that no call asked for."""
    _log.info(event, by=by, **fields)


@contextmanager
def change(event: str, who: object, **fields: object) -> Iterator[dict[str, object]]:
    """Write down a change when it is done, or that it was refused. What becomes known meanwhile is put into the dict that is given.

    who  principal of the call that asks for it
    """
    told: dict[str, object] = {**fields, **name_of(who)}
    try:
        yield told
    except ConsiliumError as err:
        _log.warning("adapter_change_refused", change=event, **told, code=err.code, reason=err.public())  # fmt: skip
        raise
    _log.info(event, **told)

"""How a check says no: one sentence with the rule, the place, the values and the way out.

Knows the error's code. Does not know which checks there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Refusal

_LONGEST: Final = 160


def refused(code: str, where: str, reason: str, way: str) -> ConsiliumError:
    """Return the error of one refusal; its field `check` holds the code of the rule."""
    return as_error(Refusal(code, shown(where), reason, way))


def as_error(refusal: Refusal) -> ConsiliumError:
    """Return a refusal as an error. Its parts stand in the fields `check`, `where`, `what` and `way`."""
    return ConsiliumError(
        "adapter_refused",
        reason=str(refusal),
        check=refusal.code,
        where=refusal.where,
        what=refusal.reason,
        way=refusal.way,
    )


def nowhere(why: Mapping[str, Refusal]) -> ConsiliumError:
    """Return the error of an adapter that fits no engine: executor -> what refuses it there. Its parts are those of the first one."""
    first = next(iter(why.values()))
    told = "; ".join(f"{executor}: {refusal}" for executor, refusal in why.items())
    return ConsiliumError(
        "adapter_refused",
        reason=f"It fits no engine that is up. {told}. For an engine that is still to come --force stores it all the same (over HTTP force=true)",
        check=first.code,
        where=first.where,
        what=first.reason,
        way=first.way,
    )


def from_error(err: ConsiliumError) -> Refusal:
    """Return the refusal that an error was made of."""
    code, where, what, way = (
        str(err.fields.get(key, "")) for key in ("check", "where", "what", "way")
    )
    return Refusal(code or err.code, where, what or err.public(), way)


def shown(text: object) -> str:
    """Return a text out of a foreign file so that it may stand in a sentence: short, and nothing in it that a terminal would obey."""
    plain = str(text)
    if not plain.isprintable():  # seldom, and asked for every tensor
        plain = "".join(ch if ch.isprintable() else "?" for ch in plain)
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."

"""The few fields of a body that the gateway itself reads: of the right kind, and within its limits.

Everything else is validated by the engine's own models, so that callers read the same words as from a bare engine. Knows bodies. Does not know keys, HTTP
or engines.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.ports import Json, Route
from consilium.gateway.caps import check_caps
from consilium.gateway.config import Gateway
from consilium.gateway.estimate import MOST_ANSWERS, prompts
from consilium.gateway.lengths import count_of
from consilium.kernel.errors import ConsiliumError

LONGEST_NAME: Final = 512
"""Characters of a model's name, in which looking for the nearest known one stays cheap."""
WISHES: Final = frozenset({"role", "profile", "executor", "receipt", "adapters"})
LATER: Final = frozenset({"collections", "dual"})
"""Words of the field `consilium` that come with their own rooms."""


def check_shape(body: Json, limits: Gateway, route: Route) -> None:
    """Raise ConsiliumError(invalid_request) if a field that the gateway itself reads is of the wrong kind, or asks for too much."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise _bad(
            "model",
            f"it must be a string (it is a {type(model).__name__}). GET /v1/models lists the names",
        )
    if isinstance(model, str) and len(model) > LONGEST_NAME:
        raise _bad(
            "model", f"it has {len(model)} characters, and no name has more than {LONGEST_NAME}"
        )
    copies, texts = count_of(body.get("n")) or 1, prompts(body)
    if route != "responses" and copies > limits.max_n:
        raise _bad("n", f"{copies} answers at once were asked for, and the limit is {limits.max_n}")
    if route == "completions" and copies * texts > MOST_ANSWERS:
        raise _bad(
            "prompt",
            f"{texts} prompts with n {copies} ask for {copies * texts} answers at once, and the limit is {MOST_ANSWERS}",
        )
    check_caps(body)
    wish = body.get("consilium")
    if wish is None:
        return
    if not isinstance(wish, dict):
        raise _bad(
            "consilium",
            f"it must be an object (it is a {type(wish).__name__}) with the keys {', '.join(sorted(WISHES))}",
        )
    for key, value in wish.items():
        _check_wish(str(key), value)


def _check_wish(key: str, value: object) -> None:
    if key in LATER:
        raise ConsiliumError(
            "not_supported",
            reason=f"consilium.{key} is not supported by this version",
            param=f"consilium.{key}",
        )
    if key not in WISHES:
        raise _bad(
            f"consilium.{key}", f"there is no such key. Known keys are {', '.join(sorted(WISHES))}"
        )
    if key == "adapters":
        return  # adapter_choice.py reads it
    if key == "receipt":
        if not isinstance(value, bool):
            raise _bad("consilium.receipt", "it must be true or false")
    elif isinstance(value, str) and len(value) > LONGEST_NAME:
        raise _bad(
            f"consilium.{key}",
            f"it has {len(value)} characters, and no name has more than {LONGEST_NAME}",
        )
    elif value is not None and not isinstance(value, str):
        raise _bad(f"consilium.{key}", f"it must be a string (it is a {type(value).__name__})")


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason)

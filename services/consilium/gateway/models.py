"""The grammar of model names.

    auto | base | role/x | adapter/x[:version][@weight][+y...] | executor/x | a plain executor name, core included | a plain served model id

Knows names. Does not know whether what they name is up, nor which executor a role prefers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from consilium.engine.ports import CORE
from consilium.kernel.errors import ConsiliumError

Kind = Literal["auto", "base", "role", "adapter", "executor"]

AUTO: Final = "auto"
BASE: Final = "base"
CUTOFF: Final = 0.5
"""How alike two names must be for one to be offered as the nearest (difflib's ratio)."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a model name means.

    name      the name without its kind, such as philosopher; a served model id becomes the name of its executor
    executor  executor that the name itself demands, or None
    role      role that the name itself demands, or None
    """

    kind: Kind
    name: str
    executor: str | None = None
    role: str | None = None


def resolve(
    model: str | None,
    *,
    roles: Collection[str],
    executors: Mapping[str, str],
    embeds: Sequence[str] = (),
) -> Target:
    """Return what a model name means. None and the empty string are `auto`.

    executors  name -> id of the model that it serves
    embeds     names of the model behind /v1/embeddings, which answers no turn

    What stands behind adapter/ is read in adapter_choice.py.

    Raises ConsiliumError: model_unknown, with the nearest known name where one is near; invalid_request for a name in `embeds`.
    """
    if not model or model in {AUTO, BASE}:
        return Target("base", BASE) if model == BASE else Target("auto", AUTO)
    if model in embeds:
        raise makes_vectors(model)
    kind, slash, name = model.partition("/")
    if slash and kind == "role" and name in roles:
        return Target("role", name, role=name)
    if slash and kind == "executor" and name in executors:
        return Target("executor", name, executor=name)
    found = model if model in executors else _serving(model, executors)
    if found is not None:
        return Target("executor", found, executor=found)
    if kind == "adapter" and name:
        return Target("adapter", name)
    raise unknown(model, roles=roles, executors=executors)


def unknown(model: str, *, roles: Collection[str], executors: Mapping[str, str]) -> ConsiliumError:
    """Return the error for a name that means nothing here; it offers the nearest known name."""
    near = nearest(model, known_names(roles, executors))
    if near is None:
        return ConsiliumError("model_unknown", name=model, param="model")
    return ConsiliumError("model_unknown", name=model, nearest=near, param="model")


def makes_vectors(model: str) -> ConsiliumError:
    """Return the error for an embedding model that was asked to answer."""
    reason = (
        f"{model[:100]!r} makes vectors and does not answer: it is for /v1/embeddings (gRPC: Embed). "
        f"Name a model of type 'chat', such as {AUTO!r}; GET /v1/models tells the type of each"
    )
    return ConsiliumError("invalid_request", field="model", reason=reason, param="model")


def answers(model: str, embeds: Sequence[str]) -> ConsiliumError:
    """Return the error for a model that answers and was asked for vectors. The first of `embeds` is the one to ask."""
    reason = (
        f"{model[:100]!r} answers and makes no vectors: it is for /v1/chat/completions (gRPC: Generate). "
        f"Name {embeds[0]!r}, or 'auto'; GET /v1/models tells the type of each"
    )
    return ConsiliumError("invalid_request", field="model", reason=reason, param="model")


def known_names(roles: Collection[str], executors: Mapping[str, str]) -> list[str]:
    """Return every name that `resolve` takes, in the order of the list of models, without repetition."""
    names = [
        AUTO,
        BASE,
        *(f"role/{role}" for role in roles),
        *(f"executor/{name}" for name in executors),
        *executors,
        *executors.values(),
    ]
    return list(dict.fromkeys(names))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, case aside, or None. A name is compared whole and by its last part, so `philosofer` finds role/philosopher."""
    whole = {item.lower(): item for item in known}
    parts = {item.rpartition("/")[2].lower(): item for item in reversed(list(whole.values()))}
    spellings = {**parts, **whole}
    asked = name.lower()
    for text in dict.fromkeys((asked, asked.rpartition("/")[2])):
        if text and (found := get_close_matches(text, spellings, n=1, cutoff=CUTOFF)):
            return spellings[found[0]]
    return None


def _serving(model: str, executors: Mapping[str, str]) -> str | None:
    """Return the executor that serves a model id; the core before others."""
    if executors.get(CORE) == model:
        return CORE
    return next((name for name, served in executors.items() if served == model), None)

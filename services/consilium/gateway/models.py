"""The grammar of model names, and the list behind GET /v1/models.

    auto | base | role/x | adapter/x | executor/x | a plain executor name, core included | a plain served model id

Knows names. Does not know whether what they name is up, nor which executor a role prefers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from consilium.engine.ports import CORE, ExecutorInfo
from consilium.kernel.errors import ConsiliumError

Kind = Literal["auto", "base", "role", "adapter", "executor"]

AUTO: Final = "auto"
BASE: Final = "base"
OWNER: Final = "consilium"
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


def resolve(model: str | None, *, roles: Collection[str], executors: Mapping[str, str]) -> Target:
    """Return what a model name means. None and the empty string are `auto`.

    executors  name -> id of the model that it serves

    Raises ConsiliumError: model_unknown or adapter_unknown, with the nearest known name where one is near.
    """
    if not model or model == AUTO:
        return Target("auto", AUTO)
    if model == BASE:
        return Target("base", BASE)
    kind, slash, name = model.partition("/")
    if slash and kind == "role" and name in roles:
        return Target("role", name, role=name)
    if slash and kind == "executor" and name in executors:
        return Target("executor", name, executor=name)
    if model in executors:
        return Target("executor", model, executor=model)
    if (found := _serving(model, executors)) is not None:
        return Target("executor", found, executor=found)
    if slash and kind == "adapter":
        raise ConsiliumError(
            "adapter_unknown", "no adapters are registered", name=name, param="model"
        )
    raise unknown(model, roles=roles, executors=executors)


def unknown(model: str, *, roles: Collection[str], executors: Mapping[str, str]) -> ConsiliumError:
    """Return the error for a name that means nothing here; it offers the nearest known name."""
    near = nearest(model, known_names(roles, executors))
    if near is None:
        return ConsiliumError("model_unknown", name=model, param="model")
    return ConsiliumError("model_unknown", name=model, nearest=near, param="model")


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


def listing(
    roles: Collection[str], executors: Collection[ExecutorInfo], created: int, embeds: str = ""
) -> list[dict[str, object]]:
    """Return the `data` of GET /v1/models: auto, base, roles, executors, served ids, the model behind /v1/embeddings. `created` is Unix seconds.

    Each row has OpenAI's fields and a plain `description`; executors and served ids add vLLM's `root` and `max_model_len`; `consilium` says what a row is.
    """
    rows = [
        _row(
            AUTO,
            created,
            "auto",
            "The core; how it thinks and samples is chosen for each turn from its words.",
        )
    ]
    rows.append(_row(BASE, created, "base", "The core as it is, without role or profile."))
    rows += [
        _row(
            f"role/{name}",
            created,
            "role",
            f"The role {name}: its frame stands before what the caller says.",
        )
        for name in roles
    ]
    rows += [
        _row(
            f"executor/{info.name}",
            created,
            "executor",
            f"The executor {info.name}, which serves {info.model or 'a model that it has not named yet'}{_told(info)}.",
            info,
        )
        for info in executors
    ]
    taken = {str(row["id"]) for row in rows}
    for info in sorted(executors, key=lambda info: info.name != CORE):
        if info.model not in taken:
            taken.add(info.model)
            rows.append(
                _row(
                    info.model,
                    created,
                    "model",
                    f"The model that the executor {info.name} serves{_told(info)}.",
                    info,
                )
            )
    if embeds and embeds not in taken:
        rows.append(_row(embeds, created, "embedding", "The model behind /v1/embeddings."))
    return rows


def _told(info: ExecutorInfo) -> str:
    return f": {info.note}" if info.note else ""


def _serving(model: str, executors: Mapping[str, str]) -> str | None:
    """Return the executor that serves a model id; the core before others."""
    if executors.get(CORE) == model:
        return CORE
    return next((name for name, served in executors.items() if served == model), None)


def _row(
    name: str, created: int, kind: str, description: str, info: ExecutorInfo | None = None
) -> dict[str, object]:
    ours: dict[str, object] = {"kind": kind}
    row: dict[str, object] = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "description": description,
    }
    if info is not None:
        row |= {"root": info.model, "parent": None, "max_model_len": info.context}
        ours |= {
            "executor": info.name,
            "state": str(info.state),
            "revision": info.revision,
            "template": info.template,
            "backend": info.kind,
        }
    return row | {"consilium": ours}

"""The list behind GET /v1/models and ListModels: every name that can stand in `model`, and what it is for.

Two kinds of models are in it: those that answer, and the one that makes vectors. OpenAI's own objects do not tell them apart, so each row says it as other servers do:

    type           chat | embedding, as Together and LM Studio have it
    capabilities   completion_chat and embeddings, as Mistral has it
    id             has `embed` in it for a name of the vectors' model, by which n8n chooses what it offers

Knows names and executors. Does not know whether what they name is up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypeAlias

from consilium.engine.ports import CORE, ExecutorInfo
from consilium.gateway.models import AUTO, BASE

Row: TypeAlias = dict[str, object]
OWNER: Final = "consilium"
CHAT: Final = "chat"
EMBEDDING: Final = "embedding"


def listing(
    roles: Mapping[str, str | None],
    executors: Collection[ExecutorInfo],
    created: int,
    embeds: Sequence[str] = (),
    *,
    adapters: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return the `data` of GET /v1/models: auto, base, roles, adapters, executors, served ids, names of the model behind /v1/embeddings.

    roles    role -> executor that it asks for; None = the core
    adapters  adapter that answers -> what it is for
    created  Unix seconds
    embeds   the true name first

    Each row has OpenAI's fields and a plain `description`; vLLM's `root` (id of the model that answers) and `max_model_len`; `consilium` says what a row is.
    """
    by_name = {info.name: info for info in executors}
    core = by_name.get(CORE)
    rows = [
        _row(
            AUTO,
            "auto",
            "The core; how it thinks and samples is chosen for each turn from its words.",
            core,
        ),
        _executor_row(BASE, "base", "The core as it is, without role or profile.", core, CHAT),
    ]
    rows += [
        _row(
            f"role/{role}",
            "role",
            f"The role {role}: its frame stands before what the caller says.",
            by_name.get(wanted or CORE),
        )
        for role, wanted in roles.items()
    ]
    rows += [
        _row(
            f"adapter/{name}",
            "adapter",
            f"The adapter {name}{f': {domain[:200]}' if domain else ''}.",
            core,
        )
        | {"parent": core.model if core is not None else None}
        for name, domain in (adapters or {}).items()
    ]
    rows += [
        _executor_row(
            f"executor/{info.name}",
            "executor",
            f"The executor {info.name}, which serves {info.model or 'a model that it has not named yet'}{_told(info)}.",
            info,
            _type(info, embeds),
        )
        for info in executors
    ]
    taken = {str(row["id"]) for row in rows}
    for info in sorted(executors, key=lambda info: info.name != CORE):
        if info.model not in taken:
            taken.add(info.model)
            said = f"The model that the executor {info.name} serves{_told(info)}."
            rows.append(_executor_row(info.model, "model", said, info, _type(info, embeds)))
    rows += [_vectors(name, embeds[0]) for name in embeds if name not in taken]
    return [row | {"created": created} for row in rows]


def _told(info: ExecutorInfo) -> str:
    return f": {info.note}" if info.note else ""


def _type(info: ExecutorInfo, embeds: Sequence[str]) -> str:
    return EMBEDDING if f"executor/{info.name}" in embeds else CHAT


def _vectors(name: str, true: str) -> Row:
    said = f"Another name of {true}, the" if name != true else "The"
    row = _row(name, "embedding", f"{said} model behind /v1/embeddings.", None, EMBEDDING)
    return row | {"root": true}


def _executor_row(
    name: str, kind: str, description: str, info: ExecutorInfo | None, type_: str
) -> Row:
    """Return the row of a name that is always answered by one executor."""
    row = _row(name, kind, description, info, type_)
    if info is None:
        return row
    ours: Row = {
        "kind": kind,
        "executor": info.name,
        "state": str(info.state),
        "revision": info.revision,
        "template": info.template,
        "backend": info.kind,
    }
    if info.step_s:
        ours["step"] = {"tokens": info.step_tokens, "seconds": info.step_s}
    return row | {"consilium": ours}


def _row(
    name: str,
    kind: str,
    description: str,
    info: ExecutorInfo | None,
    type_: str = CHAT,
) -> Row:
    row: Row = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "description": description,
        "type": type_,
        "capabilities": {"completion_chat": type_ == CHAT, "embeddings": type_ == EMBEDDING},
        "root": info.model if info is not None else name,
        "parent": None,
    }
    if info is not None:
        row["max_model_len"] = info.context
    return row | {"consilium": {"kind": kind}}

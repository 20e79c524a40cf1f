"""What LoraRouterService does for people, over HTTP as well: whoever reaches the gateway's HTTP needs no second address for its gRPC.

GET    /v1/adapters                  ListAdapters; ?sums=true lists sums too
GET    /v1/adapters/NAME             GetAdapter
DELETE /v1/adapters/NAME             RemoveAdapter; NAME:VERSION removes one version; ?wait_s=SECONDS
POST   /v1/adapters/NAME/place       PlaceAdapter   {"placement": "vram"}
POST   /v1/adapters/NAME/warm        WarmAdapter    {"tier": "ram"}, or nothing
POST   /v1/adapters/NAME/evict       EvictAdapter
POST   /v1/adapters/NAME/switch      SwitchVersion  {"sha": "3f9c1a", "force": false}

Bodies and answers are the messages of the proto as JSON, under their names there, with tiers and proofs as words. Does not know how anything is done.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.grpc_messages import as_dict
from consilium.v1 import lora_router_pb2 as pb
from consilium.v1 import lora_router_pb2_grpc as rpc

ADAPTERS: Final = "/v1/adapters"
_MOST_BYTES: Final = 64 << 10
_TRUE: Final = frozenset({"true", "1", "yes"})
_ENUMS: Final = {"Tier": "TIER_", "Proof": "PROOF_"}
Method: TypeAlias = Callable[[Any, Any], Awaitable[Message]]


def routes(servicer: rpc.LoraRouterServiceServicer) -> list[Route]:
    """Return the routes over a servicer, whose methods need no context of gRPC."""
    calls = _Calls(servicer)
    one = f"{ADAPTERS}/{{name}}"
    return [
        Route(ADAPTERS, calls.list_all, methods=["GET"]),
        Route(one, calls.show, methods=["GET"]),
        Route(one, calls.remove, methods=["DELETE"]),
        Route(f"{one}/place", calls.place, methods=["POST"]),
        Route(f"{one}/warm", calls.warm, methods=["POST"]),
        Route(f"{one}/evict", calls.evict, methods=["POST"]),
        Route(f"{one}/switch", calls.switch, methods=["POST"]),
    ]


def as_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON has it: every field but those that are optional and not set, numbers as numbers, tiers and proofs as words."""
    return as_dict(message, every_field=True, word=_word)


class _Calls:
    def __init__(self, servicer: rpc.LoraRouterServiceServicer) -> None:
        self._servicer: Any = servicer

    async def list_all(self, request: Request) -> Response:
        with_sums = request.query_params.get("sums", "").lower() in _TRUE
        asked = pb.ListAdaptersRequest(with_sums=with_sums)
        return _answer(await self._servicer.ListAdapters(asked, None))

    async def show(self, request: Request) -> Response:
        asked = pb.GetAdapterRequest(name=request.path_params["name"])
        answer: pb.GetAdapterResponse = await self._servicer.GetAdapter(asked, None)
        return _answer(answer.adapter)

    async def remove(self, request: Request) -> Response:
        asked = pb.RemoveAdapterRequest(name=request.path_params["name"])
        if wait_s := request.query_params.get("wait_s"):
            try:
                asked.wait_s = float(wait_s)
            except ValueError:
                raise _wrong("wait_s", "it is a number of seconds") from None
        return _answer(await self._servicer.RemoveAdapter(asked, None))

    async def place(self, request: Request) -> Response:
        asked = await _read(request, pb.PlaceAdapterRequest())
        answer: pb.PlaceAdapterResponse = await self._servicer.PlaceAdapter(asked, None)
        return _answer(answer.adapter)

    async def warm(self, request: Request) -> Response:
        asked = await _read(request, pb.WarmAdapterRequest())
        return _answer(await self._servicer.WarmAdapter(asked, None))

    async def evict(self, request: Request) -> Response:
        asked = await _read(request, pb.EvictAdapterRequest())
        return _answer(await self._servicer.EvictAdapter(asked, None))

    async def switch(self, request: Request) -> Response:
        asked = await _read(request, pb.SwitchVersionRequest())
        answer: pb.SwitchVersionResponse = await self._servicer.SwitchVersion(asked, None)
        return _answer(answer.adapter)


def _answer(message: Message) -> Response:
    return JSONResponse(as_json(message))


async def _read(request: Request, message: Message) -> Message:
    """Return the message that the body and the path say. Raises ConsiliumError(invalid_request)."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise ConsiliumError(
                "body_too_large", size=len(body), key="this path", limit=_MOST_BYTES
            )
    try:
        said = json.loads(bytes(body)) if body.strip() else {}
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise _wrong("body", "it must be a JSON object, or nothing")
    fields = message.DESCRIPTOR.fields_by_name
    known = [name for name in fields if name != "name"]
    for key in said:
        if key not in known:
            raise _wrong(str(key)[:80], f"there is no such key here; there is {_listed(known)}")
    wished = {key: _wished(key, value, fields[key]) for key, value in said.items()}
    try:
        ParseDict({**wished, "name": request.path_params["name"]}, message)
    except ParseError:
        raise _wrong("body", f"write {_listed(known)} as in its description") from None
    return message


def _wished(key: str, value: object, field: Any) -> object:
    """Return a value as the proto spells it: `vram` is TIER_VRAM."""
    kind = field.enum_type
    if kind is None:
        return value
    prefix = _ENUMS[kind.name]
    names = {name.removeprefix(prefix).lower(): name for name in kind.values_by_name}
    names.pop("unspecified")
    if not isinstance(value, str) or value not in names:
        raise _wrong(key, f"it is one of {_listed(list(names))}")
    return names[value]


def _word(enum: str, value: str) -> str:
    """Return a tier or a proof as a word: TIER_VRAM is `vram`, one that is not set is nothing."""
    word = value.removeprefix(_ENUMS[enum]).lower()
    return "" if word == "unspecified" else word


def _listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


def _wrong(key: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=key, reason=reason, param=key)

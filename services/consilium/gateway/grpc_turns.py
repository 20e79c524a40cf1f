"""TurnService: turns that rooms of the cluster ask for, for a key or for the cluster itself.

The same turn as over HTTP: key, quota, receipt and bytes are the same. Wire <-> domain, nothing else; the internal token is checked before
(grpc_inner.py). Does not know how a turn is played.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from consilium.engine.ports import LANES, Lane, Route
from consilium.gateway import asgi, conversation_name, grpc_events, http_responses, turn
from consilium.gateway.face import Entry, Face
from consilium.gateway.reservation import Reservation
from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_server import Service
from consilium.kernel.json_bytes import dumps
from consilium.kernel.principals import CLUSTER, Principal
from consilium.v1 import turns_pb2 as pb
from consilium.v1 import turns_pb2_grpc as rpc

NAME: Final = "consilium.v1.TurnService"
HTTP_OK: Final = 200
JSON_TYPE: Final = "application/json"
DEFAULT_LANE: Final = "normal"
EMBEDDINGS: Final = "embeddings"
CHUNK_BYTES: Final = 1 << 20
"""Longest piece of a body in one message."""
_ROUTES: Final[Mapping[int, Route]] = {
    pb.TURN_ROUTE_CHAT: "chat",
    pb.TURN_ROUTE_COMPLETIONS: "completions",
    pb.TURN_ROUTE_RESPONSES: "responses",
}
_ANSWER_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""A ULID, or what another room names its answers by."""


class Turns(rpc.TurnServiceServicer):
    """Serves one gateway replica."""

    def __init__(self, face: Face) -> None:
        self._face = face

    async def PlayTurn(
        self, request: pb.PlayTurnRequest, context: Any
    ) -> AsyncGenerator[pb.PlayTurnResponse, None]:
        """Answer one turn. Raises ConsiliumError; the kernel's server tells it."""
        route = _ROUTES.get(request.route)
        if route is None and request.route != pb.TURN_ROUTE_EMBEDDINGS:
            raise _bad("route", "it must be chat, completions, responses or embeddings")
        lane = _lane(request.lane)
        conversation_name.check(request.conversation)
        if request.answer_id and not _ANSWER_ID.fullmatch(request.answer_id):
            raise _bad("answer_id", "write 1 to 64 letters, digits, dots, dashes, colons and _")
        limits = self._face.cast.limits
        body = asgi.parse_object(request.body_json, limits.max_json_depth)
        entry = await self._enter(request, body)
        if route is None:
            answers = self._embedded(entry, body)
        else:
            answers = self._played(request, route, lane, entry, body)
        async with aclosing(answers) as messages:
            async for message in messages:
                yield message

    async def _enter(self, request: pb.PlayTurnRequest, body: dict[str, Any]) -> Entry:
        """Let in whoever the turn is for: the key that is named, else the one whose call the room is answering, else the cluster."""
        asks = calls.current().principal
        key_id = request.acting_for or (asks.key_id if isinstance(asks, Principal) else "")
        size, authority = len(request.body_json), self._face.authority
        clock = self._face.cast.clock
        began = clock.monotonic()
        if not key_id and asks != CLUSTER:  # whoever has no key is not the cluster
            admitted = await authority.authenticate(None, self._face.bound(body, size))
        else:
            admitted = await authority.act_for(key_id, self._face.bound(body, size))
        held = Reservation(admitted.key_id, admitted.reserved, authority.settle)
        return Entry(admitted, held, size, clock.monotonic() - began)

    async def _played(
        self,
        request: pb.PlayTurnRequest,
        route: Route,
        lane: Lane,
        entry: Entry,
        given: dict[str, Any],
    ) -> AsyncGenerator[pb.PlayTurnResponse, None]:
        face, body, admitted = self._face, given, entry.admitted
        if route == "responses":
            try:
                body = await http_responses.continued(face, given, admitted)
            except BaseException:
                await asyncio.shield(entry.held.settle(0))
                raise
        ask = entry.ask(
            route,
            body,
            deadline=calls.current().deadline,
            lane=lane,
            conversation=_conversation(request, given, admitted.key_id),
            answer_id=request.answer_id,
        )
        playing = await turn.play(face.cast, ask)
        try:
            if playing.head.stream:  # a room hears an error as an error, until there is a byte
                await playing.begin()
            yield pb.PlayTurnResponse(head=_head(playing))
            keeper = None
            if route == "responses" and playing.head.status == HTTP_OK:
                keeper = http_responses.Keeper(face, given, body, admitted)
            async with aclosing(_bytes(playing, keeper)) as chunks:
                async for chunk in chunks:
                    for piece in _pieces(chunk):
                        yield pb.PlayTurnResponse(chunk=piece)
            tail = pb.TurnTail(
                usage=grpc_events.usage_of(playing.usage), finish_reason=playing.finish_reason
            )
            yield pb.PlayTurnResponse(tail=tail)
        finally:
            await playing.aclose()

    async def _embedded(
        self, entry: Entry, body: dict[str, Any]
    ) -> AsyncGenerator[pb.PlayTurnResponse, None]:
        used = 0
        try:
            made = await self._face.embed(body)
            used = int(made["usage"]["total_tokens"])
        finally:
            await entry.held.settle(used)
        head = pb.TurnHead(status=HTTP_OK, content_type=JSON_TYPE, executor=EMBEDDINGS)
        yield pb.PlayTurnResponse(head=head)
        for piece in _pieces(dumps(made)):
            yield pb.PlayTurnResponse(chunk=piece)
        usage = grpc_events.usage_of({"prompt_tokens": used})
        yield pb.PlayTurnResponse(tail=pb.TurnTail(usage=usage))


def service(face: Face) -> Service:
    """Return the service as the kernel's server takes it. Reflection does not tell of it."""
    servicer = Turns(face)
    return Service(
        NAME, lambda server: rpc.add_TurnServiceServicer_to_server(servicer, server), shown=False
    )


async def _bytes(
    playing: turn.Answer, keeper: http_responses.Keeper | None
) -> AsyncGenerator[bytes, None]:
    """Yield the bytes that an HTTP caller would get."""
    if keeper is None:
        async for chunk in playing:
            yield chunk
    elif playing.head.stream:
        async for chunk in keeper.stream(playing):
            yield chunk
    else:
        yield await keeper.document(b"".join([chunk async for chunk in playing]))


def _head(playing: turn.Answer) -> pb.TurnHead:
    head = playing.head
    told = pb.TurnHead(
        status=head.status,
        content_type=head.content_type,
        stream=head.stream,
        receipt_id=playing.receipt_id,
        executor=playing.executor,
    )
    if head.retry_after is not None:
        told.retry_after_s = head.retry_after
    return told


def _pieces(chunk: bytes) -> list[bytes]:
    return [chunk[at : at + CHUNK_BYTES] for at in range(0, len(chunk), CHUNK_BYTES)]


def _lane(name: str) -> Lane:
    for lane in LANES:
        if lane == (name or DEFAULT_LANE):
            return lane
    raise _bad("lane", f"it must be one of {', '.join(LANES)} (it is {name[:20]!r})")


def _conversation(request: pb.PlayTurnRequest, body: dict[str, Any], key_id: str) -> str:
    said = {conversation_name.HEADER: request.conversation} if request.conversation else {}
    return conversation_name.named(said, body, key_id)


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason)

"""The routes that a turn answers: OpenAI's chat, completions and responses, and vLLM's tokenize, detokenize and tokenizer_info.

Knows the body, the answer's bytes and when a caller has left. Does not know how a turn is played.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

from consilium.engine.ports import Json, Route
from consilium.gateway import asgi, conversation_name, http_responses, turn
from consilium.gateway.config import Gateway
from consilium.gateway.face import Entry
from consilium.gateway.http_visit import HTTP_OK, Visit
from consilium.gateway.keep_alive import KeptAlive
from consilium.gateway.reservation import Reservation
from consilium.kernel.errors import ConsiliumError

ROUTES: Final[Mapping[str, Route]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
TOOLS_HEADER: Final = b"x-consilium-tools"
TOOLS_LEFT_OUT: Final = b"left-out"
"""An answer to a request with tools by a model that cannot call any; its receipt says which setting would change that."""
READ_S: Final = 10.0
"""Seconds that a caller has to read the rest of its answer when the time of the turn is over."""


async def play(visit: Visit) -> None:
    """Play the turn that a body asks for, and send its bytes."""
    face, request, route = visit.face, visit.request, ROUTES[visit.route.path]
    try:
        deadline = visit.deadline()
        given, entry = await visit.enter_with_body()
        admitted = entry.admitted
        body = await _continued(visit, route, given, entry)
    except ConsiliumError as error:
        face.cast.meter.request(route, error.row.http)
        face.cast.meter.refused(error.code)
        raise
    named = conversation_name.named(request.headers, given, admitted.key_id)
    ask = entry.ask(route, body, deadline=deadline, conversation=named)
    while_here = asyncio.ensure_future(turn.play(face.cast, ask))
    playing = await asgi.unless_gone(request, while_here, turn.Answer.aclose)
    headers = [*visit.headers, (b"x-consilium-receipt", playing.receipt_id.encode())]
    if playing.head.tools_left_out:
        headers.append((TOOLS_HEADER, TOOLS_LEFT_OUT))
    if (wait_s := playing.head.retry_after) is not None:
        headers.append((b"retry-after", str(max(1, round(wait_s))).encode()))
    keeper = None
    if route == "responses" and playing.head.status == HTTP_OK:
        keeper = http_responses.Keeper(face, given, body, admitted)
    try:
        # A caller that does not read holds no place for longer than an answer may take.
        async with asyncio.timeout(visit.left_s(deadline) + READ_S):
            await _send(request, playing, headers, keeper, face.cast.limits)
    except ConsiliumError as error:
        playing.stopped(error)
        raise
    except TimeoutError:
        raise ConsiliumError(
            "deadline",
            "the caller did not read its answer",
            name=playing.executor,
            receipt=playing.receipt_id,
        ) from None
    finally:
        await playing.aclose()


async def _continued(visit: Visit, route: Route, given: Json, entry: Entry) -> Json:
    """Return the body with what it goes on from. Raises ConsiliumError; then nothing is taken from the quota."""
    if route != "responses":
        return given
    try:
        return await http_responses.continued(visit.face, given, entry.admitted)
    except BaseException:
        await asyncio.shield(entry.held.settle(0))
        raise


async def tokenizer_info(visit: Visit) -> None:
    """GET /tokenizer_info[?model=NAME]: what vLLM tells of a model's tokenizer, by which lm-eval counts and cuts."""
    face, request = visit.face, visit.request
    admitted = await visit.enter()
    held = Reservation(admitted.key_id, 0, face.authority.settle)
    named = parse_qs(request.query).get("model")
    body: Json = {"model": named[-1]} if named else {}
    ask = Entry(admitted, held).ask("tokenizer_info", body, deadline=visit.deadline())
    playing = await asgi.unless_gone(
        request, asyncio.ensure_future(turn.play(face.cast, ask)), turn.Answer.aclose
    )
    try:
        await _send(request, playing, visit.headers, None, face.cast.limits)
    finally:
        await playing.aclose()


async def _send(
    request: asgi.Request,
    playing: turn.Answer,
    headers: asgi.Headers,
    keeper: http_responses.Keeper | None,
    limits: Gateway,
) -> None:
    """Send an answer that was accepted."""
    head, media = playing.head, playing.head.content_type.encode()
    if head.stream:
        chunks = aiter(playing) if keeper is None else keeper.stream(playing)
        async with KeptAlive(request, limits.sse_keep_alive_s) as kept:
            await asgi.stream(
                kept.request, head.status, chunks, headers, media, unread_s=limits.unread_s
            )
        return
    whole = await asgi.unless_gone(request, asyncio.ensure_future(_collect(playing)))
    if keeper is not None:
        whole = await keeper.document(whole)
    await asgi.answer(request, head.status, whole, headers, media)


async def _collect(playing: turn.Answer) -> bytes:
    return b"".join([chunk async for chunk in playing])

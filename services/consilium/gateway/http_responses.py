"""What /v1/responses keeps: earlier responses are found, continued, shown and deleted.

Knows the store and whose a response is. Does not know how a turn is played; `conversation` knows the shapes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from consilium.gateway import conversation, response_events, turn
from consilium.gateway.authority import Admitted
from consilium.gateway.face import LONGEST_ID, Face
from consilium.gateway.http_visit import Visit
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.json_bytes import dumps

_log = logs.get("http")


async def show_or_delete(visit: Visit) -> None:
    """GET and DELETE /v1/responses/ID."""
    admitted = await visit.enter()
    name = visit.rest
    stored = await visit.face.response(name, admitted)
    if visit.request.method == "DELETE":
        await visit.face.responses.delete(name[:LONGEST_ID])
        await visit.answer({"id": name, "object": "response", "deleted": True})
        return
    await visit.answer(stored.response)


async def continued(face: Face, body: dict[str, Any], admitted: Admitted) -> dict[str, Any]:
    """Return the body with what led to the response that it goes on from.

    Raises ConsiliumError: not_supported, invalid_request, response_unknown.
    """
    if body.get("background") is True:
        raise ConsiliumError(
            "not_supported",
            reason="background: true is not supported yet; send the request without it",
            param="background",
        )
    if body.get("conversation") is not None:
        raise ConsiliumError(
            "invalid_request",
            field="conversation",
            reason="conversations are not kept here. Go on from an earlier response with previous_response_id",
        )
    previous = body.get("previous_response_id")
    if previous is None:
        return conversation.continued(body, None)
    if not isinstance(previous, str):
        raise ConsiliumError(
            "invalid_request",
            field="previous_response_id",
            reason="it must be a string, the id of an earlier response",
        )
    return conversation.continued(body, await face.response(previous, admitted))


@dataclass(frozen=True, slots=True)
class Keeper:
    """Stores one response for those who may go on from it.

    given  body as the caller sent it
    sent   body as it was played, with earlier items
    """

    face: Face
    given: dict[str, Any]
    sent: dict[str, Any]
    admitted: Admitted

    async def stream(self, playing: turn.Answer) -> AsyncIterator[bytes]:
        """Yield a stream; its response is stored before its last bytes go out, so that the next request may name it at once."""
        events = response_events.Events(self.given)
        async for chunk in playing:
            told = events.feed(chunk)
            if playing.last:
                told += events.end()
                await self._store(conversation.finished(playing.last, streamed=True))
            if told:
                yield told
        if rest := events.end():
            yield rest

    async def document(self, whole: bytes) -> bytes:
        """Store a response and return it with what this room adds: the earlier one's id, and whether it is kept."""
        made = conversation.finished(whole, streamed=False)
        if made is None:
            return whole
        told = conversation.told(made, self.given)
        await self._store(made)
        return dumps(told)

    async def _store(self, made: dict[str, Any] | None) -> None:
        if made is None or not conversation.wants_store(self.given):
            return
        plain = conversation.told(made, self.given)
        plain = {key: value for key, value in plain.items() if key != "consilium"}
        owner = self.admitted.key_id
        kept = conversation.Stored(plain, conversation.items(self.sent.get("input")), owner)
        name, store = str(plain["id"]), self.face.responses
        try:
            earlier = await store.get(name)
            if earlier is not None and conversation.of(earlier).owner != owner:
                # A remote server chooses its ids itself.
                _log.warning("response_not_kept", code="id_taken")
                return
            await store.put(name, kept.as_dict(), owner)
        except ConsiliumError as error:
            _log.warning("response_not_kept", code=error.code)

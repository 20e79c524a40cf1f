"""The words of a request body: what an executor is sent, and what the prompt begins with.

    frame of the role (stays in the prefix cache) | history | what other rooms added | the turn

Composed afresh for each executor that is tried: what one of them holds is not what another does. What we added is cut before a caller is refused as too long.
Pure. Knows the shapes of the OpenAI routes. Does not know why a role or an executor was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consilium.engine.ports import ExecutorInfo, Json, Route
from consilium.gateway import lengths, profiles, roles
from consilium.gateway.contributions import Contribution, Piece
from consilium.gateway.decision import Decision
from consilium.gateway.estimate import USUAL_ANSWER
from consilium.gateway.turn_words import messages_of, words_of
from consilium.kernel.json_bytes import dumps

PREFIX_CHARACTERS: Final = 512
SPARE_TOKENS: Final = 64
"""Kept free of what we add, for the words of the chat template."""
PIECE_TOKENS: Final = 8
"""What stands around each piece."""
OPENING: Final = "<context>"
CLOSING: Final = "</context>"


@dataclass(frozen=True, slots=True)
class Composed:
    """What one executor is sent.

    prefix_key  the beginning of the prompt, by which the request router finds the replica that has it in its cache
    used        (kind, piece) for each piece that is in the prompt
    notes       what was left out, in words for the receipt
    """

    body: Json
    prefix_key: str
    used: tuple[tuple[str, Piece], ...] = ()
    notes: tuple[str, ...] = ()


def compose(
    given: Json,
    route: Route,
    decision: Decision,
    contributions: Sequence[Contribution],
    info: ExecutorInfo,
) -> Composed:
    """Return what an executor is sent for a request. The body given stays as it is. Raises ConsiliumError(invalid_request)."""
    body = {key: value for key, value in given.items() if key != "consilium"}
    if decision.settings is not None:
        body = profiles.apply(decision.settings, body, route)
    framed_body = framed(decision.frame, body, route) if decision.frame is not None else body
    offered = [(each.kind, piece) for each in contributions for piece in each.pieces]
    if not offered:
        return Composed(framed_body, prefix_key(decision.role, framed_body))
    own = decision.settings.context if decision.settings is not None else None
    holds = min((held for held in (info.context, own) if held is not None), default=None)
    kept = _fitting(offered, framed_body, route, info, holds)
    with_context = (
        _with_context(body, route, [_harmless(piece.text, info) for _, piece in kept])
        if kept
        else None
    )
    notes = []
    if kept and with_context is None:
        kept, notes = (), [f"nothing was added: {route} has no turn that it could stand before"]
    elif len(kept) < len(offered):
        notes = [f"{len(offered) - len(kept)} of {len(offered)} pieces were left out: no room"]
    if kept and with_context is not None:
        body = with_context
        framed_body = framed(decision.frame, body, route) if decision.frame is not None else body
    return Composed(framed_body, prefix_key(decision.role, framed_body), tuple(kept), tuple(notes))


def _fitting(
    offered: Sequence[tuple[str, Piece]],
    body: Json,
    route: Route,
    info: ExecutorInfo,
    holds: int | None,
) -> tuple[tuple[str, Piece], ...]:
    """Return the first pieces for which there is room, by an estimate that would rather leave one out than have the caller refused."""
    if holds is None:
        return tuple(offered)
    answer = lengths.asked(body, route) or USUAL_ANSWER
    taken = info.estimate_tokens(dumps(body).decode("utf-8", "replace"))
    room = holds - answer - SPARE_TOKENS - taken
    kept = []
    for kind, piece in offered:
        room -= info.estimate_tokens(piece.text) + PIECE_TOKENS
        if room < 0:
            break
        kept.append((kind, piece))
    return tuple(kept)


def _harmless(text: str, info: ExecutorInfo) -> str:
    """Return a text of another room without what would steer the model: its own special tokens, and the words that end our block."""
    for token in (*info.special_tokens, OPENING, CLOSING):
        text = text.replace(token, " ")
    return text


def _with_context(body: Json, route: Route, pieces: Sequence[str]) -> Json | None:
    """Return the body with the texts before the words of its last turn, or None where it has none that a text can stand before."""
    texts = "\n\n".join(f"[{place}] {text}" for place, text in enumerate(pieces, 1))
    block = f"{OPENING}\n{texts}\n{CLOSING}\n\n"
    field = {"chat": "messages", "responses": "input", "completions": "prompt"}.get(route, "")
    found = body.get(field)
    if isinstance(found, str):
        return {**body, field: block + found}
    if isinstance(found, list) and route != "completions":
        placed = _before_last_turn(block, found)
        return None if placed is None else {**body, field: placed}
    return None


def _before_last_turn(block: str, messages: list[object]) -> list[object] | None:
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if isinstance(message, dict) and message.get("role") == "user":
            content = _before(block, message.get("content"))
            if content is None:
                return None
            changed = {**message, "content": content}
            return [*messages[:place], changed, *messages[place + 1 :]]
    return None


def _before(block: str, content: object) -> object | None:
    if isinstance(content, str):
        return block + content
    if isinstance(content, list):
        kind = next(
            (part["type"] for part in content if isinstance(part, dict) and "text" in part), "text"
        )
        return [{"type": kind, "text": block}, *content]
    return None


def framed(frame: roles.Frame, body: Json, route: Route) -> Json:
    """Return the body with a role's frame before what the caller says; the body given stays as it is. Raises ConsiliumError(invalid_request)."""
    if not frame.text:
        return body
    if route == "chat" or (route == "tokenize" and "messages" in body):
        messages = messages_of(body)
        whole = isinstance(body.get("messages"), list) and messages == body["messages"]
        # Messages of another shape go on as they are: the engine says what is wrong with them.
        return {**body, "messages": roles.frame_messages(frame, messages)} if whole else body
    if route == "responses":
        own = body.get("instructions")
        return (
            {**body, "instructions": roles.frame_instructions(frame, own)}
            if own is None or isinstance(own, str)
            else body
        )
    if route == "completions" and body.get("prompt") is not None:
        return {**body, "prompt": roles.frame_prompt(frame, body["prompt"])}
    return body


def prefix_key(role: str | None, body: Json) -> str:
    """Return the beginning of the prompt, by which the request router finds the replica that has it in its cache."""
    messages = messages_of(body)
    if messages:
        return f"{role or ''}:{words_of(messages[0].get('content'))[:PREFIX_CHARACTERS]}"
    for key in ("instructions", "prompt"):
        value = body.get(key)
        if isinstance(value, str):
            return f"{role or ''}:{value[:PREFIX_CHARACTERS]}"
    return role or ""

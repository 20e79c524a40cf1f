"""How other rooms ask the gateway: generate, count tokens, embed, read receipts. Over gRPC, with a deadline on each call and our own errors.

Hides protobuf and channels. Also gives the reader of a streamed OpenAI chat, for those who come over HTTP. Does not know how a turn is played.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from consilium.gateway import grpc_vectors
from consilium.gateway.grpc_vectors import Embedded, Kind
from consilium.gateway.sse_reader import ChatPiece, Reader, chat_piece
from consilium.kernel.closing import Closing
from consilium.kernel.grpc_channel import Channel
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc
from consilium.v1 import turns_pb2 as turns_pb
from consilium.v1 import turns_pb2_grpc as turns_rpc

__all__ = [
    "Answer",
    "Begun",
    "ChatPiece",
    "Embedded",
    "GenerationClient",
    "Message",
    "Piece",
    "Reader",
    "TokenChance",
    "ToolCall",
    "ToolCallPiece",
    "TurnAnswer",
    "TurnBegan",
    "TurnClient",
    "TurnEnded",
    "chat_piece",
]

Json: TypeAlias = dict[str, Any]

TIMEOUT_S: Final = 600.0
SHORT_S: Final = 30.0
_AUTHORS: Final = {
    "system": pb.AUTHOR_SYSTEM,
    "user": pb.AUTHOR_USER,
    "assistant": pb.AUTHOR_ASSISTANT,
    "tool": pb.AUTHOR_TOOL,
}
_REASONS: Final = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
    pb.FINISH_REASON_ABORTED: "abort",
}
TurnRoute: TypeAlias = Literal["chat", "completions", "responses", "embeddings"]
_TURN_ROUTES: Final[Mapping[TurnRoute, turns_pb.TurnRoute.ValueType]] = {
    "chat": turns_pb.TURN_ROUTE_CHAT,
    "completions": turns_pb.TURN_ROUTE_COMPLETIONS,
    "responses": turns_pb.TURN_ROUTE_RESPONSES,
    "embeddings": turns_pb.TURN_ROUTE_EMBEDDINGS,
}
_STANDINGS: Final[Mapping[int, str]] = {
    pb.STANDING_OFFICIAL: "official",
    pb.STANDING_ALTERNATIVE: "alternative",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    author        system, user, assistant or tool
    tool_calls    of an assistant: what it asked for
    tool_call_id  of a tool: the call that this is the result of
    """

    author: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """Who answers, as the first message of a stream says."""

    receipt_id: str
    request_id: str
    executor: str
    replica: str
    model: str
    role: str
    profile: str
    template: str


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """What came next of a tool call; `id` and `name` stand in the first piece of each `index`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token and the natural logarithm of its probability; `top` has the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What came next: one of these. The first has `begun`; the last has `done` and, as far as they are known, finish reason, usage and receipt.

    choice    which answer of several it belongs to, from 0
    standing  official or alternative, where a request asks for both views; else empty
    """

    text: str = ""
    thinking: str = ""
    begun: Begun | None = None
    tool_call: ToolCallPiece | None = None
    chances: tuple[TokenChance, ...] = ()
    done: bool = False
    finish_reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    receipt: Json | None = None
    choice: int = 0
    standing: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    thinking: str
    finish_reason: str | None
    usage: Mapping[str, int]
    receipt: Json | None
    tool_calls: tuple[ToolCall, ...] = ()
    chances: tuple[TokenChance, ...] = ()


class GenerationClient(Closing):
    """A gateway, as other rooms see it. Every method raises ConsiliumError.

    target     host:port, or dns:///name:port; or a channel, such as a room has of its house
    key        API key
    token      internal token, by which a room may ask for embeddings without a key
    timeout_s  deadline of a generation that names none
    """

    def __init__(
        self,
        target: str | Channel,
        *,
        key: str | None = None,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._channel = (
            Channel(target, name="gateway", key=key, token=token, timeout_s=timeout_s)
            if isinstance(target, str)
            else target
        )
        self._stub = rpc.GenerationServiceStub(self._channel.raw)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str = "auto",
        profile: str | None = None,
        max_tokens: int | None = None,
        extra: Mapping[str, object] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes. Closing the generator stops the model.

        extra  further OpenAI or vLLM fields, such as temperature, tools or response_format
        """
        request = pb.GenerateRequest(
            model=model, chat=pb.Chat(messages=[_message(message) for message in messages])
        )
        if profile is not None:
            request.profile = profile
        if max_tokens is not None:
            request.sampling.max_tokens = max_tokens
        if extra:
            request.extra_json = json.dumps(extra, ensure_ascii=False)
        async with aclosing(
            self._channel.listen(self._stub.Generate, request, timeout_s=timeout_s)
        ) as answers:
            async for answer in answers:
                piece = _piece(answer)
                if piece is not None:
                    yield piece

    async def generate(self, messages: Sequence[Message], **options: Any) -> Answer:
        """Return the whole answer, of several the first. Options are those of `stream`."""
        texts: list[str] = []
        thoughts: list[str] = []
        calls: dict[int, ToolCall] = {}
        chances: list[TokenChance] = []
        last = Piece(done=True)
        async with aclosing(self.stream(messages, **options)) as pieces:
            async for piece in pieces:
                if piece.choice:
                    continue
                texts.append(piece.text)
                thoughts.append(piece.thinking)
                chances += piece.chances
                if (next_ := piece.tool_call) is not None:
                    known = calls.get(next_.index, ToolCall("", "", ""))
                    calls[next_.index] = ToolCall(
                        known.id or next_.id,
                        known.name or next_.name,
                        known.arguments + next_.arguments,
                    )
                if piece.done:
                    last = piece
        wanted = tuple(calls[index] for index in sorted(calls))
        return Answer(
            "".join(texts),
            "".join(thoughts),
            last.finish_reason,
            last.usage,
            last.receipt,
            wanted,
            tuple(chances),
        )

    async def count_tokens(
        self, messages: Sequence[Message], *, model: str = "auto", timeout_s: float = SHORT_S
    ) -> int:
        """Return the tokens of a conversation, chat template included."""
        request = pb.CountTokensRequest(
            model=model, chat=pb.Chat(messages=[_message(message) for message in messages])
        )
        return int(
            (await self._channel.ask(self._stub.CountTokens, request, timeout_s=timeout_s)).tokens
        )

    async def embed(
        self, texts: Sequence[str], *, model: str = "", timeout_s: float = SHORT_S
    ) -> list[tuple[float, ...]]:
        """Return one vector per text."""
        found = await self.vectors(texts, model=model, timeout_s=timeout_s)
        return [struct.unpack(f"<{len(row) // 4}f", row) for row in found.rows]

    async def vectors(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "passage",
        model: str = "",
        dimensions: int | None = None,
        timeout_s: float = SHORT_S,
    ) -> Embedded:
        """Return one vector per text as bytes, with the fingerprint of what made them.

        kind        whether the texts are looked for (query) or found (passage)
        dimensions  keep only the first numbers
        """
        request = grpc_vectors.request(texts, kind, model, dimensions)
        found = await self._channel.ask(self._stub.Embed, request, timeout_s=timeout_s)
        return grpc_vectors.embedded(found)

    async def models(self, *, timeout_s: float = SHORT_S) -> list[str]:
        """Return every name that can stand in `model`."""
        names: list[str] = []
        token = ""
        while True:
            page = await self._channel.ask(
                self._stub.ListModels, pb.ListModelsRequest(page_token=token), timeout_s=timeout_s
            )
            names += [model.id for model in page.models]
            token = page.next_page_token
            if not token:
                return names

    async def receipt(self, name: str, *, timeout_s: float = SHORT_S) -> Json:
        """Return a receipt as it was stored."""
        found = await self._channel.ask(
            self._stub.GetReceipt, pb.GetReceiptRequest(id=name), timeout_s=timeout_s
        )
        stored: Json = json.loads(found.receipt.json)
        return stored

    async def aclose(self) -> None:
        """Close the connection and cancel its calls."""
        await self._channel.aclose()


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """An answer that has begun.

    status         HTTP status that it has over HTTP
    content_type   media type of the body
    stream         whether the body is a stream of server-sent events
    retry_after_s  seconds after which a retry makes sense, for a status that says so
    """

    status: int
    content_type: str
    stream: bool
    receipt_id: str
    executor: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """An answer that has ended. `finish_reason` is empty where the model did not say."""

    usage: Mapping[str, int]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class TurnAnswer:
    """A whole turn: `body` has the very bytes that an HTTP caller would get."""

    began: TurnBegan
    body: bytes
    ended: TurnEnded


class TurnClient:
    """Turns as rooms of the cluster ask for them, over a channel with the internal token. Every method raises ConsiliumError.

    channel  to the gateway; whoever opened it closes it
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = turns_rpc.TurnServiceStub(channel.raw)

    async def stream(
        self,
        route: TurnRoute,
        body: bytes,
        *,
        acting_for: str = "",
        lane: str = "normal",
        conversation: str = "",
        answer_id: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> AsyncGenerator[TurnBegan | bytes | TurnEnded, None]:
        """Yield how the answer begins, then its bytes, then how it ended. Closing the generator stops the model.

        route         which OpenAI route the body is for
        body          JSON, as a client would send it over HTTP
        acting_for    id of the key that the turn is for: its state, scopes and quota hold. Empty = for whom the call that is being served is, else the cluster itself
        lane          who waits for it
        conversation  name of the conversation that it belongs to; empty = found from the body
        answer_id     id that the answer and its receipt get; empty = made by the gateway
        timeout_s     up to 24 h
        """
        request = turns_pb.PlayTurnRequest(
            route=_TURN_ROUTES[route],
            body_json=body,
            acting_for=acting_for,
            lane=lane,
            conversation=conversation,
            answer_id=answer_id,
        )
        listening = self._channel.listen(self._stub.PlayTurn, request, timeout_s=timeout_s)
        async with aclosing(listening) as answers:
            async for answer in answers:
                which = answer.WhichOneof("event")
                if which == "chunk":
                    yield bytes(answer.chunk)
                elif which == "head":
                    yield _began(answer.head)
                elif which == "tail":
                    yield TurnEnded(_usage(answer.tail.usage), answer.tail.finish_reason)

    async def play(self, route: TurnRoute, body: bytes, **options: Any) -> TurnAnswer:
        """Return a whole answer. Options are those of `stream`."""
        began, ended = TurnBegan(0, "", stream=False, receipt_id="", executor=""), TurnEnded({}, "")
        chunks: list[bytes] = []
        async with aclosing(self.stream(route, body, **options)) as messages:
            async for message in messages:
                if isinstance(message, bytes):
                    chunks.append(message)
                elif isinstance(message, TurnBegan):
                    began = message
                else:
                    ended = message
        return TurnAnswer(began, b"".join(chunks), ended)


def _began(head: turns_pb.TurnHead) -> TurnBegan:
    return TurnBegan(
        head.status,
        head.content_type,
        head.stream,
        head.receipt_id,
        head.executor,
        head.retry_after_s if head.HasField("retry_after_s") else None,
    )


def _usage(usage: pb.Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }


def _message(message: Message) -> pb.Message:
    return pb.Message(
        author=_AUTHORS.get(message.author, pb.AUTHOR_UNSPECIFIED),
        content=[pb.ContentPart(text=message.text)],
        tool_calls=[
            pb.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
    )


def _begun(first: pb.Metadata) -> Begun:
    return Begun(
        first.receipt_id,
        first.request_id,
        first.executor,
        first.replica,
        first.model,
        first.role,
        first.profile,
        first.template,
    )


def _chance(found: pb.TokenLogprob) -> TokenChance:
    return TokenChance(found.token, found.logprob, tuple(_chance(other) for other in found.top))


def _piece(answer: pb.GenerateResponse) -> Piece | None:
    """Return what a message says, or None for one of a kind that is not known here yet."""
    which = answer.WhichOneof("event")
    read = _READERS.get(which or "")
    if read is None:
        return None
    piece = read(answer)
    if answer.choice or answer.standing:
        piece = replace(piece, choice=answer.choice, standing=_STANDINGS.get(answer.standing, ""))
    return piece


def _tool_piece(call: pb.ToolCallDelta) -> ToolCallPiece:
    return ToolCallPiece(call.index, call.id, call.name, call.arguments_json)


def _last(final: pb.Final) -> Piece:
    note = (
        json.loads(final.receipt.json) if final.HasField("receipt") and final.receipt.json else None
    )
    return Piece(
        done=True,
        finish_reason=_REASONS.get(final.finish_reason),
        usage=_usage(final.usage),
        receipt=note,
    )


_READERS: Final[Mapping[str, Callable[[pb.GenerateResponse], Piece]]] = {
    "metadata": lambda answer: Piece(begun=_begun(answer.metadata)),
    "text": lambda answer: Piece(text=answer.text),
    "reasoning": lambda answer: Piece(thinking=answer.reasoning),
    "tool_call": lambda answer: Piece(tool_call=_tool_piece(answer.tool_call)),
    "logprobs": lambda answer: Piece(
        chances=tuple(_chance(token) for token in answer.logprobs.tokens)
    ),
    "final": lambda answer: _last(answer.final),
}

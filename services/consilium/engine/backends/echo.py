"""A deterministic engine without a model: it answers with the words of the prompt, in the shapes of the OpenAI API.

For tests of everything in front of an engine. One word is one token. Does not know vLLM or Ray. Words in the last user message steer it:

    !fail     an engine error before the head          !break    the stream fails after its first word
    !slow     `delay_s` before each word               !wait     no word until the call is closed
    !die      the engine ends before this word
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

from consilium.engine import wire
from consilium.engine.answerable import Abilities, Answerable, answerable
from consilium.engine.ports import Call, ExecutorInfo, Head, Json, State, Tail, Timings, Usage
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.json_bytes import dumps

CREATED = 1_700_000_000


class EchoEngine:
    """Obeys the engine port; `running` and `aborted` let a test see what became of its calls."""

    def __init__(
        self,
        name: str = "core",
        *,
        model: str = "echo",
        context: int = 4096,
        delay_s: float = 0.05,
        places: int = 64,
        able: Abilities | None = None,
    ) -> None:
        self._info = ExecutorInfo(
            name=name, kind="echo", model=model, context=context, places=places, revision="echo-1"
        )
        self._delay_s = delay_s
        self._able = able or Abilities()
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.calls: list[Call] = []

    async def start(self) -> None:
        """Become ready."""
        self._info = replace(self._info, state=State.READY)

    async def stop(self) -> None:
        """Become down."""
        self._info = replace(self._info, state=State.DOWN)

    async def check(self) -> None:
        """Raise ConsiliumError(upstream_down) unless started."""
        if self._info.state is not State.READY:
            raise ConsiliumError("upstream_down", name=self._info.name, retry_after_s=1.0)

    def info(self) -> ExecutorInfo:
        """Say what runs here."""
        return self._info

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the frames of one answer."""
        await self.check()
        asked = answerable(call, self._able, executor=self._info.name)
        call = asked.call
        self.calls.append(call)
        self.running.add(call.id)
        done = False
        try:
            async for frame in self._frames(asked):
                yield frame
            done = True
        finally:
            self.running.discard(call.id)
            if not done:
                self.aborted.append(call.id)

    async def _frames(self, asked: Answerable) -> AsyncGenerator[bytes, None]:
        call = asked.call
        prompt, words = _prompt(call), _words(call)
        if "!fail" in words:
            raise ConsiliumError("internal", "the prompt asked for a failure", request_id=call.id)
        limit = self._info.context or 0
        if len(prompt) > limit:
            error = ConsiliumError(
                "prompt_too_long", tokens=len(prompt), limit=limit, param="input_tokens"
            )
            yield wire.failure(self._head(asked, status=400), error)
            return
        wanted = (
            call.body.get("max_completion_tokens")
            or call.body.get("max_tokens")
            or call.body.get("max_output_tokens")
        )
        answer = words[: wanted if isinstance(wanted, int) else len(words)]
        tail = Tail(
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(answer)),
            finish_reason="length" if len(answer) < len(words) else "stop",
            timings=Timings(queue_ms=0.0, prefill_ms=0.0, first_token_ms=0.0, total_ms=0.0),
        )
        if call.body.get("stream") is True and call.route in {"chat", "completions", "responses"}:
            async for frame in self._streamed(asked, answer, tail):
                yield frame
            return
        for word in answer:
            await self._pause(word)
        yield wire.document(
            self._head(asked), dumps(_document(call, prompt, answer, tail, self._info)), tail
        )

    async def _streamed(
        self, asked: Answerable, answer: list[str], tail: Tail
    ) -> AsyncGenerator[bytes, None]:
        yield wire.head_frame(self._head(asked, stream=True))
        last, number = b"", 0
        for number, event in enumerate(_events(asked.call, answer, tail, self._info.model)):
            if number:
                await self._pause(answer[min(number, len(answer)) - 1] if answer else "")
            if last:
                yield last
            if number == 2 and "!break" in answer:
                yield wire.tail_frame(
                    Tail(),
                    wire.broken_stream(
                        ConsiliumError("upstream_down", name=self._info.name, retry_after_s=1.0)
                    ),
                )
                return
            last = event
        yield wire.tail_frame(tail, last)

    async def _pause(self, word: str) -> None:
        if word == "!wait":
            await asyncio.Event().wait()
        if word == "!die":
            raise ConsiliumError("upstream_down", name=self._info.name, retry_after_s=1.0)
        await asyncio.sleep(self._delay_s if word == "!slow" else 0)

    def _head(self, asked: Answerable, *, status: int = 200, stream: bool = False) -> Head:
        info = self._info
        kind = wire.SSE if stream else wire.JSON
        return Head(
            status,
            stream,
            kind,
            replica=f"{info.name}#0",
            executor=info.name,
            revision=info.revision,
            template=info.template,
            note=asked.note,
            tools_left_out=asked.tools_left_out,
        )


def _prompt(call: Call) -> list[str]:
    body = call.body
    if call.route == "chat" or "messages" in body:
        messages = body.get("messages")
        return (
            [word for message in messages for word in _text(message.get("content")).split()]
            if isinstance(messages, list)
            else []
        )
    return _text(body.get("prompt", body.get("input", body.get("text", "")))).split()


def _words(call: Call) -> list[str]:
    messages = call.body.get("messages")
    if call.route == "chat" and isinstance(messages, list) and messages:
        return _text(messages[-1].get("content")).split()
    return _prompt(call)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(
            _text(part.get("text", part.get("content", "")))
            if isinstance(part, dict)
            else str(part)
            for part in content
        )
    return ""


def _usage(tail: Tail, *, responses: bool = False) -> Json:
    asked, given = tail.usage.prompt_tokens, tail.usage.completion_tokens
    names = (
        ("input_tokens", "output_tokens") if responses else ("prompt_tokens", "completion_tokens")
    )
    return {names[0]: asked, names[1]: given, "total_tokens": asked + given}


def _events(call: Call, answer: list[str], tail: Tail, model: str) -> Iterator[bytes]:
    if call.route == "responses":
        yield from _response_events(call, answer, tail, model)
        return
    base: Json = {
        "id": _id(call),
        "object": _object(call, stream=True),
        "created": CREATED,
        "model": model,
    }
    if call.route == "chat":
        yield _sse(
            {
                **base,
                "choices": [
                    {
                        "index": 0,
                        "delta": {"role": "assistant", "content": ""},
                        "finish_reason": None,
                    }
                ],
            }
        )
    for number, word in enumerate(answer):
        text = word if number == 0 else " " + word
        part: Json = {"delta": {"content": text}} if call.route == "chat" else {"text": text}
        reason = tail.finish_reason if number == len(answer) - 1 else None
        yield _sse({**base, "choices": [{"index": 0, **part, "finish_reason": reason}]})
    options = call.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield _sse({**base, "choices": [], "usage": _usage(tail)})
    yield wire.DONE


def _response_events(call: Call, answer: list[str], tail: Tail, model: str) -> Iterator[bytes]:
    empty: Json = {
        "id": _id(call),
        "object": "response",
        "created_at": CREATED,
        "model": model,
        "status": "in_progress",
        "output": [],
    }
    yield _named("response.created", {"response": empty})
    for number, word in enumerate(answer):
        yield _named(
            "response.output_text.delta",
            {"output_index": 0, "content_index": 0, "delta": word if number == 0 else " " + word},
        )
    yield _named("response.completed", {"response": _response(call, answer, tail, model)})


def _response(call: Call, answer: list[str], tail: Tail, model: str) -> Json:
    is_cut = tail.finish_reason == "length"  # told as vLLM tells it: the item is complete
    message = {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": " ".join(answer), "annotations": []}],
    }
    return {
        "id": _id(call),
        "object": "response",
        "created_at": CREATED,
        "model": model,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": call.body.get("instructions"),
        "metadata": call.body.get("metadata"),
        "output": [message],
        "usage": _usage(tail, responses=True),
    }


def _document(
    call: Call, prompt: list[str], answer: list[str], tail: Tail, info: ExecutorInfo
) -> Json:
    base: Json = {"id": _id(call), "object": _object(call), "created": CREATED, "model": info.model}
    if call.route == "chat":
        return {
            **base,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": " ".join(answer)},
                    "finish_reason": tail.finish_reason,
                }
            ],
            "usage": _usage(tail),
        }
    if call.route == "completions":
        return {
            **base,
            "choices": [
                {"index": 0, "text": " ".join(answer), "finish_reason": tail.finish_reason}
            ],
            "usage": _usage(tail),
        }
    if call.route == "responses":
        return _response(call, answer, tail, info.model)
    if call.route == "tokenize":
        return {
            "count": len(prompt),
            "max_model_len": info.context,
            "tokens": [len(word) for word in prompt],
            "token_strs": None,
        }
    if call.route in {"detokenize", "tokenizer_info"}:
        tokens = call.body.get("tokens")
        text = " ".join(str(token) for token in tokens) if isinstance(tokens, list) else ""
        return {"prompt": text} if call.route == "detokenize" else {"tokenizer_class": "Echo"}
    if call.route == "models":
        return {
            "object": "list",
            "data": [
                {
                    "id": info.model,
                    "object": "model",
                    "created": CREATED,
                    "owned_by": "consilium",
                    "max_model_len": info.context,
                }
            ],
        }
    raise ConsiliumError("not_supported", reason=f"The echo engine has no {call.route}.")


def _id(call: Call) -> str:
    return {"chat": "chatcmpl-", "completions": "cmpl-", "responses": "resp_"}.get(
        call.route, ""
    ) + call.id


def _object(call: Call, *, stream: bool = False) -> str:
    return (
        ("chat.completion.chunk" if stream else "chat.completion")
        if call.route == "chat"
        else "text_completion"
    )


def _sse(event: Json) -> bytes:
    return b"data: " + dumps(event) + b"\n\n"


def _named(kind: str, event: Json) -> bytes:
    return f"event: {kind}\n".encode() + _sse({"type": kind, **event})

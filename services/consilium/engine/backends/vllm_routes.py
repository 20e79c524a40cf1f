"""OpenAI routes on top of one vLLM engine, answered by vLLM's own serving classes.

Builds them as vLLM's server does, validates bodies as FastAPI would, and turns what comes back into bytes; so the bytes are those of the bare server.
One thing differs on purpose: a prompt that is too long gets our sentence with both numbers. Does not know frames, Ray or who asked.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.api_router import _convert_stream_to_sse_events
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.exception_handling.handlers.validation import (
    validation_exception_handler,
)
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.v1.engine.exceptions import EngineDeadError

from consilium.engine.ports import Call, Route
from consilium.kernel.errors import ConsiliumError, to_openai

_TOKENS = re.compile(
    r"This model's maximum context length is (\d+) tokens\. However, your prompt contains (at least )?(\d+) input tokens"
)
_CHARACTERS = re.compile(
    r"This model's maximum context length is (\d+) tokens\. However, your prompt contains (\d+) characters "
    r"\(more than (\d+) characters, which is the upper bound for (\d+) input tokens"
)
_LENGTH = re.compile(r"Input length \((\d+)\) exceeds model's maximum context length \((\d+)\)")
_ID_PREFIX: Final[Mapping[str, str]] = {
    "chat": "chatcmpl-",
    "completions": "cmpl-",
    "responses": "resp_",
    "embeddings": "embd-",
}

Create = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route said: a whole body, or SSE events to come.

    reason  finish reason of the first choice of a whole body
    """

    status: int
    body: bytes = b""
    events: AsyncGenerator[str, None] | None = None
    reason: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class _Handler:
    request: TypeAdapter[Any]
    create: Create | None
    by_alias: bool = False


class Routes:
    """The serving classes of one engine."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._handlers: dict[Route, _Handler] = {
            "chat": _Handler(
                TypeAdapter(ChatCompletionRequest),
                _method(state, "openai_serving_chat", "create_chat_completion"),
            ),
            "completions": _Handler(
                TypeAdapter(CompletionRequest),
                _method(state, "openai_serving_completion", "create_completion"),
            ),
            "responses": _Handler(
                TypeAdapter(ResponsesRequest),
                _method(state, "openai_serving_responses", "create_responses"),
                by_alias=True,
            ),
            "tokenize": _Handler(
                TypeAdapter(TokenizeRequest),
                _method(state, "serving_tokenization", "create_tokenize", raw=True),
            ),
            "detokenize": _Handler(
                TypeAdapter(DetokenizeRequest),
                _method(state, "serving_tokenization", "create_detokenize", raw=True),
            ),
            "embeddings": _Handler(
                TypeAdapter(EmbeddingRequest), _method(state, "serving_embedding", "__call__")
            ),
        }

    @classmethod
    async def build(cls, engine: Any, args: Namespace, tasks: tuple[str, ...]) -> Routes:
        """Build the serving classes as vLLM's own server does."""
        state = State()
        await init_app_state(engine, state, args, tasks)
        return cls(state)

    def request_id(self, call: Call) -> str:
        """Return the id under which the engine sees this call."""
        return _ID_PREFIX.get(call.route, "") + call.id

    async def answer(self, call: Call, *, stop: str | None = None) -> Answer:
        """Return the answer to one call; errors of the caller are answers too.

        stop  stop string for a chat that names none (models without a chat template)

        Raises EngineDeadError when the engine is gone.
        """
        if call.route == "models":
            return _whole(
                (await self._state.openai_serving_models.show_available_models()).model_dump()
            )
        handler = self._handlers[call.route]
        try:
            request = handler.request.validate_python(call.body, from_attributes=True)
        except ValidationError as error:
            return await self._refused(error, call)
        except Exception as error:
            return _error(create_error_response(error))
        self._adjust(request, call, stop)
        if handler.create is None:
            return _error(create_error_response(NotImplementedError(_MISSING[call.route])))
        try:
            return _answer(await handler.create(request), handler)
        except EngineDeadError:
            raise
        except Exception as error:
            return _error(create_error_response(error))

    def _adjust(self, request: Any, call: Call, stop: str | None) -> None:
        if call.route in {"chat", "completions", "embeddings"}:
            request.request_id = call.id
        elif call.route == "responses":
            request.request_id = self.request_id(call)
        if (
            hasattr(request, "priority")
            and self._state.vllm_config.scheduler_config.policy == "priority"
        ):
            request.priority = (
                call.priority
            )  # also over the caller's own: who comes first is not the caller's to say
        if stop is not None and call.route == "chat" and not request.stop:
            request.stop = [stop]

    async def _refused(self, error: ValidationError, call: Call) -> Answer:
        # As FastAPI words it: its errors begin at ("body", ...) and carry no URL.
        errors = [
            {**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)
        ]
        request = SimpleNamespace(app=SimpleNamespace(state=self._state), state=SimpleNamespace())
        response = await validation_exception_handler(
            request, RequestValidationError(errors, body=call.body)
        )
        return Answer(response.status_code, bytes(response.body))


_MISSING: Final[Mapping[str, str]] = {
    "chat": "The model does not support Chat Completions API",
    "completions": "The model does not support Completions API",
    "responses": "The model does not support Responses API",
    "embeddings": "The model does not support Embeddings API",
    "tokenize": "The model does not support the Tokenize API",
    "detokenize": "The model does not support the Detokenize API",
}


def _method(state: State, name: str, method: str, *, raw: bool = False) -> Create | None:
    serving = getattr(state, name, None)
    if serving is None:
        return None
    create: Create = getattr(serving, method)
    if not raw:
        return create

    async def with_raw(request: Any) -> Any:
        return await create(request, _NO_REQUEST)  # type: ignore[call-arg]

    return with_raw


_NO_REQUEST: Final = SimpleNamespace(headers={}, state=SimpleNamespace())


def _answer(result: Any, handler: _Handler) -> Answer:
    if isinstance(result, ErrorResponse):
        return _error(result)
    if hasattr(result, "model_dump"):
        content = (
            result.model_dump(mode="json", by_alias=True)
            if handler.by_alias
            else result.model_dump()
        )
        return _whole(content)
    if hasattr(result, "body"):  # pooling routes build their response themselves
        return Answer(result.status_code, bytes(result.body))
    return Answer(200, events=_convert_stream_to_sse_events(result) if handler.by_alias else result)


def _whole(content: dict[str, Any]) -> Answer:
    choices = content.get("choices")
    reason = choices[0].get("finish_reason") if choices else None
    return Answer(200, _dumps(content), reason=reason)


def _error(response: ErrorResponse) -> Answer:
    info = response.error
    if (too_long := _too_long(info.message)) is not None:
        return Answer(too_long.row.http, _dumps(to_openai(too_long)))
    return Answer(
        int(info.code),
        _dumps(response.model_dump()),
        retry_after=1.0 if int(info.code) in {429, 503} else None,
    )


def refused(error: Exception) -> Answer:
    """Return the answer to a call that the engine did not take, though a stream was promised."""
    return _error(create_error_response(error))


def _too_long(message: str) -> ConsiliumError | None:
    if found := _TOKENS.match(message):
        limit, tokens = (
            int(found[1]),
            f"{found[2] or ''}{found[3]}",
        )  # it stops counting one token above the limit
    elif found := _CHARACTERS.match(message):
        # vLLM refuses by length of text before it counts; so many characters are at least this many tokens.
        limit, tokens = (
            int(found[1]),
            f"at least {ceil(int(found[2]) * int(found[4]) / int(found[3]))}",
        )
    elif found := _LENGTH.match(message):
        limit, tokens = int(found[2]), found[1]
    else:
        return None
    return ConsiliumError("prompt_too_long", tokens=tokens, limit=limit, param="input_tokens")


def _dumps(content: object) -> bytes:
    # As starlette's JSONResponse writes it.
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

"""OpenAI routes on top of one vLLM engine, answered by vLLM's own serving classes.

Builds them as vLLM's server does, validates bodies as FastAPI would, and turns what comes back into bytes; so the bytes of an answer are those of the bare
server. Refusals differ on purpose: they have OpenAI's shape (vllm_refusals.py). Does not know frames, Ray or who asked.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
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
from vllm.exceptions import VLLMError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from consilium.engine import wire
from consilium.engine.backends.vllm_bodies import Body, read_late
from consilium.engine.backends.vllm_refusals import body_of, dumps, refusal, said_in
from consilium.engine.backends.vllm_tap import Tap
from consilium.engine.ports import Call, Json, Route
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

_log = logs.get("engine")

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

    reason   finish reason of the first choice of a whole body
    request  what vLLM's model read
    """

    status: int
    body: bytes = b""
    events: AsyncGenerator[str, None] | None = None
    reason: str | None = None
    retry_after: float | None = None
    request: Any = None


@dataclass(frozen=True, slots=True)
class _Handler:
    body: Body
    create: Create | None
    by_alias: bool = False


class Routes:
    """The serving classes of one engine."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._handlers: dict[Route, _Handler] = {
            "chat": _Handler(
                Body(ChatCompletionRequest),
                _method(state, "openai_serving_chat", "create_chat_completion"),
            ),
            "completions": _Handler(
                Body(CompletionRequest),
                _method(state, "openai_serving_completion", "create_completion"),
            ),
            "responses": _Handler(
                Body(ResponsesRequest, joined=frozenset({"input"})),
                _method(state, "openai_serving_responses", "create_responses"),
                by_alias=True,
            ),
            "tokenize": _Handler(
                Body(TokenizeRequest),
                _method(state, "serving_tokenization", "create_tokenize", raw=True),
            ),
            "detokenize": _Handler(
                Body(DetokenizeRequest),
                _method(state, "serving_tokenization", "create_detokenize", raw=True),
            ),
            "embeddings": _Handler(
                Body(EmbeddingRequest), _method(state, "serving_embedding", "__call__")
            ),
        }

    @classmethod
    async def build(cls, engine: Any, args: Namespace, tasks: tuple[str, ...]) -> Routes:
        """Build the serving classes as vLLM's own server does."""
        state = State()
        await init_app_state(engine, state, args, tasks)
        return cls(state)

    @property
    def lora_requests(self) -> dict[str, Any]:
        """Return the table in which the serving classes look up adapters by name."""
        found: dict[str, Any] = self._state.openai_serving_models.lora_requests
        return found

    def request_id(self, call: Call) -> str:
        """Return the id under which the engine sees this call."""
        return _ID_PREFIX.get(call.route, "") + call.id

    async def answer(self, call: Call, tap: Tap, *, stop: str | None = None) -> Answer:
        """Return the answer to one call; errors of the caller are answers too.

        tap   watches what the engine does for this call
        stop  stop string for a chat that names none (models without a chat template)

        Raises EngineDeadError when the engine is gone.
        """
        if call.route in {"models", "tokenizer_info"}:
            return _whole(await self._about(call.route))
        handler = self._handlers[call.route]
        request = None
        try:
            request = await handler.body.read(call.body)
            self._adjust(request, call, stop)
            if handler.create is None:
                raise NotImplementedError(_MISSING[call.route])  # noqa: TRY301  as vLLM's routes do
            answer = _answer(await handler.create(request), handler)
        except EngineDeadError:
            raise
        except Exception as error:
            return await self.refused(error, call, tap, request)
        if isinstance(answer, ErrorResponse):
            return self._refused(answer, call, request)
        return replace(answer, request=request)

    async def refused(self, error: Exception, call: Call, tap: Tap, request: Any) -> Answer:
        """Return the answer to a call that went wrong before its answer began.

        request  what vLLM's model read, None where that went wrong
        """
        if isinstance(error, ConsiliumError):
            return Answer(error.row.http, body_of(error))
        return self._refused(await self._response(error, call, request, tap), call, request)

    def shaped(self, event: str, call: Call) -> str:
        """Return an event of a stream as it came; an error in it, in the shape that errors before the first byte have."""
        if (error := said_in(event)) is None:
            return event
        response = ErrorResponse(error=error)
        return f"data: {self._refused(response, call, None).body.decode()}\n\n"

    async def _about(self, route: Route) -> dict[str, Any]:
        """Return what vLLM tells of itself without being asked anything."""
        if route == "models":
            told = await self._state.openai_serving_models.show_available_models()
        else:
            told = await self._state.serving_tokenization.get_tokenizer_info()
        shown: dict[str, Any] = told.model_dump()
        return shown

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

    async def _validation(self, error: RequestValidationError) -> ErrorResponse:
        request = SimpleNamespace(app=SimpleNamespace(state=self._state), state=SimpleNamespace())
        response = await validation_exception_handler(request, error)
        return ErrorResponse.model_validate_json(bytes(response.body))

    async def _response(
        self, error: Exception, call: Call, request: Any, tap: Tap
    ) -> ErrorResponse:
        """Return vLLM's words for what went wrong. What vLLM does not call the caller's fault, and what goes wrong once the engine works, is ours."""
        cause = tap.refused or error
        if isinstance(cause, ValidationError) and not tap.taken.is_set():
            cause = read_late(cause, call.body)
        if isinstance(cause, RequestValidationError):
            return await self._validation(cause)
        if tap.taken.is_set() and not isinstance(cause, VLLMError):
            cause = EngineGenerateError(f"{type(cause).__name__}: {cause}")
        response = create_error_response(cause)
        if request is None and response.error.param is None:
            body = self._handlers[call.route].body
            response.error.param = body.where_it_fails(call.body, error)
        if int(response.error.code) == _OUR_FAULT and not isinstance(
            tap.refused or error, VLLMError
        ):
            _log.error("request_failed", route=call.route, id=call.id, exc_info=cause)
        return response

    def _refused(self, response: ErrorResponse, call: Call, request: Any) -> Answer:
        info = response.error
        status = int(info.code)
        error = refusal(
            info.message,
            status,
            info.param or self._constraint(request, call),
            fields=self._handlers[call.route].body.fields,
            request_id=call.id,
        )
        if status == _OUR_FAULT:
            _log.error("engine_fault", route=call.route, id=call.id, reason=info.message)
            if _contradicts_itself(call.body):
                status, error = 400, _CONTRADICTION
        return Answer(status, body_of(error), retry_after=1.0 if status in {429, 503} else None)

    def _constraint(self, request: Any, call: Call) -> str | None:
        """Return the field that asks for a shape of the answer which vLLM cannot give, if there is one. Called for a refusal that names no field."""
        try:
            asked = request.extract_structured_outputs()
        except Exception:  # it asks for none, or two fields ask for one
            return None
        if asked is None:
            return None
        config = self._state.vllm_config
        try:
            SamplingParams(structured_outputs=asked).verify(
                config.model_config,
                config.speculative_config,
                config.structured_outputs_config,
                self._state.engine_client.renderer.tokenizer,
            )
        except Exception:
            return next((name for name in _SHAPING if call.body.get(name) is not None), None)
        return None


_OUR_FAULT: Final = 500
_SHAPING: Final = ("response_format", "text", "structured_outputs", "tools")
"""Fields that ask for a shape of the answer; the first that a body has is named."""
_CONTRADICTION: Final = ConsiliumError(
    "invalid_request",
    field="stop_token_ids",
    reason="the answer cannot have the shape that is asked for: it needs tokens that these stop it at",
)


def _contradicts_itself(body: Json) -> bool:
    """Say whether a fault of the engine is the body's: it masks the tokens of `stop_token_ids` in the text of a shape, and fails where no other is left."""
    shaped = any(body.get(name) is not None for name in _SHAPING)
    return shaped and bool(body.get("stop_token_ids"))


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


def _answer(result: Any, handler: _Handler) -> Answer | ErrorResponse:
    if isinstance(result, ErrorResponse):
        return result
    if hasattr(result, "model_dump"):
        content = (
            result.model_dump(mode="json", by_alias=True)
            if handler.by_alias
            else result.model_dump()
        )
        return _whole(content)
    if hasattr(result, "body"):  # pooling routes build their response themselves
        return Answer(result.status_code, bytes(result.body))
    return Answer(200, events=_responses_events(result) if handler.by_alias else result)


async def _responses_events(result: Any) -> AsyncGenerator[str, None]:
    """Yield the events of a response; an exception as an error event, as vLLM's other streams tell theirs."""
    try:
        async for event in _convert_stream_to_sse_events(result):
            yield event
    except Exception as error:
        cause = error if isinstance(error, VLLMError) else EngineGenerateError(repr(error))
        yield f"data: {create_error_response(cause).model_dump_json()}\n\n"
        yield wire.DONE.decode()


def _whole(content: dict[str, Any]) -> Answer:
    choices = content.get("choices")
    reason = choices[0].get("finish_reason") if choices else None
    return Answer(200, dumps(content), reason=reason)

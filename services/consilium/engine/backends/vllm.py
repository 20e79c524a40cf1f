"""An engine of our own: vLLM's AsyncLLM behind vLLM's own serving classes.

With the other vllm_*.py the only place that touches vLLM, but for the followers in multinode.py. Knows how to start, watch and end one engine, and how to
frame its answers. Does not know Ray, and does not know who asked.

What kills an engine is told once: the first cause is kept and logged, callers get upstream_down, and `on_dead` ends the process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.envs import enable_envs_cache
from vllm.inputs import TokensPrompt
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.exceptions import EngineDeadError

from consilium.engine import wire
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterLimits, Held
from consilium.engine.answerable import Abilities, Answerable, answerable
from consilium.engine.backends import vllm_metrics, vllm_start
from consilium.engine.backends.vllm_accepted import Events
from consilium.engine.backends.vllm_adapters import ServedNames, open_desk
from consilium.engine.backends.vllm_canary import VllmCanary
from consilium.engine.backends.vllm_model import has_template, is_greedy, reads_calls, vocabulary_of
from consilium.engine.backends.vllm_routes import Answer, Routes
from consilium.engine.backends.vllm_tap import Tap, TappedLLM
from consilium.engine.ports import Call, ExecutorInfo, Head, State, Template
from consilium.engine.pulse import Pulse
from consilium.engine.setting_words import document_in_our_words, in_our_words
from consilium.engine.tool_choice import settings_key
from consilium.engine.vocabulary import Vocabulary
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

_log = logs.get("engine")

WATCH_S = 0.5
FIRST_ERROR = 400
DATA = "data: "
ERROR_EVENT = 'data: {"error"'
ADAPTED = frozenset({"chat", "completions", "responses", "embeddings"})
"""Routes that an adapter may answer."""
GRACE_S = 1.0  # between a dead engine and the end of its process: running streams deliver their last event

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'system' %}{{ text }}\n\n"
    "{% elif message['role'] == 'assistant' %}Assistant: {{ text }}\n"
    "{% else %}User: {{ text }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
PLAIN_STOP = "\nUser:"


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What one engine is started with.

    engine_args    fields of vLLM's AsyncEngineArgs
    frontend_args  fields of vLLM's FrontendArgs: chat_template, tool_call_parser, enable_auto_tool_choice ...
    note           what the model is, for a person
    idle_s         after that many seconds without a token, health means generating one
    guessed_tools  the tool parser was chosen by the model's family: one that does not fit its tokenizer is left out
    rank           which copy of its executor this is, for the metrics
    step_s         seconds that a full step takes, by estimate; 0 = not known
    ray_metrics    they go to Ray's exporter; else to prometheus_client
    lora_wait_s    longest that a call waits for a slot of its adapter
    lora_limits    fields of AdapterLimits
    """

    name: str
    engine_args: Mapping[str, Any]
    frontend_args: Mapping[str, Any] = field(default_factory=dict)
    replica: str = ""
    revision: str = ""
    fallback: str | None = None
    note: str = ""
    idle_s: float = 30.0
    check_timeout_s: float = 60.0
    guessed_tools: bool = False
    rank: int = 0
    ray_metrics: bool = False
    step_s: float = 0.0
    lora_wait_s: float = 10.0
    lora_limits: Mapping[str, float] = field(default_factory=dict)


class VllmEngine:
    """Obeys the engine port. `on_dead` is called once, with the first cause, after running streams had time to end."""

    def __init__(
        self, settings: VllmSettings, *, on_dead: Callable[[BaseException], None] | None = None
    ) -> None:
        self._settings = settings
        self._on_dead = on_dead
        self._engine: TappedLLM | None = None
        self._routes: Routes | None = None
        self._first_cause: BaseException | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._pulse: Pulse | None = None
        self._pulsing: asyncio.Task[None] | None = None
        self._template: Template = "model"
        self._vocabulary = Vocabulary()
        self._generates = True
        self._able = Abilities()
        self._state = State.STARTING
        self._ids = itertools.count()
        self._streams = 0
        self.adapters: AdapterDesk | None = None
        self.adapter_limits = AdapterLimits(**settings.lora_limits)
        self.canary: VllmCanary | None = None
        self.max_rank = int(settings.engine_args.get("max_lora_rank") or 0)
        self.lora_modules: tuple[str, ...] = tuple(
            settings.engine_args.get("lora_target_modules") or ()
        )
        self.mixed_experts = bool(settings.engine_args.get("enable_mixed_moe_lora_format"))
        self.model_path = str(settings.engine_args["model"])
        self._names = ServedNames({})

    async def start(self) -> None:
        """Return when a token was generated. Raises ConsiliumError(part_failed)."""
        settings = self._settings
        began = time.monotonic()
        try:
            args = AsyncEngineArgs(**vllm_start.typed(settings.engine_args))
            figures = (
                vllm_metrics.ray_logger()
                if settings.ray_metrics
                else vllm_metrics.logger(settings.name, str(settings.rank))
            )
            engine = await asyncio.to_thread(vllm_start.construct, args, figures)
            engine.taps, engine.last_token, engine.failed = {}, 0.0, self._failed
            await engine.reset_mm_cache()
            tasks = await engine.get_supported_tasks()
            namespace = self._namespace(args, engine)
            self._generates = "generate" in tasks
            self._able = Abilities(namespace.tool_call_parser is not None, is_greedy(engine))
            self._vocabulary = self._seen_vocabulary(engine, namespace.chat_template)
            self._routes = await Routes.build(engine, namespace, tasks)
            self._engine = engine
            await self._generate_one(first=True)
            if args.enable_lora:
                self._names = ServedNames(self._routes.lora_requests)
                self.adapters = await open_desk(
                    engine,
                    executor=settings.name,
                    max_wait_s=settings.lora_wait_s,
                    read_s=self.adapter_limits.read_s,
                    on_alarm=self._failed,
                )
                self.canary = VllmCanary(engine, self.adapters, engine.get_num_unfinished_requests)
            self._state = State.READY
            enable_envs_cache()  # vLLM looks at its environment for each token; its own processes do this too
        except Exception as error:
            self._state = State.DOWN
            _log.exception("engine_start_failed", executor=settings.name, reason=self._why(error))
            raise ConsiliumError(
                "part_failed",
                f"{type(error).__name__}: {error}",
                name=f"executor {settings.name}",
                reason=self._why(error),
            ) from error
        self._pulse = Pulse(engine.is_sleeping, lambda: engine.steps.count)
        self._pulsing = asyncio.create_task(self._pulse.run())
        self._watcher = asyncio.create_task(self._watch())
        _log.info("engine_ready", executor=settings.name, took_s=round(time.monotonic() - began, 1))

    async def stop(self) -> None:
        """End the engine and its processes."""
        watcher = self._watcher
        self.shut_down()
        if watcher is not None:
            with suppress(asyncio.CancelledError):
                await watcher

    def shut_down(self) -> None:
        """Do what `stop` does, without waiting for the watcher."""
        self._state = State.DOWN
        if self.adapters is not None:
            self.adapters.close()
        for task in (self._watcher, self._pulsing):
            if task is not None:
                task.cancel()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.shutdown(timeout=engine.vllm_config.shutdown_timeout)

    def info(self) -> ExecutorInfo:
        """Say what runs here."""
        engine, args = self._engine, self._settings.engine_args
        return ExecutorInfo(
            name=self._settings.name,
            kind="engine",
            model=_served_name(args),
            context=None if engine is None else int(engine.model_config.max_model_len),
            state=self._state,
            places=int(args.get("max_num_seqs") or 64),
            revision=self._settings.revision,
            template=self._template,
            fallback=self._settings.fallback,
            note=self._settings.note,
            step_tokens=int(args.get("max_num_batched_tokens") or 0),
            step_s=self._settings.step_s,
            silent_s=0.0 if self._pulse is None else self._pulse.silent_s(),
            **asdict(self._vocabulary),
        )

    def load(self) -> dict[str, int]:
        """Return what the request router needs: calls in this replica, and requests that the engine has not finished."""
        engine = self._engine
        return {
            "streams": self._streams,
            "unfinished": 0 if engine is None else int(engine.get_num_unfinished_requests()),
        }

    async def check(self) -> None:
        """Return if a token came lately, otherwise generate one. Raises ConsiliumError(upstream_down).

        While an engine reads a long prompt nobody gets a token, ours included; then it is enough that it makes steps.
        """
        engine = self._alive()
        if time.monotonic() - engine.last_token < self._settings.idle_s:
            return
        steps = engine.steps.count
        try:
            await asyncio.wait_for(self._generate_one(), self._settings.check_timeout_s)
        except Exception as error:
            if (
                isinstance(error, TimeoutError)
                and engine.steps.count > steps
                and self._first_cause is None
            ):
                return
            raise ConsiliumError(
                "upstream_down",
                f"no token: {type(error).__name__}: {error}",
                name=self._settings.name,
                retry_after_s=5.0,
            ) from error

    def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the frames of one answer (wire.py). Closing the generator aborts the request in the engine.

        Raises ConsiliumError: invalid_request for a tool call that the model cannot make, or an adapter where there are no slots; what `AdapterDesk.hold` raises.
        """
        if call.adapter is None or call.route not in ADAPTED:
            return self._stream(call, None)
        return self._adapted(call, call.adapter)

    async def _adapted(self, call: Call, reference: str) -> AsyncGenerator[bytes, None]:
        """Yield the frames of an answer that an adapter gives; it is in a slot from before the engine sees the request until after it has ended."""
        self._alive()
        if self.adapters is None:
            key = settings_key(self._settings.name)
            reason = f"the executor {self._settings.name} has no slots for adapters; set {key}.lora"
            raise ConsiliumError("invalid_request", field="model", reason=reason, param="model")
        left = None if call.deadline is None else call.deadline - time.time()
        gives_up_at = None if left is None else time.monotonic() + left
        async with self.adapters.hold(reference, gives_up_at=gives_up_at) as held:
            with self._names.shown(held.target):
                named = replace(call, body={**call.body, "model": reference})
                async with aclosing(self._stream(named, held)) as frames:
                    async for frame in frames:
                        yield frame

    async def _stream(self, call: Call, held: Held | None) -> AsyncGenerator[bytes, None]:
        engine = self._alive()
        asked = answerable(call, self._able, executor=self._settings.name)
        call = asked.call
        tap, began = Tap(), time.monotonic()
        key = self._routes.request_id(call) if self._routes else call.id
        if key in engine.taps:
            raise ConsiliumError(
                "conflict", f"id={call.id}", reason="A request with this id is running."
            )
        engine.taps[key] = tap
        self._streams += 1
        events: Events | None = None
        try:
            answer = await self._answer(call, tap)
            if answer.events is not None:
                events = Events(answer.events)
                answer = await self._accepted(answer, events, call, tap)
            if tap.dead:
                raise self._down()
            if answer.status >= FIRST_ERROR:
                answer = replace(answer, body=self._in_our_words(answer.body))
            head = self._head(answer, asked, held)
            if events is None or answer.events is None:
                yield wire.document(head, answer.body, tap.tail(began, answer.reason))
                return
            async for frame in self._streamed(head, events, call, tap, began):
                yield frame
        finally:
            self._streams -= 1
            engine.taps.pop(key, None)
            if events is not None:
                await events.aclose()
            for source in tap.sources:
                with suppress(
                    RuntimeError
                ):  # "already running": in a task of vLLM's that is cancelled and closes it in its next turn
                    await source.aclose()

    async def _answer(self, call: Call, tap: Tap) -> Answer:
        if self._routes is None:
            raise self._down()
        try:
            answer = await self._routes.answer(
                call, tap, stop=PLAIN_STOP if self._template == "plain" else None
            )
            task = asyncio.current_task()
            if (
                task is not None and task.cancelling()
            ):  # vLLM turns a cancelled whole answer into an error object; nobody is there to read it
                raise asyncio.CancelledError
        except EngineDeadError as error:
            self._failed(error)
            raise self._down() from error
        return answer

    async def _accepted(self, answer: Answer, events: Events, call: Call, tap: Tap) -> Answer:
        """Return the answer when the engine has taken the call, or another one that says why it has not."""
        try:
            await events.accepted(tap)
        except Exception as error:
            if self._routes is None:
                raise self._down() from error
            return await self._routes.refused(error, call, tap, answer.request)
        return answer

    def _in_our_words(self, document: bytes) -> bytes:
        """Return an error object with vLLM's options as settings of ours."""
        return document_in_our_words(document, executor=self._settings.name)

    def _error_event(self, event: str) -> str:
        """Return an error event in our words."""
        told = self._in_our_words(event[len(DATA) :].strip().encode())
        return f"{DATA}{told.decode()}\n\n"

    def _why(self, error: BaseException) -> str:
        """Return why an engine did not start, in one line and in our words."""
        return in_our_words(_in_one_line(error), executor=self._settings.name)

    async def _streamed(
        self, head: Head, events: Events, call: Call, tap: Tap, began: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the head at once, since the engine has taken the call; then the events as they come."""
        yield wire.head_frame(head, "".join(events.before).encode())
        has_begun = bool(events.before)
        rest: list[bytes] = []
        reason: str | None = None
        async for told in events:
            if tap.dead:
                if not has_begun:
                    raise self._down()
                yield wire.tail_frame(tap.tail(began, "error"), wire.broken_stream(self._down()))
                return
            event = told if self._routes is None else self._routes.shaped(told, call)
            if event.startswith(ERROR_EVENT):
                event = self._error_event(event)
            if tap.finished:  # the engine is done: what is left comes at once and travels together
                rest.append(event.encode())
                reason = finish_reason(event) or reason
                continue
            yield event.encode()
            has_begun = True
        yield wire.tail_frame(tap.tail(began, reason), b"".join(rest))

    def _head(self, answer: Answer, asked: Answerable, held: Held | None) -> Head:
        settings = self._settings
        kind = wire.JSON if answer.events is None else wire.SSE
        return Head(
            answer.status,
            stream=answer.events is not None,
            content_type=kind,
            retry_after=answer.retry_after,
            replica=settings.replica,
            executor=settings.name,
            revision=settings.revision,
            template=self._template,
            routing=asked.call.routing,
            note=asked.note,
            tools_left_out=asked.tools_left_out,
            adapter_tier="" if held is None else str(held.tier),
            adapter_wait_ms=None if held is None else round(held.wait_s * 1000, 1),
        )

    def _namespace(self, args: AsyncEngineArgs, engine: TappedLLM) -> Namespace:
        """Return what vLLM's command line would have parsed, so that its serving classes are built as its own server builds them."""
        frontend = {**vars(FrontendArgs()), **self._settings.frontend_args}
        tokenizer = engine.renderer.tokenizer
        if (
            frontend["chat_template"] is None
            and tokenizer is not None
            and not has_template(tokenizer)
        ):
            frontend["chat_template"] = PLAIN_TEMPLATE
            self._template = "plain"
        if self._settings.guessed_tools and not reads_calls(
            frontend["tool_call_parser"], tokenizer
        ):
            _log.warning(
                "tool_parser_left_out",
                executor=self._settings.name,
                parser=frontend["tool_call_parser"],
            )
            frontend |= {"tool_call_parser": None, "enable_auto_tool_choice": False}
        names = args.served_model_name
        return Namespace(
            **{
                **vars(args),
                **frontend,
                "served_model_name": [names] if isinstance(names, str) else names,
            }
        )

    def _seen_vocabulary(self, engine: TappedLLM, template: str | None) -> Vocabulary:
        tokenizer = engine.renderer.tokenizer
        try:
            return Vocabulary() if tokenizer is None else vocabulary_of(tokenizer, template)
        except Exception as error:  # kinds of tokenizers are many; the engine answers without this
            _log.warning("vocabulary_unknown", executor=self._settings.name, cause=repr(error))
            return Vocabulary()

    async def _generate_one(self, *, first: bool = False) -> None:
        """Generate a token. The first one asks for what an engine on cards would otherwise compile when the first caller asks for it."""
        engine = self._alive()
        request_id = f"health-{next(self._ids)}"
        prompt = TokensPrompt(prompt_token_ids=[0])
        if self._generates:
            params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=1 if first else None)
            outputs = engine.generate(prompt, params, request_id)
        else:
            outputs = engine.encode(prompt, PoolingParams(task="embed"), request_id)
        async for _ in outputs:
            pass

    def _alive(self) -> TappedLLM:
        if self._engine is None:
            code = "engine_starting" if self._state is State.STARTING else "upstream_down"
            raise ConsiliumError(code, name=self._settings.name, retry_after_s=2.0)
        if self._first_cause is not None:
            raise self._down()
        return self._engine

    def _down(self) -> ConsiliumError:
        return ConsiliumError(
            "upstream_down",
            f"first cause: {self._first_cause!r}",
            name=self._settings.name,
            retry_after_s=5.0,
        )

    def _failed(self, error: BaseException) -> None:
        if self._first_cause is not None:
            return
        self._first_cause = error
        self._state = State.DOWN
        _log.error("engine_dead", executor=self._settings.name, cause=repr(error))
        if self._on_dead is not None:
            asyncio.get_running_loop().call_later(GRACE_S, self._on_dead, error)

    async def _watch(self) -> None:
        """Notice a dead engine that nobody asks anything."""
        while self._engine is not None and self._first_cause is None:
            if self._engine.errored:
                self._failed(self._engine.dead_error)
            await asyncio.sleep(WATCH_S)


def finish_reason(event: str) -> str | None:
    """Return the finish reason in one SSE event, if it holds one. Inside strings JSON escapes quotes, so the match is never text of the model."""
    _, found, after = event.rpartition('"finish_reason":"')
    return after.partition('"')[0] if found else None


def _served_name(args: Mapping[str, Any]) -> str:
    names = args.get("served_model_name") or args["model"]
    return str(names if isinstance(names, str) else names[0])


def _in_one_line(error: BaseException) -> str:
    """Return what an exception says, without the marks that pydantic puts behind a sentence."""
    return (" ".join(str(error).split()).partition(" [type=")[0] or type(error).__name__)[:400]

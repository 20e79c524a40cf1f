"""One turn, from a request to an answer with its receipt.

    check -> resolve the name -> frame and profile -> place in the engine -> executor (or its fallback) -> bytes through -> receipt

Both faces, HTTP and gRPC, play turns here and nowhere else. Knows the order of the steps. Does not know HTTP, gRPC, Ray or Redis.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from consilium.engine.client import Call, EngineClient, ExecutorInfo, Head, State, Turn
from consilium.engine.ports import Json, Route
from consilium.gateway import admission, models, profiles, prompt, receipt_bytes, roles
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.receipt import Receipt
from consilium.kernel import logs
from consilium.kernel.clock import Clock, Ids
from consilium.kernel.errors import ConsiliumError, to_openai, unknown

CORE: Final = "core"
GENERATING: Final = frozenset({"chat", "completions", "responses"})
HTTP_OK: Final = 200
GONE: Final = 499
PASSES_ON: Final = frozenset({"upstream_down", "engine_starting"})

_log = logs.get("gateway")


class Meter(Protocol):
    """Where counts go."""

    def turn(self, *, route: str, status: int, executor: str, role: str, seconds: float, first_s: float | None, usage: dict[str, int]) -> None:
        """Count one turn that has ended."""

    def inflight(self, executor: str) -> None:
        """Tell how many turns an executor has in work now."""

    def refused(self, code: str) -> None:
        """Count a request that no engine saw."""

    def fallback(self, executor: str, instead: str) -> None:
        """Count a turn that another executor answered."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as a face took it in.

    size        bytes of the body
    tokens_held tokens that were reserved for it, settled when the usage is known
    deadline    Unix seconds, or None for the configured default
    notes       what the receipt should say about how it was let in
    """

    route: Route
    body: Json
    size: int
    key_id: str = ""
    tokens_held: int = 0
    deadline: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: everything a turn needs besides the request.

    keep    stores a receipt, after the answer
    settle  corrects the token quota of a key: (key id, reserved, used)
    """

    engine: EngineClient
    frames: Mapping[str, roles.Frame]
    profiles: Mapping[str, Profile]
    limits: Gateway
    gate: admission.Gate
    clock: Clock
    ids: Ids
    keep: Callable[[Receipt], Awaitable[None]]
    settle: Callable[[str, int, int], Awaitable[None]]
    meter: Meter


@dataclass(slots=True)
class _Plan:
    """What was decided before the engine was asked."""

    target: models.Target
    executor: str
    body: Json
    prefix_key: str
    role: str | None = None
    fallback: str | None = None
    profile: str = ""
    profile_why: str = ""
    with_receipt: bool = True
    notes: list[str] = field(default_factory=list)


class Playing:
    """An answer that has begun. Iterate once for its bytes, then it ends itself; `aclose` ends it early and stops the engine."""

    def __init__(self, cast: Cast, ask: Ask, plan: _Plan, turn: Turn, *, receipt_id: str, began: float, opened: float, moved: tuple[str, str]) -> None:
        self._cast, self._ask, self._plan, self._turn = cast, ask, plan, turn
        self._began, self._opened, self._moved = began, opened, moved
        self._first: float | None = None
        self._status = turn.head.status
        self._ended = False
        self._chunks = 0
        self.receipt_id = receipt_id
        self.last = b""

    @property
    def head(self) -> Head:
        """Return status, media type and who answers."""
        return self._turn.head

    @property
    def executor(self) -> str:
        """Return the executor that answers."""
        return self._plan.executor

    @property
    def role(self) -> str:
        """Return the role that answers, or nothing."""
        return self._plan.role or ""

    @property
    def profile(self) -> str:
        """Return the profile that was chosen, or nothing."""
        return self._plan.profile

    @property
    def usage(self) -> dict[str, int]:
        """Return the tokens of the answer; empty before its end."""
        return self._receipt().usage

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Yield the body. A stream that breaks off ends with an error event; a document that does raises ConsiliumError."""
        whole: list[bytes] = []
        try:
            async for chunk in self._turn:
                self._chunks += 1
                if self._first is None:
                    self._first = self._cast.clock.monotonic()
                if not self.head.stream:
                    whole.append(chunk)
                elif self._turn.tail is None:
                    yield chunk
                else:
                    yield self._with_receipt(chunk)
            if not self.head.stream:
                yield self._with_receipt(b"".join(whole))
        except ConsiliumError as error:
            self._status = error.row.http
            if not self.head.stream:
                raise
            yield b"data: " + _dumps(to_openai(error)) + b"\n\n" + receipt_bytes.DONE + b"\n\n"
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the turn: stop the engine if it still runs, give the place back, keep the receipt. Safe to call twice."""
        if self._ended:
            return
        self._ended = True
        seconds = self._cast.clock.monotonic() - self._began
        self._cast.gate.leave(self._plan.executor, seconds)
        if self._turn.tail is None and self._status == self.head.status and self.head.stream:
            self._status = GONE
        receipt = self._receipt()
        self._cast.meter.turn(
            route=self._ask.route,
            status=self._status,
            executor=self._plan.executor,
            role=self._plan.role or "",
            seconds=seconds,
            first_s=None if self._first is None else self._first - self._began,
            usage=receipt.usage,
        )
        _log.info("turn_done", route=self._ask.route, status=self._status, executor=self._plan.executor, receipt=self.receipt_id, took_ms=round(seconds * 1000))
        _spawn(self._after(receipt))
        await self._turn.aclose()

    async def _after(self, receipt: Receipt) -> None:
        """Do what the caller need not wait for."""
        usage = receipt.usage
        used = int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
        if receipt.status == GONE:  # nobody knows what was used: leaving just before the end is no way around a quota; a chunk is a token or more
            used = max(self._ask.tokens_held, self._ask.size // admission.BYTES_PER_TOKEN + self._chunks)
        elif not used and receipt.status == HTTP_OK and self._ask.route in GENERATING:  # a remote server that counts nothing
            used = self._ask.tokens_held
        try:
            await self._cast.settle(self._ask.key_id, self._ask.tokens_held, used)
            await self._cast.keep(receipt)
        except ConsiliumError as error:
            _log.warning("receipt_not_kept", receipt=self.receipt_id, code=error.code, detail=error.detail)

    def _with_receipt(self, body: bytes) -> bytes:
        self.last = body
        if not self._plan.with_receipt or self.head.status != 200 or self._ask.route not in GENERATING:
            return body
        note = _dumps({"receipt": self._receipt().as_dict()})
        if not self.head.stream:
            return receipt_bytes.into_document(body, note)
        kind = {"chat": b"chat.completion.chunk", "completions": b"text_completion"}.get(self._ask.route, b"consilium.receipt")
        spare = b'data: {"id":"' + self.receipt_id.encode() + b'","object":"' + kind + b'","choices":[],"consilium":' + note + b"}\n\n"
        return receipt_bytes.into_stream(body, note, spare)

    def _receipt(self) -> Receipt:
        plan, head, tail = self._plan, self.head, self._turn.tail
        now = self._cast.clock.monotonic()
        stages: dict[str, float] = {"gateway": _ms(self._opened - self._began), "total": _ms(now - self._began)}
        if self._first is not None:
            stages["first_byte"] = _ms(self._first - self._began)
        usage: dict[str, int] = {}
        if tail is not None:
            usage = {
                "prompt_tokens": tail.usage.prompt_tokens,
                "completion_tokens": tail.usage.completion_tokens,
                "cached_tokens": tail.usage.cached_tokens,
            }
            engine = {
                "queue": tail.timings.queue_ms,
                "prefill": tail.timings.prefill_ms,
                "first_token": tail.timings.first_token_ms,
                "engine": tail.timings.total_ms,
            }
            stages |= {name: value for name, value in engine.items() if value is not None}
        return Receipt(
            id=self.receipt_id,
            created=self._cast.clock.now(),
            route=self._ask.route,
            model_asked=str(self._ask.body.get("model") or "auto"),
            target=plan.target.kind if plan.target.kind in {"auto", "base"} else f"{plan.target.kind}/{plan.target.name}",
            role=plan.role,
            profile=plan.profile,
            profile_why=plan.profile_why,
            executor=plan.executor,
            model=self._cast.engine.info(plan.executor).model,
            replica=head.replica,
            replica_why=head.routing,
            fallback_from=self._moved[0] or None,
            fallback_why=self._moved[1] or None,
            revision=head.revision,
            template=head.template,
            usage=usage,
            finish_reason=tail.finish_reason if tail is not None else None,
            timings=stages,
            notes=(*self._ask.notes, *plan.notes),
            status=self._status,
            key_id=self._ask.key_id,
        )


async def play(cast: Cast, ask: Ask) -> Playing:
    """Return when the answer has begun.

    Raises ConsiliumError: invalid_request, model_unknown, adapter_unknown, queue_full, upstream_down, engine_starting, deadline, internal.
    """
    began = cast.clock.monotonic()
    receipt_id = cast.ids.new()
    try:
        plan = _plan(cast, ask)
        deadline = ask.deadline if ask.deadline is not None else cast.clock.now() + cast.limits.request_timeout_s
        moved = ("", "")
        try:
            turn = await _open(cast, ask, plan, receipt_id, deadline)
        except ConsiliumError as error:
            if error.code not in PASSES_ON or plan.fallback is None:
                raise
            moved = (plan.executor, error.code)
            _log.warning("fallback", executor=plan.executor, to=plan.fallback, code=error.code)
            cast.meter.fallback(plan.executor, plan.fallback)
            plan.executor, plan.fallback = plan.fallback, None
            turn = await _open(cast, ask, plan, receipt_id, deadline)
    except ConsiliumError as error:
        cast.meter.turn(route=ask.route, status=error.row.http, executor="", role="", seconds=cast.clock.monotonic() - began, first_s=None, usage={})
        cast.meter.refused(error.code)
        _spawn(cast.settle(ask.key_id, ask.tokens_held, 0))
        raise
    except Exception as error:
        _spawn(cast.settle(ask.key_id, ask.tokens_held, 0))
        _log.exception("turn_failed", receipt=receipt_id)
        raise unknown(receipt_id, error) from error
    return Playing(cast, ask, plan, turn, receipt_id=receipt_id, began=began, opened=cast.clock.monotonic(), moved=moved)


async def _open(cast: Cast, ask: Ask, plan: _Plan, receipt_id: str, deadline: float) -> Turn:
    """Take a place and send the call. The place is given back if the answer does not begin."""
    info = cast.engine.info(plan.executor)
    if not info.model:  # it has not said yet what it serves
        await cast.engine.probe(plan.executor)
        info = cast.engine.info(plan.executor)
    cast.gate.enter(plan.executor)
    cast.meter.inflight(plan.executor)
    begun = cast.clock.monotonic()
    try:
        body = {**plan.body, "model": info.model}
        return await cast.engine.open(plan.executor, Call(receipt_id, ask.route, body, deadline=deadline, prefix_key=plan.prefix_key))
    except BaseException:
        cast.gate.leave(plan.executor, cast.clock.monotonic() - begun)
        cast.meter.inflight(plan.executor)
        raise


def _plan(cast: Cast, ask: Ask) -> _Plan:
    admission.check_shape(ask.body, cast.limits, ask.route)
    wish = ask.body.get("consilium")
    wish = wish if isinstance(wish, dict) else {}
    infos = {info.name: info for info in cast.engine.executors()}
    asked = ask.body.get("model")
    target = models.resolve(asked if isinstance(asked, str) else None, roles=cast.frames, executors={name: info.model for name, info in infos.items()})
    role = wish.get("role") or target.role
    if role is not None and role not in cast.frames:
        target = models.resolve(f"role/{role}", roles=cast.frames, executors={})
    frame = cast.frames.get(str(role)) if role is not None else None
    body = {key: value for key, value in ask.body.items() if key != "consilium"}
    plan = _Plan(target, CORE, body, "", role=frame.role if frame else None, with_receipt=wish.get("receipt") is not False)
    settings: Profile | None = None
    if ask.route in GENERATING:
        # Only who says auto, here or in the role, is chosen for: a request that names a model is answered as the bare engine would.
        named = frame.profile if frame else profiles.AUTO if asked == models.AUTO else None
        chosen = profiles.choose(wish.get("profile"), named, prompt.text(body), profiles=cast.profiles)
        plan.profile, plan.profile_why, settings = chosen.name, chosen.why, chosen.profile
        plan.body = profiles.apply(settings, body, ask.route)
    if frame is not None:
        plan.body = prompt.framed(frame, plan.body, ask.route)
    plan.executor = str(wish.get("executor") or target.executor or (frame.executor if frame else None) or (settings.executor if settings else None) or CORE)
    if plan.executor not in infos:
        models.resolve(f"executor/{plan.executor}", roles=(), executors={name: info.model for name, info in infos.items()})
    plan.fallback = _fallback(plan.executor, frame, infos)
    plan.prefix_key = prompt.prefix_key(plan.role, plan.body)
    return plan


def _fallback(executor: str, frame: roles.Frame | None, infos: Mapping[str, ExecutorInfo]) -> str | None:
    own = frame.fallback if frame is not None else None
    chosen = own or infos[executor].fallback
    return chosen if chosen in infos and chosen != executor else None


_tasks: set[asyncio.Task[None]] = set()


def _spawn(work: Awaitable[None]) -> None:
    """Run work beside the answer; the reference keeps the task alive until it is done."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def finish_background() -> None:
    """Wait for receipts that are still being kept, when the process ends."""
    if _tasks:
        await asyncio.wait(_tasks, timeout=2.0)


async def states(cast: Cast) -> dict[str, State]:
    """Ask every executor how it is, side by side."""
    names = [info.name for info in cast.engine.executors()]
    found = await asyncio.gather(*(cast.engine.probe(name) for name in names))
    return dict(zip(names, found, strict=True))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()

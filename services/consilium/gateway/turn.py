"""One turn, from a request to an answer with its receipt.

    check -> resolve the name -> frame and profile -> place in the engine -> executor (or its fallback) -> bytes through -> receipt

Both faces, HTTP and gRPC, play turns here and nowhere else. Knows the order of the steps. Does not know HTTP, gRPC, Ray or Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from consilium.engine.client import Call, EngineClient, Head, Turn
from consilium.engine.ports import Json, Route
from consilium.gateway import admission, context, receipt_bytes, roles
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.keys import DEFAULT_TENANT
from consilium.gateway.plan import GENERATING, Plan, decide
from consilium.gateway.receipt import Receipt
from consilium.kernel import logs
from consilium.kernel.clock import Clock, Ids
from consilium.kernel.errors import ConsiliumError, to_openai, unknown
from consilium.kernel.json_bytes import dumps

HTTP_OK: Final = 200
GONE: Final = 499
PASSES_ON: Final = frozenset({"upstream_down", "engine_starting", "engine_failed"})

_log = logs.get("gateway")


class Meter(Protocol):
    """Where counts go."""

    def turn(
        self,
        *,
        route: str,
        status: int,
        executor: str,
        role: str,
        seconds: float,
        first_s: float | None,
        usage: dict[str, int],
    ) -> None:
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
    tenant      whose prompts share a prefix cache
    """

    route: Route
    body: Json
    size: int
    key_id: str = ""
    tokens_held: int = 0
    deadline: float | None = None
    notes: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT


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


class Playing:
    """An answer that has begun. Iterate once for its bytes, then it ends itself; `aclose` ends it early and stops the engine."""

    def __init__(
        self,
        cast: Cast,
        ask: Ask,
        plan: Plan,
        turn: Turn,
        *,
        receipt_id: str,
        began: float,
        moved: tuple[str, str],
    ) -> None:
        self._cast, self._ask, self._plan, self._turn = cast, ask, plan, turn
        self._began, self._moved = began, moved
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
                error.fields["receipt"] = self.receipt_id
                raise
            yield b"data: " + dumps(to_openai(error)) + b"\n\n" + receipt_bytes.DONE + b"\n\n"
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
        _log.info(
            "turn_done",
            route=self._ask.route,
            status=self._status,
            executor=self._plan.executor,
            receipt=self.receipt_id,
            took_ms=round(seconds * 1000),
        )
        _spawn(self._after(receipt))
        await self._turn.aclose()

    async def _after(self, receipt: Receipt) -> None:
        """Do what the caller need not wait for."""
        usage = receipt.usage
        used = int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
        if (
            receipt.status == GONE
        ):  # nobody knows what was used: leaving just before the end is no way around a quota; a chunk is a token or more
            used = max(
                self._ask.tokens_held, self._ask.size // admission.BYTES_PER_TOKEN + self._chunks
            )
        elif (
            not used and receipt.status == HTTP_OK and self._ask.route in GENERATING
        ):  # a remote server that counts nothing
            used = self._ask.tokens_held
        await _close(self._cast, self._ask, used, receipt)

    def _with_receipt(self, body: bytes) -> bytes:
        self.last = body
        if (
            not self._plan.with_receipt
            or self.head.status != 200
            or self._ask.route not in GENERATING
        ):
            return body
        note = dumps({"receipt": self._receipt().as_dict()})
        if not self.head.stream:
            return receipt_bytes.into_document(body, note)
        kind = {"chat": b"chat.completion.chunk", "completions": b"text_completion"}.get(
            self._ask.route, b"consilium.receipt"
        )
        spare = (
            b'data: {"id":"'
            + self.receipt_id.encode()
            + b'","object":"'
            + kind
            + b'","choices":[],"consilium":'
            + note
            + b"}\n\n"
        )
        return receipt_bytes.into_stream(body, note, spare)

    def _receipt(self) -> Receipt:
        plan, head, tail = self._plan, self.head, self._turn.tail
        now = self._cast.clock.monotonic()
        stages: dict[str, float] = {
            "gateway": _ms(max(0.0, self._plan.sent - self._began)),
            "total": _ms(now - self._began),
        }
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
        known = _receipt_of(
            self._cast,
            self._ask,
            plan,
            self.receipt_id,
            moved=self._moved,
            status=self._status,
            timings=stages,
        )
        return replace(
            known,
            replica=head.replica,
            replica_why=head.routing,
            revision=head.revision,
            template=head.template,
            usage=usage,
            finish_reason=tail.finish_reason if tail is not None else None,
        )


async def play(cast: Cast, ask: Ask) -> Playing:
    """Return when the answer has begun. A turn that ends before that has a receipt too, once it is known who should have answered.

    Raises ConsiliumError: invalid_request, model_unknown, adapter_unknown, queue_full, upstream_down, engine_starting, deadline, internal; its field
    `receipt` holds the id of that receipt.
    """
    began = cast.clock.monotonic()
    receipt_id = cast.ids.new()
    plan: Plan | None = None
    moved = ("", "")
    try:
        plan = decide(
            ask.body,
            ask.route,
            engine=cast.engine,
            frames=cast.frames,
            profiles=cast.profiles,
            limits=cast.limits,
        )
        deadline = (
            ask.deadline
            if ask.deadline is not None
            else cast.clock.now() + cast.limits.request_timeout_s
        )
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
        cast.meter.refused(error.code)
        _not_played(
            cast,
            ask,
            plan,
            receipt_id,
            began=began,
            moved=moved,
            status=error.row.http,
            code=error.code,
        )
        if plan is not None:
            error.fields["receipt"] = receipt_id
        raise
    except asyncio.CancelledError:
        _not_played(
            cast, ask, plan, receipt_id, began=began, moved=moved, status=GONE, code="client_gone"
        )
        raise
    except Exception as error:
        _log.exception("turn_failed", receipt=receipt_id)
        _not_played(
            cast, ask, plan, receipt_id, began=began, moved=moved, status=500, code="internal"
        )
        failed = unknown(receipt_id, error)
        if plan is not None:
            failed.fields["receipt"] = receipt_id
        raise failed from error
    return Playing(cast, ask, plan, turn, receipt_id=receipt_id, began=began, moved=moved)


def _not_played(
    cast: Cast,
    ask: Ask,
    plan: Plan | None,
    receipt_id: str,
    *,
    began: float,
    moved: tuple[str, str],
    status: int,
    code: str,
) -> None:
    """Count a turn that ended before its answer began, settle its quota, and keep its receipt."""
    seconds = cast.clock.monotonic() - began
    executor, role = (plan.executor, plan.role or "") if plan is not None else ("", "")
    cast.meter.turn(
        route=ask.route,
        status=status,
        executor=executor,
        role=role,
        seconds=seconds,
        first_s=None,
        usage={},
    )
    # Who leaves while the engine reads pays for the prompt that it may have read; an error costs nothing.
    used = min(ask.tokens_held, ask.size // admission.BYTES_PER_TOKEN) if status == GONE else 0
    receipt = None
    if plan is not None:
        receipt = _receipt_of(
            cast,
            ask,
            plan,
            receipt_id,
            moved=moved,
            status=status,
            timings={"total": _ms(seconds)},
            notes=(f"ended by: {code}",),
        )
    _spawn(_close(cast, ask, used, receipt))


async def _close(cast: Cast, ask: Ask, used: int, receipt: Receipt | None) -> None:
    """Settle the quota by what was used, and keep the receipt, if there is one. Never raises."""
    try:
        await cast.settle(ask.key_id, ask.tokens_held, used)
        if receipt is not None:
            await cast.keep(receipt)
    except ConsiliumError as error:
        _log.warning(
            "receipt_not_kept",
            receipt=receipt.id if receipt is not None else "",
            code=error.code,
            detail=error.detail,
        )


def _receipt_of(
    cast: Cast,
    ask: Ask,
    plan: Plan,
    receipt_id: str,
    *,
    moved: tuple[str, str],
    status: int,
    timings: dict[str, float],
    notes: tuple[str, ...] = (),
) -> Receipt:
    """Return what is known of a turn whether or not anything was answered."""
    return Receipt(
        id=receipt_id,
        created=cast.clock.now(),
        route=ask.route,
        model_asked=str(ask.body.get("model") or "auto"),
        target=plan.target.kind
        if plan.target.kind in {"auto", "base"}
        else f"{plan.target.kind}/{plan.target.name}",
        role=plan.role,
        profile=plan.profile,
        profile_why=plan.profile_why,
        executor=plan.executor,
        model=cast.engine.info(plan.executor).model,
        fallback_from=moved[0] or None,
        fallback_why=moved[1] or None,
        timings=timings,
        notes=(*ask.notes, *plan.notes, *notes),
        status=status,
        key_id=ask.key_id,
    )


async def _open(cast: Cast, ask: Ask, plan: Plan, receipt_id: str, deadline: float) -> Turn:
    """Take a place and send the call. The place is given back if the answer does not begin."""
    if not cast.engine.info(plan.executor).model:  # it has not said yet what it serves
        await cast.engine.probe(plan.executor)
    info = cast.engine.info(plan.executor)
    cast.gate.enter(plan.executor)
    cast.meter.inflight(plan.executor)
    begun = cast.clock.monotonic()
    try:
        await context.fit(
            cast.engine, plan, ask.body, ask.route, call_id=receipt_id, deadline=deadline
        )
        body = {**plan.body, "model": info.model}
        if ask.tenant != DEFAULT_TENANT and ask.route in GENERATING and info.kind != "remote":
            # Whether a prompt was in the cache tells whether somebody sent it: no tenant shares a cache with another.
            body["cache_salt"] = f"{ask.tenant}/{body.get('cache_salt') or ''}"
        plan.sent = cast.clock.monotonic()
        return await cast.engine.open(
            plan.executor,
            Call(receipt_id, ask.route, body, deadline=deadline, prefix_key=plan.prefix_key),
        )
    except BaseException:
        cast.gate.leave(plan.executor, cast.clock.monotonic() - begun)
        cast.meter.inflight(plan.executor)
        raise


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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)

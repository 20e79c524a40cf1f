"""The end of a turn, once per turn and after the answer: receipt, count, quota.

Off the critical path: nobody waits for what is done here. Knows what a turn was. Does not know how it was played.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace

from consilium.engine.client import Head, Tail
from consilium.gateway.cast import Ask, Cast, Course, FollowedTable, Played, Stage
from consilium.gateway.decision import GENERATING
from consilium.gateway.estimate import BYTES_PER_TOKEN, estimate_tokens
from consilium.gateway.receipt import Added, Receipt
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

HTTP_OK = 200
GONE = 499

_log = logs.get("gateway")
_tasks: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Said:
    """What came of an answer that had begun.

    first   monotonic seconds of its first byte, or None
    chunks  pieces that went out; each is a token or more
    """

    head: Head
    tail: Tail | None
    first: float | None
    chunks: int = 0
    usage: dict[str, int] = field(default_factory=dict)


def receipt(cast: Cast, ask: Ask, course: Course, *, status: int, said: Said | None) -> Receipt:
    """Return what is known of a turn that was decided. Raises ValueError before it was."""
    decision = course.decision
    if decision is None:
        msg = "nothing was decided yet"
        raise ValueError(msg)
    now = cast.clock.monotonic()
    target = decision.target
    plain = target.kind in {"auto", "base"}
    known = Receipt(
        id=course.receipt_id,
        created=cast.clock.now(),
        route=ask.route,
        model_asked=str(ask.body.get("model") or "auto"),
        target=target.kind if plain else f"{target.kind}/{target.name}",
        role=decision.role,
        profile=decision.profile,
        profile_why=decision.profile_why,
        executor=course.executor,
        model=cast.engine.info(course.executor).model if course.executor else "",
        timings={"total": ms(now - course.began)},
        notes=(*ask.notes, *course.notes),
        status=status,
        key_id=ask.key_id,
        lane=ask.lane if ask.lane != "interactive" else "",
        conversation=ask.conversation,
        attempts=tuple(course.tried),
        contributions=tuple(
            Added(each.source, len(each.pieces), each.took_ms, each.note)
            for each in course.contributions
        ),
        adapters=decision.adapters_on(course.executor),
        adapter_why=decision.plain_on.get(course.executor, decision.adapter_why),
        passages=_ids(course, "passages"),
        memories=_ids(course, "memories"),
        tables={name: _held(table) for name, table in cast.tables.items()},
    )
    return known if said is None else _with_answer(known, course, said)


def ended(
    cast: Cast, ask: Ask, course: Course, *, status: int, said: Said | None, code: str = ""
) -> None:
    """Count a turn that is over, and settle its quota and keep its receipt beside whatever comes next."""
    now = cast.clock.monotonic()
    seconds = now - course.began
    known = None
    if course.decision is not None:
        if code:
            course.notes.append(f"ended by: {code}")
        known = receipt(cast, ask, course, status=status, said=said)
    decision = course.decision
    cast.meter.turn(
        Played(
            route=ask.route,
            status=status,
            executor=course.executor or (decision.executors[0] if decision else ""),
            seconds=seconds,
            role=(decision.role or "") if decision else "",
            adapters=tuple(name.partition(":")[0] for name in decision.adapters_on(course.executor))
            if decision
            else (),
            key=ask.key_name,
            first_s=None if said is None or said.first is None else said.first - course.began,
            usage=known.usage if known is not None else {},
            stages=_stages(course, said, now) if ask.route in GENERATING else {},
        )
    )
    _spawn(_close(cast, ask, _used(ask, status, said, known), known))


def usage_of(tail: Tail | None) -> dict[str, int]:
    """Return the tokens of an answer; empty before its end."""
    if tail is None:
        return {}
    return {
        "prompt_tokens": tail.usage.prompt_tokens,
        "completion_tokens": tail.usage.completion_tokens,
        "cached_tokens": tail.usage.cached_tokens,
    }


async def finish_background() -> None:
    """Wait for receipts that are still being kept, when the process ends."""
    if _tasks:
        await asyncio.wait(_tasks, timeout=2.0)


def ms(seconds: float) -> float:
    """Return milliseconds as a receipt tells them."""
    return round(seconds * 1000, 2)


def _used(ask: Ask, status: int, said: Said | None, known: Receipt | None) -> int:
    """Return the tokens that a turn is charged for."""
    held = ask.held.tokens if ask.held is not None else 0
    held = min(held, estimate_tokens(ask.body, ask.size))  # what was taken is more than is probable
    read = ask.size // BYTES_PER_TOKEN
    if said is None or (said.first is None and said.head.stream):
        # Who leaves while the engine reads pays for the prompt that it may have read; an error costs nothing.
        return min(held, read) if status == GONE else 0
    if (
        status == GONE
    ):  # nobody knows what was used: leaving just before the end is no way around a quota
        return max(held, read + said.chunks)
    if (
        said.tail is None and said.chunks
    ):  # it broke off, at its deadline or by a fault: what was written was written
        return read + said.chunks
    usage = known.usage if known is not None else {}
    used = int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
    if (
        not used and status == HTTP_OK and ask.route in GENERATING
    ):  # a remote server that counts nothing
        return held
    return used


def _with_answer(known: Receipt, course: Course, said: Said) -> Receipt:
    stages = {"gateway": ms(max(0.0, course.sent - course.began)), **known.timings}
    if said.first is not None:
        stages["first_byte"] = ms(said.first - course.began)
    if said.head.adapter_wait_ms is not None:
        stages["adapter"] = said.head.adapter_wait_ms
    tail = said.tail
    if tail is not None:
        engine = {
            "queue": tail.timings.queue_ms,
            "prefill": tail.timings.prefill_ms,
            "first_token": tail.timings.first_token_ms,
            "engine": tail.timings.total_ms,
        }
        stages |= {name: value for name, value in engine.items() if value is not None}
    return replace(
        known,
        notes=(*known.notes, said.head.note) if said.head.note else known.notes,
        timings=stages,
        replica=said.head.replica,
        replica_why=said.head.routing,
        adapter_tier=said.head.adapter_tier,
        revision=said.head.revision,
        template=said.head.template,
        usage=usage_of(tail),
        finish_reason=tail.finish_reason if tail is not None else None,
    )


def _stages(course: Course, said: Said | None, now: float) -> Mapping[Stage, float]:
    """Return the seconds of each stage that a turn came to.

    A document is there when it is accepted: where it was waited for, and where it was written, only the engine's clock says. One that does not say wrote all the time.
    """
    if said is None or said.first is None or not course.accepted:
        return course.stages
    if said.head.stream:
        first, rest = max(0.0, said.first - course.accepted), max(0.0, now - said.first)
        return {**course.stages, "first_token": first, "answer": rest}
    spent = course.accepted - course.sent
    before = course.stages.get("engine_wait", spent) - spent  # that of attempts that failed
    told = said.tail.timings if said.tail is not None else None
    if told is None or told.first_token_ms is None or told.total_ms is None:
        return {**course.stages, "engine_wait": before, "answer": spent}
    first, total = told.first_token_ms / 1000, told.total_ms / 1000
    wait = before + max(0.0, spent - total)
    rest = max(0.0, total - first)
    return {**course.stages, "engine_wait": wait, "first_token": first, "answer": rest}


def _held(table: FollowedTable) -> str:
    """Return what the gateway holds of a room's table, in words; how old it is where the room is not being heard."""
    if table.is_live:
        return f"version {table.version}"
    age_s = table.age_s
    return "never heard" if age_s is None else f"version {table.version}, {age_s:.0f} s old"


def _ids(course: Course, kind: str) -> tuple[str, ...]:
    return tuple(
        f"{name}#{span}" if span else name for found, name, span in course.used if found == kind
    )


async def _close(cast: Cast, ask: Ask, used: int, known: Receipt | None) -> None:
    """Settle the quota by what was used, and keep the receipt, if there is one. Never raises."""
    try:
        if ask.held is not None:
            await ask.held.settle(used)
        if known is not None:
            await cast.keep(known)
    except ConsiliumError as error:
        _log.warning(
            "receipt_not_kept",
            receipt=known.id if known is not None else "",
            code=error.code,
            detail=error.detail,
        )


def _spawn(work: Awaitable[None]) -> None:
    """Run work beside the answer; the reference keeps the task alive until it is done."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)

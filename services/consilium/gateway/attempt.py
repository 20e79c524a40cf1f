"""One executor tried: a place, a prompt composed for it, a call. The place is given back if no answer begins.

Knows one executor. Does not know which comes next.
"""

from __future__ import annotations

import hashlib

from consilium.engine.client import Call, Turn
from consilium.engine.ports import PRIORITY
from consilium.gateway import profile_context, prompt
from consilium.gateway.cast import Ask, Cast, Course
from consilium.gateway.decision import GENERATING, Decision
from consilium.gateway.shares import step
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import DEFAULT_TENANT

BAD_REQUEST = 400
WORTH_TELLING_S = 0.05


async def attempt(cast: Cast, ask: Ask, decision: Decision, course: Course, executor: str) -> Turn:
    """Return the answer of one executor once it has begun; the place is then the caller's to give back.

    What other rooms added is left out if the executor finds the prompt too long with it. Raises ConsiliumError as the engine does.
    """
    course.executor = executor
    if not cast.engine.info(executor).model:  # it has not said yet what it serves
        await cast.engine.probe(executor)
    await _placed(cast, ask, course)
    cast.meter.inflight(executor)
    begun = cast.clock.monotonic()
    try:
        turn = await _opened(cast, ask, decision, course, added=True)
        if course.used and turn.head.status == BAD_REQUEST:
            await turn.aclose()
            course.notes.append(
                "what was added was left out: the executor refused the prompt with it"
            )
            turn = await _opened(cast, ask, decision, course, added=False)
    except BaseException:
        cast.gate.leave(executor, cast.clock.monotonic() - begun, ask.who)
        cast.meter.inflight(executor)
        raise
    return turn


async def _placed(cast: Cast, ask: Ask, course: Course) -> None:
    """Take a place of the executor; a key that has its share waits for one. Raises ConsiliumError(queue_full)."""
    began = cast.clock.monotonic()
    patience_s = max(0.1, course.deadline - cast.clock.now())
    own = await cast.gate.admit(course.executor, ask.lane, ask.who, patience_s=patience_s)
    waited_s = cast.clock.monotonic() - began
    course.spent("admission", waited_s)
    if waited_s > WORTH_TELLING_S:
        course.notes.append(f"waited {waited_s:.1f} s for a place: this key had its share")
    course.behind = step(own) if ask.key_id else 0


async def _opened(cast: Cast, ask: Ask, decision: Decision, course: Course, *, added: bool) -> Turn:
    """Compose for this executor, and send."""
    began = cast.clock.monotonic()
    executor = course.executor
    info = cast.engine.info(executor)
    contributions = course.contributions if added else ()
    composed = prompt.compose(ask.body, ask.route, decision, contributions, info)
    try:
        fitted = await profile_context.fit(
            cast.engine,
            decision,
            executor=executor,
            given=ask.body,
            body=composed.body,
            route=ask.route,
            call_id=course.receipt_id,
            deadline=course.deadline,
            trace=ask.trace,
        )
    except ConsiliumError as error:
        if error.code != "invalid_request" or not composed.used:
            raise
        course.notes.append(f"what was added was left out: too long for {decision.profile!r}")
        return await _opened(cast, ask, decision, course, added=False)
    body = {**fitted.body, "model": info.model}
    salted = ask.tenant != DEFAULT_TENANT or body.get("cache_salt")
    if salted and ask.route in GENERATING and info.kind != "remote":
        # Whether a prompt was in the cache tells whether somebody sent it: no tenant shares a cache with another, and none names another's.
        body["cache_salt"] = _salt(ask.tenant, body.get("cache_salt"))
    course.used = tuple((kind, piece.id, piece.span) for kind, piece in composed.used)
    course.notes += [note for note in (*composed.notes, fitted.note) if note]
    course.sent = cast.clock.monotonic()
    course.spent("prompt", course.sent - began)
    call = Call(
        course.receipt_id,
        ask.route,
        body,
        lane=ask.lane,
        priority=PRIORITY[ask.lane] + course.behind,
        deadline=course.deadline,
        prefix_key=composed.prefix_key,
        trace=ask.trace,
        adapter=(decision.adapter or None) if executor not in decision.plain_on else None,
    )
    try:
        turn = await cast.engine.open(executor, call)
    except ConsiliumError as error:
        course.spent("engine_wait", cast.clock.monotonic() - course.sent)
        if error.code != "prompt_too_long" or not course.used:
            raise
        course.notes.append("what was added was left out: the prompt was too long with it")
    else:
        course.accepted = cast.clock.monotonic()
        course.spent("engine_wait", course.accepted - course.sent)
        return turn
    return await _opened(cast, ask, decision, course, added=False)


def _salt(tenant: str, given: object) -> object:
    """Return the salt of a tenant's prompts, with what the caller gave. vLLM 0.32 takes at most 128 characters, and neither @ nor / nor a backslash.

    given  a string or nothing; another thing is left as it is, and refused by the engine with its name
    """
    if given is not None and not isinstance(given, str):
        return given
    return hashlib.sha256(f"{tenant}\0{given or ''}".encode()).hexdigest()

"""One turn, from a request to an answer that an executor has accepted:

    decide who answers, with which adapter -> what other rooms add -> an executor, or its fallback (fallback.py) -> the answer (answer.py) -> its end (closing.py)

Both faces and the rooms of the cluster play turns here and nowhere else. Knows the order of the steps. Does not know HTTP, gRPC, Ray or Redis.
"""

from __future__ import annotations

import asyncio

from consilium.gateway import closing, turn_words
from consilium.gateway.answer import Answer
from consilium.gateway.cast import Ask, Cast, Course
from consilium.gateway.closing import finish_background
from consilium.gateway.contributions import Question
from consilium.gateway.decision import GENERATING, Decision, decide
from consilium.gateway.fallback import Executors
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError, unknown

__all__ = ["Answer", "Ask", "Cast", "finish_background", "play"]

_log = logs.get("gateway")


async def play(cast: Cast, ask: Ask) -> Answer:
    """Return when an executor has accepted: the prompt is counted, it fits and has a place. A whole answer is then there, a stream has perhaps no byte yet. A turn that ends before that has a receipt too, once it is known who should have answered.

    Raises ConsiliumError: invalid_request, model_unknown, adapter_unknown, adapter_refused, adapter_down, no_free_lora_slot, queue_full, upstream_down, engine_starting, deadline, internal; its field
    `receipt` holds the id of that receipt.
    """
    latest = cast.clock.now() + cast.limits.request_timeout_s
    deadline = ask.deadline if ask.deadline is not None else latest
    course = Course(ask.answer_id or cast.ids.new(), cast.clock.monotonic(), deadline)
    course.spent("admission", ask.admission_s)
    try:
        decision = decide(
            ask.body,
            ask.route,
            engine=cast.engine,
            frames=cast.frames,
            profiles=cast.profiles,
            limits=cast.limits,
            embeds=cast.embeds,
        )
        course.decision = decision
        if ask.route in GENERATING:
            decision = await cast.adapters.chosen(
                decision, ask.body, _talk(ask), course.notes, ask.key_id
            )
            course.decision = decision
        if ask.route in GENERATING and cast.contributors.each:
            asked, began = _question(ask, decision, deadline), cast.clock.monotonic()
            course.contributions = await cast.contributors.gather(asked, cast.clock)
            course.spent("contributions", cast.clock.monotonic() - began)
        executors = Executors(cast, ask, decision, course)
        turn = await executors.next()
    except ConsiliumError as error:
        cast.meter.refused(error.code)
        closing.ended(cast, ask, course, status=error.row.http, said=None, code=error.code)
        raise _naming(error, course) from None
    except asyncio.CancelledError:
        closing.ended(cast, ask, course, status=closing.GONE, said=None, code="client_gone")
        raise
    except Exception as error:
        _log.exception("turn_failed", receipt=course.receipt_id)
        closing.ended(cast, ask, course, status=500, said=None, code="internal")
        raise _naming(unknown(course.receipt_id, error), course) from error
    return Answer(executors, turn)


def _talk(ask: Ask) -> str:
    """Return which conversation goes on: two callers may give theirs one name."""
    return f"{ask.tenant}/{ask.key_id}/{ask.conversation}" if ask.conversation else ""


def _question(ask: Ask, decision: Decision, deadline: float) -> Question:
    words = turn_words.text(ask.body)
    return Question(ask.route, words, decision, ask.key_id, ask.tenant, ask.conversation, deadline)


def _naming(error: ConsiliumError, course: Course) -> ConsiliumError:
    """Return the error with the id of the turn's receipt, where there is one."""
    if course.decision is not None:
        error.fields["receipt"] = course.receipt_id
    return error

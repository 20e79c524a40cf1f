"""What other rooms add to a turn: passages, memories. They are asked side by side, each has its own budget, and none can cost the answer.

A contributor that is late or fails costs its budget and leaves a note in the receipt. Knows budgets and pieces of text. Does not know rooms, engines, or where in
a prompt a piece goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consilium.engine.ports import Route
from consilium.gateway.decision import Decision
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError

_log = logs.get("gateway")


@dataclass(frozen=True, slots=True)
class Piece:
    """One text that stands before the turn, and where it is from.

    id    what the receipt names: a passage, a memory
    span  where in its source, such as characters 120-480; empty = all of it
    """

    id: str
    text: str
    span: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a contributor is told of a turn.

    text      the words of the turn
    deadline  Unix seconds after which nobody waits any more
    """

    route: Route
    text: str
    decision: Decision
    key_id: str
    tenant: str
    conversation: str
    deadline: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """What came of one contributor. `pieces` are in the order of their worth: what does not fit is cut from the end.

    kind  what the pieces are, such as passages
    note  why nothing came, in words for the receipt
    """

    source: str
    kind: str
    pieces: tuple[Piece, ...] = ()
    took_ms: float = 0.0
    note: str = ""


class Contributor(Protocol):
    """A room that adds to turns, as the gateway sees it.

    name      such as retrieval
    kind      what its pieces are, such as passages
    budget_s  seconds that a turn waits for it
    """

    name: str
    kind: str
    budget_s: float

    async def pieces(self, question: Question) -> Sequence[Piece]:
        """Return the pieces for a turn, none where it has nothing to say. Raises ConsiliumError."""


@dataclass(frozen=True, slots=True)
class Contributors:
    """All that are asked for a turn."""

    each: tuple[Contributor, ...] = field(default=())

    async def gather(self, question: Question, clock: Clock) -> tuple[Contribution, ...]:
        """Ask all side by side and return what came, in their order. Never raises, but for a cancelled turn."""
        if not self.each:
            return ()
        return tuple(await asyncio.gather(*(_one(each, question, clock) for each in self.each)))


async def _one(contributor: Contributor, question: Question, clock: Clock) -> Contribution:
    began = clock.monotonic()
    budget_s = min(contributor.budget_s, max(0.0, question.deadline - clock.now()))
    note = ""
    found: tuple[Piece, ...] = ()
    try:
        async with asyncio.timeout(budget_s):
            found = tuple(await contributor.pieces(question))
    except TimeoutError:
        note = f"{contributor.name} was not there within {budget_s * 1000:.0f} ms"
    except ConsiliumError as error:
        note = f"{contributor.name} added nothing ({error.code})"
        _log.warning("contribution_lost", source=contributor.name, code=error.code)
    except Exception:
        note = f"{contributor.name} added nothing (internal)"
        _log.exception("contribution_lost", source=contributor.name, code="internal")
    took_ms = round((clock.monotonic() - began) * 1000, 2)
    return Contribution(contributor.name, contributor.kind, found, took_ms, note)

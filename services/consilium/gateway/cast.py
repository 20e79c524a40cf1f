"""What a turn is played with: the request as a face took it in, and everything that answers it.

Values and ports only. Does not know the order of the steps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias, get_args

from consilium.engine.client import EngineClient
from consilium.engine.ports import Json, Lane, Route
from consilium.gateway.adapters import Adapters
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.contributions import Contribution, Contributors
from consilium.gateway.decision import Decision
from consilium.gateway.gate import Gate
from consilium.gateway.receipt import Receipt, Tried
from consilium.gateway.reservation import Reservation
from consilium.gateway.roles import Frame
from consilium.gateway.shares import Who
from consilium.kernel.clock import Clock, Ids
from consilium.kernel.principals import DEFAULT_TENANT

Stage: TypeAlias = Literal[
    "admission", "contributions", "prompt", "engine_wait", "first_token", "answer"
]
"""A part of a turn whose time is counted."""
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)


@dataclass(frozen=True, slots=True)
class Played:
    """One turn that has ended, as it is counted.

    executor  empty if it never reached one
    role      empty = none
    key       name of the key that asked
    first_s   seconds to its first byte, or None where none came
    usage     tokens by prompt_tokens, completion_tokens, cached_tokens
    stages    seconds that each stage took; empty for what generates nothing
    """

    route: str
    status: int
    executor: str
    seconds: float
    role: str = ""
    adapters: tuple[str, ...] = ()
    key: str = ""
    first_s: float | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[Stage, float] = field(default_factory=dict)


class Meter(Protocol):
    """Where counts go."""

    def turn(self, played: Played) -> None:
        """Count one turn that has ended."""

    def request(self, route: str, status: int) -> None:
        """Count a request that no turn counts."""

    def inflight(self, executor: str) -> None:
        """Tell how many turns an executor has in work now."""

    def refused(self, code: str) -> None:
        """Count a request that no engine saw."""

    def fallback(self, executor: str, instead: str) -> None:
        """Count a turn that another executor answered."""


class FollowedTable(Protocol):
    """A table that a room streams to this gateway, as far as a receipt tells of it."""

    @property
    def version(self) -> int:
        """Return the version that is held."""

    @property
    def age_s(self) -> float | None:
        """Return seconds since the room was heard last, or None if it never was."""

    @property
    def is_live(self) -> bool:
        """Say whether the room is being heard."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as a face took it in.

    size          bytes of the body
    held          what was taken from the key's quota; None where nothing was
    deadline      Unix seconds, or None for the configured default
    notes         what the receipt should say about how it was let in
    tenant        whose prompts share a prefix cache
    lane          who waits for it
    conversation  name of the conversation that it belongs to; empty = none
    answer_id     id of the answer and its receipt, where the caller chose it; empty = made here
    key_name      what the owner of the key calls it
    admission_s   seconds that key and quota took
    trace         headers of the trace that it belongs to
    """

    route: Route
    body: Json
    size: int
    key_id: str = ""
    held: Reservation | None = None
    deadline: float | None = None
    notes: tuple[str, ...] = ()
    tenant: str = DEFAULT_TENANT
    lane: Lane = "interactive"
    conversation: str = ""
    answer_id: str = ""
    key_name: str = ""
    admission_s: float = 0.0
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def who(self) -> Who:
        """Return whose share of the places this takes."""
        return Who(self.tenant, self.key_id)


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays: everything a turn needs besides the request.

    keep          stores a receipt, after the answer
    contributors  rooms that add to a turn
    tables        tables that rooms stream to this gateway, by name
    adapters      who answers with which adapter
    embeds        names of the model behind /v1/embeddings, the true one first; it answers no turn
    """

    engine: EngineClient
    frames: Mapping[str, Frame]
    profiles: Mapping[str, Profile]
    limits: Gateway
    gate: Gate
    clock: Clock
    ids: Ids
    keep: Callable[[Receipt], Awaitable[None]]
    meter: Meter
    adapters: Adapters
    contributors: Contributors = field(default_factory=Contributors)
    tables: Mapping[str, FollowedTable] = field(default_factory=dict)
    embeds: tuple[str, ...] = ()


@dataclass(slots=True)
class Course:
    """How far a turn has come: what is known of it, from its first moment to its receipt.

    began    monotonic seconds
    deadline Unix seconds after which nobody waits any more
    sent     monotonic seconds at which the call went out, 0 before
    tried    executors that did not answer, with the reason
    behind   how far behind the first of its lane it stands in the engine's queue
    used     (kind, id, span) of each piece that stands in the prompt
    accepted monotonic seconds at which the executor accepted, 0 before
    stages   seconds of the stages that are over; those of several attempts add up
    """

    receipt_id: str
    began: float
    deadline: float
    decision: Decision | None = None
    executor: str = ""
    sent: float = 0.0
    behind: int = 0
    contributions: tuple[Contribution, ...] = ()
    tried: list[Tried] = field(default_factory=list)
    used: tuple[tuple[str, str, str], ...] = ()
    notes: list[str] = field(default_factory=list)
    accepted: float = 0.0
    stages: dict[Stage, float] = field(default_factory=dict)

    def spent(self, stage: Stage, seconds: float) -> None:
        """Note the seconds of a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

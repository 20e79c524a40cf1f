"""What an engine is to the rest of the house: a call goes in, framed bytes come out.

Knows the words of one call (call, head, tail) and of one executor. Does not know vLLM, Ray, HTTP or who asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias, get_args

Json: TypeAlias = "dict[str, object]"
Route = Literal[
    "chat",
    "completions",
    "responses",
    "tokenize",
    "detokenize",
    "tokenizer_info",
    "embeddings",
    "models",
]
Template = Literal["model", "plain"]
Kind = Literal["engine", "remote", "echo"]
Lane = Literal["interactive", "normal", "batch", "night"]

ROUTES: tuple[Route, ...] = get_args(Route)
CORE: Final = "core"
"""Name of the executor that answers when nobody names one."""
LANES: tuple[Lane, ...] = get_args(Lane)
PRIORITY: Final[Mapping[Lane, int]] = MappingProxyType(
    {"interactive": 0, "normal": 10, "batch": 20, "night": 30}
)
"""Lane -> vLLM's priority of its calls: the lower number runs first. The steps of ten leave room between the lanes."""


class State(StrEnum):
    """How an executor is doing."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Call:
    """One request to one executor.

    id          request id; also the id that the engine's own log shows
    body        the OpenAI request, its `model` already the executor's served name
    adapter     adapter reference, or None for the plain model
    lane        who waits for it: a person, a program, a batch, or nobody before morning
    priority    lower runs first, where the engine schedules by priority; `PRIORITY` holds one for each lane
    deadline    Unix seconds after which nobody waits any more, or None
    prefix_key  stable key of the prompt's beginning; calls with the same key share a prefix cache
    routing     why this replica; the request router writes it where there are several
    trace       headers of the trace that it belongs to (kernel/trace_context.py)
    """

    id: str
    route: Route
    body: Json
    adapter: str | None = None
    lane: Lane = "interactive"
    priority: int = PRIORITY["interactive"]
    deadline: float | None = None
    prefix_key: str = ""
    routing: str = ""
    trace: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> Json:
        """Return the shape that crosses processes."""
        return {
            "id": self.id,
            "route": self.route,
            "body": self.body,
            "adapter": self.adapter,
            "lane": self.lane,
            "priority": self.priority,
            "deadline": self.deadline,
            "prefix_key": self.prefix_key,
            "routing": self.routing,
            "trace": dict(self.trace),
        }

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> Call:
        """Return the call that `as_dict` wrote. Raises KeyError or TypeError if it is another thing."""
        return cls(**raw)  # type: ignore[arg-type]  # both ends are ours and of one version


@dataclass(frozen=True, slots=True)
class Head:
    """What is known when the first byte of the answer is.

    status       HTTP status of the answer
    stream       True for SSE, False for one JSON document
    retry_after  seconds, or None
    replica      which copy answered
    routing      why that copy, where there are several
    executor     its name in the configuration
    revision     short fingerprint of the model's files
    template     plain when the model has no chat template and ours was used
    note         what was done otherwise than asked, in words for the receipt

    tools_left_out  the request had tools and the model cannot call any, so it answered without

    adapter_tier     where its adapter was when the call came: slot, ram or ssd; empty = no adapter
    adapter_wait_ms  how long the call waited for a slot
    """

    status: int
    stream: bool
    content_type: str
    retry_after: float | None = None
    replica: str = ""
    executor: str = ""
    revision: str = ""
    template: Template = "model"
    routing: str = ""
    note: str = ""
    tools_left_out: bool = False
    adapter_tier: str = ""
    adapter_wait_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds from the engine's own clock; None where it did not say."""

    queue_ms: float | None = None
    prefill_ms: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """What is known when the last byte of the answer is."""

    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = None
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """One executor, as callers see it.

    model     name under which the executor knows its model; goes into `body["model"]`
    context   longest prompt plus answer in tokens, or None if it did not say
    places    requests that run at once over all copies
    fallback  executor that answers when this one is down
    note      what the model is, for a person
    step_tokens, step_s  tokens in one step, and about how many seconds a full one takes: the longest that a token waits for another's prompt; 0 = not known
    silent_s  seconds for which the engine has owed an answer; 0.0 when it answered the last question at once
    start_s   seconds that its last start took; 0.0 if it did not say

    special_tokens                     texts that steer the model; they never come from retrieved text
    characters_per_token               in plain English, for estimates
    characters_per_token_beyond_ascii  letters of other scripts for a token
    """

    name: str
    kind: Kind
    model: str
    context: int | None = None
    state: State = State.STARTING
    places: int = 1
    revision: str = ""
    template: Template = "model"
    fallback: str | None = None
    note: str = ""
    step_tokens: int = 0
    step_s: float = 0.0
    special_tokens: tuple[str, ...] = ()
    characters_per_token: float = 4.0
    characters_per_token_beyond_ascii: float = 2.0
    silent_s: float = 0.0
    start_s: float = 0.0

    def estimate_tokens(self, text: str) -> int:
        """Return about how many tokens a text has here; rather too many than too few."""
        plain = len(text.encode("ascii", "ignore"))
        return ceil(
            plain / self.characters_per_token
            + (len(text) - plain) / self.characters_per_token_beyond_ascii
        )


class Engine(Protocol):
    """One running model. Backends: vllm, openai (remote), echo (tests)."""

    async def start(self) -> None:
        """Return when a token was generated. Raises ConsiliumError(part_failed) if it cannot start."""

    def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the frames of one answer (wire.py): head, body, tail. Closing the generator stops the generation."""

    async def check(self) -> None:
        """Return if a token was generated lately, otherwise generate one. Raises ConsiliumError(upstream_down)."""

    async def stop(self) -> None:
        """End the engine and what it started."""

    def info(self) -> ExecutorInfo:
        """Say what runs here."""

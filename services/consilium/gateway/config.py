"""What the gateway reads of consilium.yaml: limits, roles, profiles, Redis.

Knows shapes of the configuration. Does not know engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from consilium.kernel.config import LIVE, Section, restarts
from consilium.kernel.config_refusal import WrongValueError, no_such
from consilium.kernel.origins import is_origin
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.service_config import MAX_BODY_BYTES

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

BUILT_IN_PROFILES: Final = frozenset({"code", "think", "dialog"})


class Profile(Section):
    """How to think and sample. Every key is optional; what the caller sends wins."""

    thinking: bool | None = Field(
        None,
        description="Ask the model to think first, where its template can; empty = the model's own default.",
    )
    thinking_budget: int | None = Field(None, ge=16, description="Tokens for thinking at most.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 = always the likeliest token; higher = more varied."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Choose among the likeliest tokens that make up this share."
    )
    top_k: int | None = Field(None, ge=0, description="Choose among this many tokens; 0 = all.")
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out tokens less likely than this share of the likeliest.",
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Above 0: words that were used already become less likely."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Longest answer in tokens when the caller names none."
    )
    context: int | None = Field(
        None, ge=16, description="Longest prompt plus answer in tokens under this profile."
    )
    executor: Name | None = Field(
        None,
        description="Executor that answers, such as one that was started with more experts or YaRN.",
    )


class Role(Section):
    """A named frame: callers just say model: role/<name>."""

    frame: str | None = Field(None, description="System prompt.")
    frame_file: str | None = Field(
        None, description="File that holds the system prompt; relative to consilium.yaml."
    )
    profile: Name | Literal["auto"] = Field(
        "auto", description="Profile, or auto to choose one per turn."
    )
    executor: Name | None = Field(
        None, description="Executor; empty = the profile's, else the core."
    )
    fallback: Name | None = Field(None, description="Executor that answers when the first is down.")
    adapters: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        (),
        max_length=8,
        description="Adapters that answer in it, added up: NAME[:VERSION][@WEIGHT].",
    )
    adapters_optional: bool = Field(
        False, description="Whether it answers without them where they cannot."
    )

    @model_validator(mode="after")
    def _one_frame(self) -> Role:
        if self.frame is not None and self.frame_file is not None:
            msg = "give frame or frame_file, not both"
            raise ValueError(msg)
        return self


class Gateway(Section):
    """The public face."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int | None = Field(
        None, ge=1, le=65535, description="HTTP port; empty = a free one, 8000 if it is free."
    )
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="gRPC port; empty = a free one."
    )
    replicas: int = Field(1, ge=1, le=32, description="Gateway processes.")
    auth: bool = Field(True, description="Require an API key.")
    reflection: bool = Field(True, description="gRPC reflection on the public face.")
    cors_origins: tuple[str, ...] | None = Field(
        None,
        description="Web pages that may call from a browser, such as https://chat.example.org; * = every one; empty = pages of this machine where host is loopback, else none.",
    )
    max_body_bytes: int = Field(
        MAX_BODY_BYTES,
        ge=1024,
        description="Largest request in bytes, over HTTP and gRPC and on every hop behind; packed bodies are measured opened.",
    )
    max_json_depth: int = Field(64, ge=4)
    max_n: int = Field(16, ge=1, description="Largest n of a request.")
    max_in_flight_factor: float = Field(
        2.0,
        ge=1,
        description="Requests per place in the engines' batches before 429 is the answer.",
    )
    request_timeout_s: float = Field(
        600, gt=0, description="Longest turn in seconds when the caller gives no deadline."
    )
    sse_keep_alive_s: float = Field(
        15,
        ge=0,
        description="Seconds of silence in a stream after which a comment line goes out, so that proxies and clients do not give up before the first token; 0 = none.",
    )
    unread_s: float = Field(
        30,
        ge=0,
        description="Seconds after which a stream that its caller does not read is ended and its place given back; 0 = only at its deadline.",
    )
    grpc_message_s: float = Field(
        10,
        ge=0.5,
        description="Seconds in which the message of a gRPC call must have come; longer for large messages over slow lines.",
    )
    drain_s: float = Field(
        30, ge=0, description="Time that running streams get when the gateway is stopped."
    )
    receipt_ttl_s: int = Field(86_400, ge=60, description="How long receipts are kept.")
    receipts_max_bytes: int = Field(
        64 * 2**20, ge=2**20, description="Room for receipts in Redis; the oldest make room."
    )
    responses_max_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="Room in Redis for the stored responses of each key; the oldest make room.",
    )
    key_cache_s: float = Field(
        60, ge=0, description="How long a key that was seen goes on when Redis is down."
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, listed: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for one in listed or ():
            if not is_origin(one):
                msg = f"{one!r} is no origin. Write scheme://host[:port] without a path, or *"
                raise ValueError(msg)
        return listed


class GatewayView(Section):
    """The part of the tree that the gateway reads besides the executors."""

    model_config = Section.model_config | {"extra": "ignore"}

    gateway: Gateway = Field(default_factory=Gateway)
    redis: RedisSettings = Field(
        default_factory=RedisSettings, json_schema_extra=restarts("redis and gateway")
    )
    roles: dict[Name, Role] = Field(default_factory=dict, json_schema_extra=LIVE)
    profiles: dict[Name, Profile] = Field(
        default_factory=dict,
        json_schema_extra=LIVE,
        description="code, think and dialog exist from the start; the same name replaces one.",
    )


def refuse_unknown_names(
    roles: Mapping[str, Role], profiles: Mapping[str, Profile], executors: Iterable[str]
) -> None:
    """Raise WrongValueError if a role or a profile names an executor or a profile that is not there."""
    answering, thinking = set(executors), {*BUILT_IN_PROFILES, *profiles}
    for name, role in roles.items():
        for key in ("executor", "fallback"):
            must_be_known(("roles", name, key), getattr(role, key), answering, "executor")
        profile = None if role.profile == "auto" else role.profile
        must_be_known(("roles", name, "profile"), profile, thinking, "profile")
    for name, settings in profiles.items():
        must_be_known(("profiles", name, "executor"), settings.executor, answering, "executor")


def must_be_known(place: tuple[str, ...], value: str | None, known: set[str], kind: str) -> None:
    """Raise WrongValueError if a name means nothing."""
    if value is not None and value not in known:
        raise WrongValueError(place, *no_such(value, kind, known))

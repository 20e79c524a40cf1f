"""Every metric that is counted in a process of the house, in one table: name, type, labels, unit, meaning.

Names are consilium_<service>_<noun>_<unit>[_total]; label values are bounded sets. A label whose values people choose is bounded by `names`. Does not know
Prometheus, nor when something is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Mode = Literal["livesum", "livemin", "livemax"]

_TOKEN_TIMES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TURN_TIMES: Final = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
_STAGE_TIMES: Final = (0.001, 0.0025, 0.005, *_TURN_TIMES)
_DECISION_TIMES: Final = (
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_2,
    0.000_5,
    0.001,
    0.005,
    0.01,
    0.1,
)

_MOST_ROLES: Final = 200
_MOST_ADAPTERS: Final = 200
_MOST_KEYS: Final = 100


@dataclass(frozen=True, slots=True)
class Metric:
    """One row.

    unit     of the value
    buckets  upper bounds of a histogram, in its unit
    mode     how a gauge of several living processes becomes one
    named    label whose values people choose; empty = none of its labels
    most     names of that label that are told apart
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    unit: str
    buckets: tuple[float, ...] = ()
    mode: Mode = "livesum"
    named: str = ""
    most: int = 0


TABLE: Final[tuple[Metric, ...]] = (
    Metric(
        "consilium_gateway_requests_total",
        "counter",
        ("route", "code", "executor"),
        "Requests that were answered, by HTTP status or gRPC status.",
        "requests",
    ),
    Metric(
        "consilium_gateway_rejected_total",
        "counter",
        ("reason",),
        "Requests that were refused before the engine, by error code.",
        "requests",
    ),
    Metric(
        "consilium_gateway_inflight_requests",
        "gauge",
        ("executor",),
        "Requests in work now.",
        "requests",
    ),
    Metric(
        "consilium_gateway_waiting_requests",
        "gauge",
        ("executor",),
        "Requests that wait for a place because their key has its share.",
        "requests",
    ),
    Metric(
        "consilium_gateway_first_token_seconds",
        "histogram",
        ("route", "executor"),
        "From the request to its first token.",
        "seconds",
        _TOKEN_TIMES,
    ),
    Metric(
        "consilium_gateway_turn_seconds",
        "histogram",
        ("route", "executor"),
        "From the request to the end of its answer.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_gateway_stage_seconds",
        "histogram",
        ("stage",),
        "Stages of a turn: admission (key, quota, a place), contributions, prompt, engine_wait (until it accepts), first_token, answer.",
        "seconds",
        _STAGE_TIMES,
    ),
    Metric(
        "consilium_gateway_tokens_total",
        "counter",
        ("kind", "executor"),
        "Tokens by kind: prompt, completion, cached (those of the prompt that were in the cache).",
        "tokens",
    ),
    Metric(
        "consilium_gateway_role_turns_total",
        "counter",
        ("role",),
        "Turns for a role, however they ended; the first 200 roles, others as other.",
        "turns",
        named="role",
        most=_MOST_ROLES,
    ),
    Metric(
        "consilium_gateway_role_tokens_total",
        "counter",
        ("role", "kind"),
        "Tokens of those turns by kind, as consilium_gateway_tokens_total.",
        "tokens",
        named="role",
        most=_MOST_ROLES,
    ),
    Metric(
        "consilium_gateway_adapter_turns_total",
        "counter",
        ("adapter",),
        "Turns for an adapter, however they ended; the first 200 adapters, others as other.",
        "turns",
        named="adapter",
        most=_MOST_ADAPTERS,
    ),
    Metric(
        "consilium_gateway_adapter_tokens_total",
        "counter",
        ("adapter", "kind"),
        "Tokens of those turns by kind, as consilium_gateway_tokens_total; a turn of two adapters counts for both.",
        "tokens",
        named="adapter",
        most=_MOST_ADAPTERS,
    ),
    Metric(
        "consilium_gateway_key_turns_total",
        "counter",
        ("key",),
        "Turns by the name of the key that asked, however they ended; the first 100 names, others as other.",
        "turns",
        named="key",
        most=_MOST_KEYS,
    ),
    Metric(
        "consilium_gateway_key_tokens_total",
        "counter",
        ("key", "kind"),
        "Tokens of those turns by kind, as consilium_gateway_tokens_total.",
        "tokens",
        named="key",
        most=_MOST_KEYS,
    ),
    Metric(
        "consilium_gateway_fallbacks_total",
        "counter",
        ("executor", "instead"),
        "Turns that another executor answered because the first was down.",
        "turns",
    ),
    Metric(
        "consilium_gateway_rpc_seconds",
        "histogram",
        ("method", "code"),
        "gRPC calls from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_gateway_redis_up",
        "gauge",
        (),
        "1 while Redis answers every gateway replica of this node, else 0.",
        "bool",
        mode="livemin",
    ),
    Metric(
        "consilium_engine_up",
        "gauge",
        ("executor",),
        "1 while an executor answers the gateway, 0 while it starts or is down.",
        "bool",
        mode="livemin",
    ),
    Metric(
        "consilium_engine_starts_total",
        "counter",
        ("executor",),
        "Engine replicas that became ready; more than there are copies means that some were started anew, however they ended.",
        "starts",
    ),
    Metric(
        "consilium_engine_restarts_total",
        "counter",
        ("executor", "reason"),
        "Times an engine replica ended itself to be started anew, by the error that it could not go on after.",
        "restarts",
    ),
    Metric(
        "consilium_engine_gpu_info",
        "gauge",
        ("executor", "replica", "uuid"),
        "A card that an engine replica has; always 1. Nothing for engines on cores.",
        "",
        mode="livemax",
    ),
    Metric(
        "consilium_engine_router_decision_seconds",
        "histogram",
        ("reason",),
        "Time to choose a replica, by what decided.",
        "seconds",
        _DECISION_TIMES,
    ),
    Metric(
        "consilium_lora_adapters",
        "gauge",
        ("placement",),
        "Adapters that are registered, by where they are kept: vram, ram or ssd.",
        "adapters",
    ),
    Metric(
        "consilium_lora_versions",
        "gauge",
        ("proof",),
        "Versions that are stored, by what a canary found: unproven, ok, no_effect, degenerate or failed; damaged = their files are not what was stored.",
        "versions",
    ),
    Metric(
        "consilium_lora_replicas",
        "gauge",
        ("executor",),
        "Replicas of engines that tell the room what they hold.",
        "replicas",
    ),
    Metric(
        "consilium_lora_not_taken_in",
        "gauge",
        (),
        "Adapters of the configuration whose files could not be taken in; what is stored of them answers.",
        "adapters",
    ),
    Metric(
        "consilium_lora_store_bytes",
        "gauge",
        (),
        "Bytes of the adapters that are stored.",
        "bytes",
    ),
    Metric(
        "consilium_lora_store_quota_bytes",
        "gauge",
        (),
        "Bytes that the store of adapters may take.",
        "bytes",
    ),
    Metric(
        "consilium_lora_offered_total",
        "counter",
        ("result",),
        "Adapters that somebody wanted to add, by what became of them: stored, refused or failed.",
        "adapters",
    ),
    Metric(
        "consilium_lora_hits_total",
        "counter",
        ("executor", "tier"),
        "Calls that an adapter answered, by where it was when they came: slot, ram or ssd.",
        "calls",
    ),
    Metric(
        "consilium_lora_loads_total",
        "counter",
        ("executor", "tier", "result"),
        "Adapters that were brought into a slot or into memory, by whether it went well.",
        "loads",
    ),
    Metric(
        "consilium_lora_load_seconds",
        "histogram",
        ("tier",),
        "Time to bring an adapter into memory, or from there into a slot.",
        "seconds",
        _TOKEN_TIMES,
    ),
    Metric(
        "consilium_lora_evictions_total",
        "counter",
        ("executor",),
        "Adapters that left a slot for another one.",
        "adapters",
    ),
    Metric(
        "consilium_lora_resident",
        "gauge",
        ("executor", "tier"),
        "Adapters in the slots and in the memory of all copies of an executor.",
        "adapters",
    ),
    Metric(
        "consilium_lora_waiting",
        "gauge",
        ("executor",),
        "Calls that wait for a slot of their adapter.",
        "calls",
    ),
    Metric(
        "consilium_metrics_folded_total",
        "counter",
        ("metric",),
        "Values that were counted under the label value other, because the metric had too many already.",
        "values",
    ),
    Metric(
        "consilium_room_up",
        "gauge",
        ("room",),
        "Processes of a room that serve: not those that are starting or draining.",
        "processes",
    ),
    Metric(
        "consilium_room_rpc_seconds",
        "histogram",
        ("room", "method", "code"),
        "gRPC calls of a room from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
    Metric(
        "consilium_room_http_seconds",
        "histogram",
        ("room", "method", "code"),
        "Requests to a room's inner HTTP from begin to end.",
        "seconds",
        _TURN_TIMES,
    ),
)

BY_NAME: Final[dict[str, Metric]] = {metric.name: metric for metric in TABLE}

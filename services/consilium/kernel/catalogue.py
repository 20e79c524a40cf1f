"""The catalogue of errors: one frozen row per code, for the wire, for HTTP and for exit codes.

Knows what a caller may be told. Does not know gRPC or HTTP libraries: gRPC statuses are names, and only the interceptor and the channel turn
them into codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Row:
    """One error code.

    grpc      name of the canonical gRPC status
    http      status code of the HTTP face
    kind      `type` of the OpenAI error object
    retry     whether the same request may succeed later
    sentence  public text, with {fields}; used when all its fields are given
    plain     public text without fields; used when one is missing
    exit_code exit code of a process that ends with this error, or 1
    next_step what a person should do, shown by the CLI
    """

    code: str
    grpc: str
    http: int
    kind: str
    retry: bool
    sentence: str
    plain: str
    exit_code: int = 1
    next_step: str = ""


_BAD = "invalid_request_error"
_DOWN = "server_error"


def _room_failed(code: str, exit_code: int, what: str, log: str) -> Row:
    """Return the row of a room that cannot do its work for a reason that another attempt does not change."""
    return Row(
        code,
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        f"{what}: {{reason}}",
        f"{what}.",
        exit_code,
        f"Correct what the sentence names; 'consilium logs {log}' shows all that was said.",
    )


ROWS: Final[tuple[Row, ...]] = (
    Row(
        "invalid_request",
        "INVALID_ARGUMENT",
        400,
        _BAD,
        False,
        "{field}: {reason}",
        "The request is not valid.",
    ),
    Row(
        "prompt_too_long",
        "INVALID_ARGUMENT",
        400,
        _BAD,
        False,
        "The prompt and the requested answer need {tokens} tokens, and this model's context holds {limit}. Shorten the prompt or lower max_tokens.",
        "The prompt is longer than this model's context.",
    ),
    Row(
        "body_too_large",
        "INVALID_ARGUMENT",
        413,
        _BAD,
        False,
        "The request body has {size} bytes, and the limit is {limit}. Send less, or raise gateway.max_body_bytes.",
        "The request body is too large.",
    ),
    Row(
        "unauthenticated",
        "UNAUTHENTICATED",
        401,
        "authentication_error",
        False,
        "{reason}",
        "No valid API key was sent. Send it as 'Authorization: Bearer csl_...'. Make one with 'consilium keys create'.",
        next_step="A command takes the key from --key or CONSILIUM_KEY; without --endpoint it asks the cluster of this machine with the local key.",
    ),
    Row(
        "forbidden",
        "PERMISSION_DENIED",
        403,
        "permission_error",
        False,
        "{reason}",
        "This key may not do that.",
    ),
    Row(
        "model_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no model {name!r}. The nearest known name is {nearest!r}.",
        "There is no model or role of that name. 'consilium models list' and GET /v1/models show the names.",
    ),
    Row(
        "adapter_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no adapter {name!r}. The nearest known name is {nearest!r}.",
        "No such adapter is registered here: this version serves no adapters yet.",
    ),
    Row(
        "job_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no job {name!r}.",
        "There is no such job.",
    ),
    Row(
        "collection_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no collection {name!r}. The nearest known name is {nearest!r}.",
        "There is no such collection.",
    ),
    Row(
        "receipt_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no receipt {name!r}. Receipts are kept for {kept}.",
        "There is no such receipt.",
        next_step="Ids stand in the header x-consilium-receipt and in 'consilium chat --why'. A receipt is shown to the key that asked, and to admin keys.",
    ),
    Row(
        "response_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no response {name!r}. Responses are kept for {kept}.",
        "There is no such response.",
    ),
    Row(
        "route_unknown",
        "NOT_FOUND",
        404,
        _BAD,
        False,
        "There is no route {name!r}. The nearest known route is {nearest!r}.",
        "There is no such route.",
    ),
    Row(
        "method_not_allowed",
        "UNIMPLEMENTED",
        405,
        _BAD,
        False,
        "{name} does not take {method}. It takes {allowed}.",
        "This route does not take that method.",
    ),
    Row(
        "adapter_refused",
        "FAILED_PRECONDITION",
        422,
        _BAD,
        False,
        "{reason}",
        "The adapter was refused.",
    ),
    Row(
        "already_exists",
        "ALREADY_EXISTS",
        409,
        _BAD,
        False,
        "{name!r} exists already.",
        "It exists already.",
    ),
    Row(
        "conflict",
        "FAILED_PRECONDITION",
        409,
        _BAD,
        False,
        "{reason}",
        "The present state does not allow that.",
    ),
    Row(
        "concurrent_change",
        "ABORTED",
        409,
        _BAD,
        True,
        "{reason}",
        "Somebody else changed it meanwhile. Read it again and retry.",
    ),
    Row(
        "queue_full",
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limit_error",
        True,
        "{name} has {running} requests in work and {limit} is the limit. Try again in {retry_after} s.",
        "All places are taken. Try again shortly.",
    ),
    Row(
        "rate_limited",
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limit_error",
        True,
        "This key is over its limit of {limit} {unit} per minute. Try again in {retry_after} s.",
        "This key is over its limit. Try again shortly.",
    ),
    Row(
        "no_free_lora_slot",
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limit_error",
        True,
        "{reason}",
        "No adapter slot is free. Try again shortly.",
    ),
    Row(
        "upstream_down",
        "UNAVAILABLE",
        503,
        _DOWN,
        True,
        "{name} is not answering. Try again in {retry_after} s; 'consilium status' shows the parts.",
        "A part of the cluster is not answering. Try again shortly; 'consilium status' shows the parts.",
    ),
    Row(
        "engine_starting",
        "UNAVAILABLE",
        503,
        _DOWN,
        True,
        "{name} is still starting. Try again in {retry_after} s.",
        "The engine is still starting. Try again shortly.",
    ),
    Row(
        "deadline",
        "DEADLINE_EXCEEDED",
        504,
        _DOWN,
        True,
        "{name} did not answer within {seconds} s.",
        "The deadline has passed.",
    ),
    Row(
        "client_gone",
        "CANCELLED",
        499,
        _BAD,
        False,
        "The client closed the connection.",
        "The client closed the connection.",
    ),
    Row(
        "data_damaged",
        "DATA_LOSS",
        500,
        _DOWN,
        False,
        "{reason}",
        "Stored data failed its checksum.",
    ),
    Row("not_supported", "UNIMPLEMENTED", 501, _BAD, False, "{reason}", "This is not supported."),
    Row(
        "internal",
        "INTERNAL",
        500,
        _DOWN,
        False,
        "Something went wrong on our side. Request id: {request_id}.",
        "Something went wrong on our side.",
    ),
    # A process that refuses to start, or a command that cannot go on.
    Row(
        "config_invalid",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{key}: {reason}",
        "The configuration is not valid.",
        64,
        "Correct what the sentence names and try again. 'consilium config example' prints every key with its meaning.",
    ),
    Row(
        "does_not_fit",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{reason}",
        "The model does not fit on this machine.",
        65,
        "Change the setting that the sentence names, or choose a smaller model.",
    ),
    Row(
        "gpu_missing",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{key} asks for {asked} GPU(s), and {seen} were seen.",
        "A GPU that was asked for is missing.",
        66,
        "Run nvidia-smi; device: auto or cpu goes without. In Kubernetes check runtimeClassName and the device plugin.",
    ),
    Row(
        "port_taken",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "Port {port} ({name}) is taken by {owner}.",
        "A port is taken.",
        67,
        "Stop that program, or give another port, or leave the port out so that a free one is taken.",
    ),
    Row(
        "model_missing",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{name}: {reason}",
        "The model cannot be found.",
        68,
        "Name a folder that holds config.json, tokenizer files and safetensors, a hub name such as Qwen/Qwen3-8B, or leave --model out for the demo model.",
    ),
    Row(
        "redis_missing",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{reason}",
        "Redis is not answering.",
        69,
        "Leave redis.url out to let the cluster start its own, or correct it.",
    ),
    Row(
        "already_running",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "A cluster is running already (state folder {state}).",
        "A cluster is running already.",
        70,
        "Use it ('consilium status'), end it ('consilium down'), or start another with --state DIR.",
    ),
    Row(
        "not_running",
        "UNAVAILABLE",
        503,
        _DOWN,
        False,
        "No cluster is running (state folder {state}).",
        "No cluster is running.",
        71,
        "Start one with 'consilium up', or name the folder of a running one with --state DIR.",
    ),
    Row(
        "part_failed",
        "UNAVAILABLE",
        503,
        _DOWN,
        False,
        "{name} did not come up: {reason}",
        "A part did not come up.",
        72,
        "'consilium logs' followed by the part's name shows what it said.",
    ),
    Row(
        "wrong_python",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "This is Python {seen}, and {wanted} is needed.",
        "This Python is not supported.",
        73,
        "Make the environment again with 'make setup'.",
    ),
    Row(
        "disk_full",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{path} has {free} free and {needed} is needed.",
        "The disk is full.",
        74,
        "Free some room, or name another folder with --state DIR.",
    ),
    Row(
        "state_damaged",
        "DATA_LOSS",
        500,
        _DOWN,
        False,
        "{path}: {reason}",
        "The state folder is damaged.",
        75,
        "Run 'consilium down'. Then do what the sentence says; if it names no way out, delete the file that it names.",
    ),
    Row(
        "engine_failed",
        "UNAVAILABLE",
        503,
        _DOWN,
        False,
        "{name} did not start: {reason}",
        "The engine did not start, and it is not tried again.",
        76,
        "Correct what the sentence names and start again; 'consilium logs engine' shows all that the engine said.",
    ),
    # Codes 77 to 84 belong to the rooms to come, one each, so that a program may tell them apart.
    _room_failed("adapters_failed", 77, "The adapters cannot be served", "lora_router"),
    _room_failed("retrieval_failed", 78, "The collections cannot be served", "retrieval"),
    _room_failed("memory_failed", 79, "The memory cannot be served", "memory"),
    _room_failed("jobs_failed", 80, "Jobs cannot be taken or worked on", "jobs"),
    _room_failed("gpu_metrics_failed", 81, "The GPUs cannot be measured", "gpu_metrics"),
    _room_failed("guard_failed", 82, "The guard's rules cannot be used", "gateway"),
    _room_failed("training_failed", 83, "Training cannot begin", "training"),
    _room_failed("pack_failed", 84, "The pack cannot be written or opened", "supervisor"),
    Row(
        "state_newer",
        "FAILED_PRECONDITION",
        500,
        _DOWN,
        False,
        "{name} have the version {found}, and this program knows {known}. {way_out}.",
        "What is stored was written by a newer Consilium.",
        85,
        "Do what the sentence says; nothing was changed.",
    ),
)

BY_CODE: Final[dict[str, Row]] = {row.code: row for row in ROWS}

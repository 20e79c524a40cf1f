"""What a gRPC call is to the code that serves it, and the status that an error becomes on the wire.

Shared by the server and the channel. Knows statuses and metadata keys. Does not know services or keys.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import grpc

from consilium.kernel.catalogue import BY_CODE, Row
from consilium.kernel.errors import ConsiliumError, FieldValue

ERROR_KEY: Final = "x-consilium-error"
FIELDS_KEY: Final = "x-consilium-error-fields"
RETRY_KEY: Final = "retry-after"
REQUEST_ID_KEY: Final = "x-request-id"
AUTHORIZATION_KEY: Final = "authorization"

LONGEST_TEXT: Final = 500
"""Characters of one field on the wire: metadata has 8 KiB in all."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TOO_LARGE: Final = "larger than max"

_BY_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "forbidden",
    grpc.StatusCode.ALREADY_EXISTS: "already_exists",
    grpc.StatusCode.FAILED_PRECONDITION: "conflict",
    grpc.StatusCode.ABORTED: "concurrent_change",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "queue_full",
    grpc.StatusCode.UNAVAILABLE: "upstream_down",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.CANCELLED: "client_gone",
    grpc.StatusCode.DATA_LOSS: "data_damaged",
    grpc.StatusCode.UNIMPLEMENTED: "not_supported",
}
"""What a status means when it comes without our metadata: from gRPC itself, or from a server that is not ours."""


@dataclass(frozen=True, slots=True)
class Call:
    """The call that this task serves.

    method      full name, /package.Service/Method
    request_id  the caller's, or one made here
    deadline    Unix seconds
    principal   what the authenticator returned, or None where none is set
    """

    method: str
    request_id: str
    deadline: float
    principal: object = None


_current: ContextVar[Call | None] = ContextVar("consilium_call", default=None)


def current() -> Call:
    """Return the call that this task serves. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        msg = "no call is being served here"
        raise LookupError(msg)
    return call


def serving() -> Call | None:
    """Return the call that this task serves, or None outside of one."""
    return _current.get()


def current_deadline() -> float | None:
    """Return the deadline of the call that this task serves in Unix seconds, or None outside of one."""
    call = _current.get()
    return call.deadline if call is not None else None


def enter(call: Call) -> None:
    """Say which call this task serves, until it ends."""
    _current.set(call)


def request_id_from(value: str | None) -> str | None:
    """Return a caller's request id if it is fit for logs and headers, else None."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def status_of(err: ConsiliumError) -> grpc.StatusCode:
    """Return the gRPC status of an error."""
    status: grpc.StatusCode = grpc.StatusCode[err.row.grpc]
    return status


def trailing(err: ConsiliumError) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata of an error: its code, the fields of its public sentence, seconds until a retry makes sense."""
    fields = {
        name: _short(value) for name, value in err.fields.items() if name in _public_names(err.row)
    }
    pairs = [(ERROR_KEY, err.code), (FIELDS_KEY, json.dumps(fields))]
    if err.retry_after_s is not None:
        pairs.append((RETRY_KEY, f"{err.retry_after_s:g}"))
    return tuple(pairs)


def from_status(
    status: grpc.StatusCode | None,
    details: str,
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    name: str,
) -> ConsiliumError:
    """Return the error that a failed call means.

    name  who was called, for sentences that name it
    """
    told = {key: value for key, value in metadata if isinstance(value, str)}
    retry_after_s = _seconds(told.get(RETRY_KEY))
    code = told.get(ERROR_KEY, "")
    if code in BY_CODE:
        return ConsiliumError(
            code, f"from {name}", retry_after_s=retry_after_s, **_fields(told.get(FIELDS_KEY, "{}"))
        )
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return ConsiliumError("body_too_large", f"{name}: {details}")
    known = _BY_STATUS.get(status, "internal") if status is not None else "internal"
    shown = {"name": name} if known == "upstream_down" else {}
    if known == "upstream_down" and retry_after_s is None:
        retry_after_s = 1.0
    return ConsiliumError(
        known,
        f"{name}: {status.name if status is not None else 'no status'}: {details}",
        retry_after_s=retry_after_s,
        **shown,
    )


def _public_names(row: Row) -> frozenset[str]:
    names = {name for _, name, _, _ in string.Formatter().parse(row.sentence) if name}
    return frozenset(names | {"param", "field"})


def _short(value: FieldValue) -> FieldValue:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _fields(text: str) -> dict[str, FieldValue]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return (
        {str(name): value for name, value in found.items() if isinstance(value, FieldValue)}
        if isinstance(found, dict)
        else {}
    )


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None

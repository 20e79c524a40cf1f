"""OpenAI error objects of other servers, and of our own, as errors of ours. The way back is `errors.to_openai`.

    {"error": {"message": "...", "type": "...", "param": "top_p", "code": 400}}       `code` may be one of our catalogue, an HTTP status, or anything else

Knows the object, HTTP statuses and the catalogue. Does not know HTTP libraries or who was asked.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.kernel.catalogue import BY_CODE, Row
from consilium.kernel.errors import ConsiliumError, FieldValue, to_openai

_WRONG_FIELD: Final = "invalid_request"
_BY_STATUS: Final = {
    400: _WRONG_FIELD,
    401: "unauthenticated",
    403: "forbidden",
    404: "model_unknown",
    413: "body_too_large",
    422: _WRONG_FIELD,
    429: "queue_full",
    499: "client_gone",
    501: "not_supported",
    502: "upstream_down",
    503: "upstream_down",
    504: "deadline",
}
_SHOWN: Final = 200
"""Characters of an answer that is no error object."""
_OPENAI_TYPE: Final = re.compile(r"[a-z][a-z_]*")
"""How OpenAI writes the type of an error; vLLM and others put the name of a class or an HTTP phrase there."""
_FIELD: Final = re.compile(r"[\w.\[\]-]{1,100}")


class ToldError(ConsiliumError):
    """An error whose public sentence was written by the other side."""

    def public(self) -> str:
        """Return the sentence as it came."""
        return self.detail or super().public()


@dataclass(frozen=True, slots=True)
class Said:
    """What an error object says; empty or None where it says nothing."""

    message: str = ""
    code: str | int | None = None
    param: str | None = None


def said(body: object) -> Said:
    """Return what the JSON of an answer says. Some servers write `"error": "sentence"`."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, str):
        return Said(error)
    if not isinstance(error, Mapping):
        return Said()
    code, param = error.get("code"), error.get("param")
    return Said(
        str(error.get("message") or ""),
        code if isinstance(code, str | int) and not isinstance(code, bool) else None,
        param if isinstance(param, str) else None,
    )


def said_in(raw: bytes, status: int) -> Said:
    """Return what the bytes of an answer say; the HTTP status and their beginning, if they are no error object."""
    try:
        found = said(json.loads(raw))
    except ValueError:
        found = Said()
    if found.message:
        return found
    begin = raw[:_SHOWN].decode("utf-8", "replace").strip()
    return Said(f"HTTP {status}: {begin}" if begin else f"HTTP {status}")


def told(body: object, status: int, *, retry_after_s: float | None = None) -> ConsiliumError:
    """Return our error for the JSON of an answer.

    status  HTTP status that came with it; decides where the object's own `code` is not one of ours
    """
    return error_of(said(body), status, retry_after_s=retry_after_s)


def error_of(found: Said, status: int, *, retry_after_s: float | None = None) -> ConsiliumError:
    """Return our error for what an answer said. A code of ours gets back the fields of its sentence; another one is told by the status."""
    message, code, param = found.message or f"HTTP {status}", found.code, found.param
    if isinstance(code, str) and code in BY_CODE:
        fields = fields_of(BY_CODE[code], message)
        if code == _WRONG_FIELD and not _FIELD.fullmatch(str(fields.get("field", ""))):
            fields = {"field": param or "request", "reason": message}  # in others' words
        wait_s = retry_after_s or seconds(fields.get("retry_after"))
        return ToldError(code, message, retry_after_s=wait_s, **fields, param=param)
    if isinstance(code, int) and code in _BY_STATUS:
        status = code
    known = _BY_STATUS.get(status, "internal" if status >= 500 else _WRONG_FIELD)
    shown: dict[str, FieldValue] = {"reason": message}
    if known == _WRONG_FIELD:
        shown["field"] = param or "request"
    return ToldError(known, message, retry_after_s=retry_after_s, **shown, param=param)


def shaped(body: object, status: int) -> dict[str, Any]:
    """Return the JSON of a refusal as OpenAI writes one: `code` and `param` are a string or null, `type` is one of theirs.

    One that is so already comes back as it is, codes that we do not know included; in another the sentence stays, and the rest is told by the status.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if (
        isinstance(body, dict)
        and isinstance(error, Mapping)
        and isinstance(error.get("message"), str)
        and isinstance(error.get("code"), str | None)
        and isinstance(error.get("param"), str | None)
        and _OPENAI_TYPE.fullmatch(str(error.get("type")))
    ):
        return body
    return dict(to_openai(told(body, status)))


def fields_of(row: Row, message: str) -> dict[str, FieldValue]:
    """Return the fields with which a row's sentence reads like this message; nothing if it never does."""
    pattern = ""
    for literal, name, _, conversion in string.Formatter().parse(row.sentence):
        pattern += re.escape(literal)
        if name:
            quote = "'" if conversion == "r" else ""
            pattern += (
                f"(?P={name})" if f"(?P<{name}>" in pattern else f"{quote}(?P<{name}>.+?){quote}"
            )
    found = re.fullmatch(pattern, message, re.DOTALL)
    return {name: _number(text) for name, text in found.groupdict().items()} if found else {}


def seconds(value: FieldValue) -> float | None:
    """Return the seconds of a Retry-After header, or of a sentence that names them; None for anything else, such as a date."""
    try:
        found = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return max(0.0, found) if math.isfinite(found) else None


def _number(text: str) -> FieldValue:
    return int(text) if text.isascii() and text.isdigit() else text

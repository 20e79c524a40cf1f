"""One exception class, many codes.

    near the cause:  raise ConsiliumError("prompt_too_long", "req=abc", tokens=9000, limit=8192)
    gRPC face:       interceptor  -> status + trailing metadata `x-consilium-error`
    HTTP face:       routes       -> OpenAI error object + status
    process:         run(app)     -> one sentence on stderr + exit code

The detail is private and goes to the log. The public sentence belongs to the catalogue and is filled in with the fields. Does not know gRPC or HTTP.
"""

from __future__ import annotations

from typing import Final

from consilium.kernel.catalogue import BY_CODE, Row

FieldValue = str | int | float | None

INTERNAL: Final = "internal"


class ConsiliumError(Exception):
    """An error with a code of the catalogue.

    code           a key of `catalogue.BY_CODE`; another one raises KeyError at once, so a typo cannot travel
    detail         private message: ids, paths, numbers; logged, never sent
    retry_after_s  seconds after which a retry makes sense
    fields         values for the public sentence; `param` names the request field at fault
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        **fields: FieldValue,
    ) -> None:
        self.row: Row = BY_CODE[code]
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.fields = dict(fields)
        if retry_after_s is not None:
            self.fields.setdefault("retry_after", round(retry_after_s, 1))
        super().__init__(f"{code}: {self.public()}" + (f" [{detail}]" if detail else ""))

    def public(self) -> str:
        """Return the sentence that a caller may read."""
        try:
            return self.row.sentence.format(**self.fields)
        except (KeyError, IndexError, ValueError):
            return self.row.plain

    def __reduce__(self) -> tuple[object, ...]:
        """Let the error cross process borders whole (Ray pickles it)."""
        return (_rebuild, (self.code, self.detail, self.retry_after_s, self.fields))


def _rebuild(
    code: str, detail: str, retry_after_s: float | None, fields: dict[str, FieldValue]
) -> ConsiliumError:
    return ConsiliumError(code, detail, retry_after_s=retry_after_s, **fields)


def http_status(err: ConsiliumError) -> int:
    """Return the HTTP status of an error."""
    return err.row.http


def to_openai(err: ConsiliumError) -> dict[str, dict[str, FieldValue]]:
    """Return the OpenAI error object: {"error": {"message", "type", "param", "code"}}."""
    param = err.fields.get("param", err.fields.get("field"))
    return {
        "error": {"message": err.public(), "type": err.row.kind, "param": param, "code": err.code}
    }


def unknown(request_id: str, cause: BaseException) -> ConsiliumError:
    """Wrap an exception that nobody expected; the public text holds the request id only."""
    return ConsiliumError(INTERNAL, f"{type(cause).__name__}: {cause}", request_id=request_id)

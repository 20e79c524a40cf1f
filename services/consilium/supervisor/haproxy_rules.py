"""What HAProxy does by our rules and not by Ray's: its own answers are JSON of our shape, slow headers are not waited for, odd methods go no further.

    errorfile             400, 408, 413, 500, 502, 503, 504, in place of HTML
    timeout http-request  headers have HEADERS_S to arrive
    timeout client        a caller that is silent in the middle is let go after SILENT_S
    long headers          over LONGEST_HEADERS they get 400 here, up to the size of HAProxy's buffer (BUFFER_BYTES)
    methods               others than METHODS get 405 here and no line in the log, from which Ray makes a series for each method
    /-/                   Serve's own pages get 404, but for its health check: one of them names its applications
    CORS                  written on the answers that HAProxy gives by itself, where the gateway had no part in them

HAProxy 2.8 answers by words of its own, whatever `errorfile` says, before it has read whole headers: for bytes that are no HTTP, for headers over its buffer, and 408
for slow ones. That is why the buffer is larger than the headers that are taken.

Two pieces of configuration are written, and haproxy.py's script puts them into what Ray writes. Knows HAProxy's words. Does not know Ray or ports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError, http_status, to_openai
from consilium.kernel.json_bytes import dumps
from consilium.kernel.origins import Origins
from consilium.kernel.private_file import write_private

HEADERS_S: Final = 10
SILENT_S: Final = 75
"""Without a byte from a caller that is to send or to read; Ray says an hour. Longer than the gateway waits for a byte of any body, so that its 408 comes first, and it
ends who was refused and then neither goes on nor leaves. An answer that takes its time is not meant: measured, one of 5 s came through with 2 s here."""
LONGEST_HEADERS: Final = 16_000
BUFFER_BYTES: Final = 65_536
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MARK: Final = "# Consilium's own rules"
_PHRASES: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(frozen=True, slots=True)
class Pieces:
    """Files that hold pieces of configuration: for the end of the section `defaults`, and for the beginning of the HTTP frontend."""

    defaults: Path
    frontend: Path


def write_pieces(folder: Path, origins: Origins) -> Pieces:
    """Write what HAProxy answers by itself, and the two pieces that name it. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    origin = ("access-control-allow-origin: *",) if origins.is_any else ()
    for code, error in _own_answers().items():
        write_private(folder / f"{code}.http", _whole(error, origin))
    not_allowed = ConsiliumError(
        "method_not_allowed",
        name="This server",
        method="this method",
        allowed=", ".join(METHODS),
    )
    write_private(folder / "405.json", _document(not_allowed))
    write_private(folder / "400.json", _document(_own_answers()[400]))
    write_private(folder / "404.json", _document(ConsiliumError("route_unknown")))
    made = Pieces(folder / "defaults.cfg", folder / "frontend.cfg")
    write_private(made.defaults, _defaults(folder))
    write_private(made.frontend, _frontend(folder, origins))
    return made


def _own_answers() -> dict[int, ConsiliumError]:
    """Return what is said for each status that HAProxy gives by itself."""
    down = ConsiliumError("upstream_down", name="The gateway", retry_after_s=1.0)
    return {
        400: ConsiliumError(
            "invalid_request",
            field="request",
            reason=f"it is not HTTP, or its headers are longer than {LONGEST_HEADERS} bytes. Send fewer or shorter headers",
        ),
        408: ConsiliumError("request_too_slow"),
        413: ConsiliumError("body_too_large"),
        500: ConsiliumError("internal"),
        502: down,
        503: down,
        504: ConsiliumError("deadline", name="The gateway"),
    }


def _defaults(folder: Path) -> str:
    files = [f"    errorfile {code} {_quoted(folder / f'{code}.http')}" for code in _own_answers()]
    lines = [
        f"    {MARK}",
        f"    timeout http-request {HEADERS_S}s",
        f"    timeout client {SILENT_S}s",
        *files,
    ]
    return "\n".join(lines) + "\n"


def _frontend(folder: Path, origins: Origins) -> str:
    json = "content-type application/json file"
    lines = [
        f"    {MARK}",
        "    http-request set-var(txn.origin) req.hdr(origin)",
        f"    http-request set-log-level silent if !{{ method {' '.join(METHODS)} }}",
        f"    http-request return status 405 {json} {_quoted(folder / '405.json')} hdr allow {_quoted(', '.join(METHODS))} if !{{ method {' '.join(METHODS)} }}",
        f"    http-request return status 400 {json} {_quoted(folder / '400.json')} if {{ req.hdrs,length gt {LONGEST_HEADERS} }}",
        f"    http-request return status 404 {json} {_quoted(folder / '404.json')} if {{ path -i -m beg /-/ }} !{{ path -i /-/healthz }} or !{{ path -m beg / }}",
    ]
    untold = "!{ res.hdr(access-control-allow-origin) -m found }"
    if origins.is_any:
        lines.append(
            f"    http-after-response set-header access-control-allow-origin * if {{ var(txn.origin) -m found }} {untold}"
        )
    lines += [
        f"    http-after-response set-header access-control-allow-origin %[var(txn.origin)] if {{ var(txn.origin) -m reg '{pattern}' }} {untold}"
        for pattern in origins.patterns
    ]
    return "\n".join(lines) + "\n"


def _whole(error: ConsiliumError, headers: tuple[str, ...]) -> str:
    """Return an answer as it goes over the wire."""
    status, document = http_status(error), _document(error)
    lines = [
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        "content-type: application/json",
        f"content-length: {len(document.encode())}",
        "cache-control: no-cache",
        *headers,
    ]
    if error.retry_after_s is not None:
        lines.append(f"retry-after: {round(error.retry_after_s)}")
    return "\r\n".join((*lines, "", document))


def _document(error: ConsiliumError) -> str:
    return dumps(to_openai(error)).decode()


def _quoted(value: object) -> str:
    """Return a text as one word of HAProxy's, whatever is in it."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'

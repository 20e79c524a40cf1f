"""Rows for requests that do not arrive as they should: too slowly, or packed in a way that nobody here can open.

Knows what a caller may be told. Does not know sockets.
"""

from __future__ import annotations

from typing import Final

from consilium.kernel.catalogue_row import Row

ARRIVAL: Final[tuple[Row, ...]] = (
    Row(
        "request_too_slow",
        "DEADLINE_EXCEEDED",
        408,
        "invalid_request_error",
        True,
        "The request did not arrive in time: {reason}. Send it again, without pauses.",
        "The request's headers did not arrive within 10 s. Send it again, without pauses.",
    ),
    Row(
        "encoding_unknown",
        "INVALID_ARGUMENT",
        415,
        "invalid_request_error",
        False,
        "A request body in the Content-Encoding {encoding!r} cannot be read here. Send it plain, or in one of: {known}.",
        "The request body's Content-Encoding cannot be read here.",
    ),
)

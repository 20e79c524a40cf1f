"""Which web pages may call the public face from a browser: the origins that `gateway.cors_origins` allows.

One rule for two readers: the gateway decides by it, and HAProxy writes it on the answers that it gives by itself. Knows origins as text. Does not know HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

ANY: Final = "*"
THIS_MACHINE: Final = r"^https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?$"
"""Pages that are served from the machine of the browser itself."""
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9._\[\]:-]*|null|\*")


@dataclass(frozen=True, slots=True)
class Origins:
    """The pages that may call.

    is_any    whether every page may
    patterns  regular expressions of those that may, where not every one may
    """

    is_any: bool
    patterns: tuple[str, ...] = ()

    def allow(self, origin: str) -> bool:
        """Say whether a page of this origin may call."""
        return self.is_any or any(re.search(pattern, origin) for pattern in self.patterns)


def origins_of(listed: Sequence[str] | None, host: str) -> Origins:
    """Return the pages that may call.

    listed  `gateway.cors_origins`; None = pages of this machine where the face listens on loopback, else none
    host    where the face listens
    """
    if listed is None:
        return Origins(is_any=False, patterns=(THIS_MACHINE,) if _is_loopback(host) else ())
    if ANY in listed:
        return Origins(is_any=True)
    return Origins(is_any=False, patterns=tuple(f"^{re.escape(one)}$" for one in listed))


def is_origin(text: str) -> bool:
    """Say whether a text is `*` or an origin as browsers send it: scheme://host[:port], without a path."""
    return _ORIGIN.fullmatch(text) is not None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

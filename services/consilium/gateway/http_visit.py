"""One HTTP request on its way through the face: which route it took, who sent it, how long it may take.

    HttpRoute   a row of the table: path, methods with their scopes, handler
    RouteTable  finds the row for a path
    Visit       one request, as handlers get it

Knows paths, headers and scopes. Does not know what handlers do.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from consilium.gateway import asgi, request_body
from consilium.gateway.asgi import Headers, Request
from consilium.gateway.authority import Admitted
from consilium.gateway.face import Entry, Face
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.json_bytes import dumps

HTTP_OK: Final = 200
NEAREST: Final = "/v1/chat/completions"
"""What a 404 names where nothing is near."""
LONGEST_PATH: Final = 100
"""Characters of a path in logs and sentences."""
LONGEST_WAIT_S: Final = 86_400
SHORT_BODY: Final = 64 * 1024
"""Bytes of a body that are read before the key is looked up, in one question with its quota."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One row of the table.

    path     one path, or with a slash at its end everything below it
    methods  HTTP method -> scope that it needs; empty = no key
    handler  answers
    quiet    no log line and no count here: turns write their own, and probes come every second
    is_logged  whether each answer leaves a log line; refusals do always
    name     in the metrics; empty = after the path
    """

    path: str
    methods: Mapping[str, str]
    handler: Handler
    quiet: bool = False
    name: str = ""
    is_logged: bool = True

    @property
    def label(self) -> str:
        """Return the route's name in the metrics, such as embeddings."""
        return self.name or self.path.strip("/").removeprefix("v1/")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request.

    path      without a slash at its end
    headers   sent with the answer, whatever it is; handlers add theirs
    draining  whether this gateway takes no new work
    """

    face: Face
    request: Request
    route: HttpRoute
    path: str
    headers: Headers = field(default_factory=list)
    draining: bool = False

    @property
    def rest(self) -> str:
        """Return what stands below the route's path; empty where the route is one path."""
        return self.path[len(self.route.path) :]

    async def enter(self) -> Admitted:
        """Let the caller in: key and scope. Raises ConsiliumError."""
        header = self.request.headers.get("authorization")
        return await self.face.authority.authenticate(header, 0, self._scope)

    async def enter_with_body(self) -> tuple[dict[str, Any], Entry]:
        """Read the body and let the caller in: key, scope, quota. Raises ConsiliumError.

        A request without a key is refused before its body is read, and one with a key that is not known before a long one is, or one that is slow. The answer's
        headers get the state of the quota.
        """
        limits, authority = self.face.cast.limits, self.face.authority
        header = self.request.headers.get("authorization")
        authority.check_spelling(header)
        size = request_body.announced(self.request, limits.max_body_bytes)
        vouch = partial(authority.vouch, header)
        is_long = size is None or size > SHORT_BODY
        if is_long:
            await vouch()
        raw = await request_body.read(
            self.request, limits.max_body_bytes, late=None if is_long else vouch
        )
        body = asgi.parse_object(raw, limits.max_json_depth)
        entry = await self.face.enter(header, body, len(raw), scope=self._scope)
        self.headers.extend(entry.admitted.headers())
        return body, entry

    def deadline(self) -> float | None:
        """Return the Unix seconds at which the caller stops waiting, if it says so: header x-consilium-timeout, in seconds."""
        given = self.request.headers.get("x-consilium-timeout")
        if given is None:
            return None
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < LONGEST_WAIT_S:
            raise ConsiliumError(
                "invalid_request",
                field="x-consilium-timeout",
                reason=f"it must be seconds between 0 and {LONGEST_WAIT_S} (it is {given[:20]!r})",
            )
        return time.time() + min(seconds, self.face.cast.limits.request_timeout_s)

    def left_s(self, deadline: float | None) -> float:
        """Return the seconds until a deadline in Unix seconds, or those that a turn may take."""
        if deadline is None:
            return self.face.cast.limits.request_timeout_s
        return max(0.0, deadline - time.time())

    async def answer(self, body: object, status: int = HTTP_OK) -> None:
        """Send a JSON document."""
        await asgi.answer(self.request, status, dumps(body), self.headers)

    @property
    def _scope(self) -> str:
        return self.route.methods[self.request.method]


Handler: TypeAlias = Callable[[Visit], Awaitable[None]]


class RouteTable:
    """The routes. Raises ConsiliumError(config_invalid) if two rows have one path."""

    def __init__(self, routes: Iterable[HttpRoute]) -> None:
        self.routes = tuple(routes)
        self._by_path = {route.path: route for route in self.routes}
        if len(self._by_path) < len(self.routes):
            paths = [route.path for route in self.routes]
            twice = next(path for path in paths if paths.count(path) > 1)
            raise ConsiliumError(
                "config_invalid",
                key=twice,
                reason="two routes have this path; a room's row adds one",
            )

    def find(self, path: str, method: str) -> HttpRoute:
        """Return the row for a path without a slash at its end: its own, or the nearest above that takes what is below.

        Raises ConsiliumError: route_unknown (names the nearest), method_not_allowed (names the methods).
        """
        route = self._by_path.get(path)
        above = path
        while route is None and (above := above.rpartition("/")[0]):
            route = self._by_path.get(f"{above}/")
        if route is None:
            shown = {row.path.rstrip("/"): None for row in self.routes}
            near = difflib.get_close_matches(path[:LONGEST_PATH], shown, n=1, cutoff=0.3)
            raise ConsiliumError(
                "route_unknown", name=path[:LONGEST_PATH], nearest=(near or [NEAREST])[0]
            )
        if method not in route.methods:
            raise ConsiliumError(
                "method_not_allowed",
                name=path[:LONGEST_PATH],
                method=method,
                allowed=" and ".join(route.methods),
            )
        return route

"""GET /v1/metrics: the figures of the whole cluster as one Prometheus page, for who may not or cannot reach the parts.

On one machine the supervisor has the page, and it is handed on as it is. In Kubernetes every pod has its own: the name of a headless Service stands for all of
them, the pages are joined, and each sample says by the label `instance` where it is from. Knows where pages are and how old they are. Does not know what the figures mean.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import httpx

from consilium.gateway import asgi
from consilium.gateway.http_visit import HTTP_OK, HttpRoute, Visit
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.metrics import CONTENT_TYPE, packed
from consilium.kernel.metrics_join import joined
from consilium.kernel.principals import METRICS_READ

FRESH_S: Final = 0.9
"""Seconds for which a page is handed out again. A little less than a second, so that who asks every second gets a new one each time."""
LIMIT_S: Final = 3.0
"""Seconds that the pages have, all side by side."""
KEPT_S: Final = 60.0
"""Seconds for which the last figures of a source that stopped answering are still told, with their age; then only the age."""
LARGEST_BYTES: Final = 16 * 1024 * 1024
EVERY_ADDRESS: Final = "dns:///"
"""Begins the address of a headless Service, as for gRPC."""
AGE: Final = "consilium_metrics_source_age_seconds"
AGE_HEADER: Final = b"x-consilium-age"
"""Seconds since the figures were read: whoever makes rates takes them off its own clock."""
_AGE_HELP: Final = (
    "Age of the last good page of a source of this page; its figures are those of then."
)

Place = tuple[str, int]
Lookup = Callable[[str, int], Awaitable[Iterable[Place]]]

_log = logs.get("http")


@dataclass(frozen=True, slots=True)
class _Page:
    """One page, plain and packed. `at` is on the monotonic clock."""

    at: float
    plain: bytes
    gzip: bytes


@dataclass(slots=True)
class _Source:
    """One place that has a page, with the last good one. `since` is when it was first asked, on the monotonic clock."""

    since: float
    at: float | None = None
    text: str = ""
    is_down: bool = False

    def age_s(self, now: float) -> float:
        """Return the age of its figures; while it has never answered, the time for which it has been asked."""
        return now - (self.since if self.at is None else self.at)


class HttpMetrics:
    """Answers /v1/metrics. `routes` goes into the table; `aclose` at the end.

    However many ask at once, each source is read once, and at most about once a second.
    """

    def __init__(self, address: str, clock: Clock, lookup: Lookup | None = None) -> None:
        """Take the wiring.

        address  http://host:port of the one page, or dns:///name:port of all; empty = nobody has said where it is
        lookup   returns every place behind a name
        """
        self._address, self._clock = address.rstrip("/"), clock
        self._lookup = lookup or _lookup
        self._client = httpx.AsyncClient(timeout=LIMIT_S, trust_env=False, verify=False)  # noqa: S501  plain HTTP inside the cluster: no certificates are read
        self._sources: dict[str, _Source] = {}
        self._last: _Page | None = None
        self._reading: asyncio.Task[_Page] | None = None

    def routes(self) -> list[HttpRoute]:
        """Return the row."""
        methods = dict.fromkeys(("GET", "HEAD"), METRICS_READ)
        return [HttpRoute("/v1/metrics", methods, self.show, is_logged=False)]

    async def show(self, visit: Visit) -> None:
        """GET: the page, packed if the caller takes gzip. Raises ConsiliumError."""
        await visit.enter()
        page = await self._page()
        _, encoding = packed("", visit.request.headers.get("accept-encoding", ""))
        age_s = max(0.0, self._clock.monotonic() - page.at)
        headers = [
            *visit.headers,
            (b"vary", b"accept-encoding"),
            (b"cache-control", b"no-store"),
            (AGE_HEADER, f"{age_s:.3f}".encode()),
        ]
        if encoding:
            headers.append((b"content-encoding", encoding.encode()))
        body = page.gzip if encoding else page.plain
        await asgi.answer(visit.request, HTTP_OK, body, headers, CONTENT_TYPE.encode())

    async def aclose(self) -> None:
        """Stop reading and close the connections."""
        if self._reading is not None:
            self._reading.cancel()
        await self._client.aclose()

    async def _page(self) -> _Page:
        last = self._last
        if last is not None and self._clock.monotonic() - last.at < FRESH_S:
            return last
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_heard)
        return await asyncio.shield(self._reading)  # one caller that leaves ends it for nobody

    async def _read(self) -> _Page:
        began = self._clock.monotonic()
        places = await self._places()
        self._sources = {
            name: self._sources.get(name) or _Source(began) for name in places
        }  # whoever has left the name is forgotten
        whys = await asyncio.gather(*(self._ask(name, one) for name, one in self._sources.items()))
        if all(whys):
            raise self._down(whys[0] or "nobody is there")
        self._last = await asyncio.to_thread(self._made, began)
        return self._last

    async def _places(self) -> list[str]:
        """Return every place that has a page, as host:port. Raises ConsiliumError."""
        if not self._address:
            raise ConsiliumError(
                "not_supported",
                reason="This gateway was not told where the page of metrics is. Set services.gateway.metrics; 'consilium up' and the chart write it.",
            )
        if not self._is_many:
            return [self._address.removeprefix("http://")]
        name, _, port = self._address.removeprefix(EVERY_ADDRESS).rpartition(":")
        try:
            async with asyncio.timeout(LIMIT_S):
                found = await self._lookup(name, int(port))
        except (OSError, TimeoutError) as err:
            raise self._down(f"{name} has no address: {err or 'no answer'}") from None
        places = sorted({f"[{host}]:{at}" if ":" in host else f"{host}:{at}" for host, at in found})
        if not places:
            raise self._down(f"{name} has no address")
        return places

    async def _ask(self, name: str, source: _Source) -> str:
        """Read one source. Returns why it could not be read, or nothing."""
        why = ""
        try:
            async with asyncio.timeout(LIMIT_S):
                text = await self._body(f"http://{name}/metrics")
            source.at, source.text = self._clock.monotonic(), text
        except TimeoutError:
            why = f"{name} did not answer within {LIMIT_S:g} s"
        except (httpx.HTTPError, ValueError) as err:
            why = f"{name}: {type(err).__name__}: {err}"
        if bool(why) != source.is_down:
            source.is_down = bool(why)
            _log.warning("metrics_source", source=name, answers=not why, detail=why)
        return why

    async def _body(self, url: str) -> str:
        """Return the text at an address. Raises httpx.HTTPError; ValueError for what is no page."""
        raw = bytearray()
        headers = {"accept-encoding": "identity"}
        async with self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code != HTTP_OK:
                msg = f"HTTP status {answer.status_code}"
                raise ValueError(msg)
            async for piece in answer.aiter_bytes():
                raw += piece
                if len(raw) > LARGEST_BYTES:
                    msg = f"the page is larger than {LARGEST_BYTES} bytes"
                    raise ValueError(msg)
        return raw.decode("utf-8", "replace")

    def _made(self, at: float) -> _Page:
        """Return the page; runs in a thread, because streams of tokens share the loop."""
        now = self._clock.monotonic()
        if self._is_many:
            told = [f"# HELP {AGE} {_AGE_HELP}", f"# TYPE {AGE} gauge"]
            told += [
                f'{AGE}{{source="{name}"}} {one.age_s(now) if one.is_down else 0:.3f}'
                for name, one in self._sources.items()
            ]
            pages = [
                (name, one.text)
                for name, one in self._sources.items()
                if not one.is_down or one.age_s(now) < KEPT_S
            ]
            text = joined((("", "\n".join(told)), *pages), label="instance")
        else:
            text = next(iter(self._sources.values())).text
        return _Page(at, text.encode(), packed(text, "gzip")[0])

    @property
    def _is_many(self) -> bool:
        return self._address.startswith(EVERY_ADDRESS)

    def _down(self, why: str) -> ConsiliumError:
        name = f"The page of metrics ({self._address})"
        return ConsiliumError("upstream_down", why, name=name, retry_after_s=1)


def _heard(read: asyncio.Task[_Page]) -> None:
    """Take the error of a read whose callers have all left, so that nobody complains that it was not taken."""
    if not read.cancelled():
        read.exception()


async def _lookup(name: str, port: int) -> Iterable[Place]:
    """Return every address of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [(str(row[4][0]), port) for row in rows]

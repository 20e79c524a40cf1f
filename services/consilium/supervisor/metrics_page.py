"""The metrics address of one machine: the gateway's figures, Ray's (with the engines'), those of each room, and which parts are up, on one page.

Knows where each page comes from. Does not know what the figures mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from time import monotonic
from typing import Final

from consilium.kernel.metrics_join import joined
from consilium.supervisor.probes import http_get

SILENCE_S: Final = 10.0
"""Seconds after which a caller that says nothing is let go: each keeps a thread and a descriptor of the supervisor."""
ROOMS_S: Final = 1.0
"""Seconds that all rooms together have to give their pages; one that is late is left out."""
PART_UP: Final = ("consilium_part_up", "Whether a part of the cluster is up.")
"""The supervisor's own metric, a gauge with the label `part`: its name, and what it says."""
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def parts_page(parts: Mapping[str, bool]) -> str:
    """Return `consilium_part_up{part}` in the text format."""
    name, meaning = PART_UP
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    lines += [f'{name}{{part="{part}"}} {int(up)}' for part, up in parts.items()]
    return "\n".join(lines) + "\n"


def process_page(folder: Path, *, sees_processes: bool = True) -> str:
    """Return the sum of the gateway replicas' figures from their multi-process files, or nothing before there are any.

    sees_processes  as for page_of
    """
    if not any(folder.glob("*.db")):
        return ""
    from consilium.kernel.metrics_files import page_of

    return page_of(folder, sees_processes=sees_processes)


def page_at(url: str, timeout_s: float = 3.0) -> str:
    """Return the page at an address, or nothing while nobody answers there."""
    status, body = http_get(url, timeout_s=timeout_s)
    return body.decode("utf-8", "replace") if status == 200 else ""


class _Question(Thread):
    """One room's page, asked for. `page` is empty until it has come."""

    def __init__(self, url: str, limit_s: float) -> None:
        super().__init__(daemon=True, name="page")
        self._url = url
        self._limit_s = limit_s
        self.page = ""

    def run(self) -> None:
        """Ask."""
        self.page = page_at(self._url, self._limit_s)


class RoomPages:
    """Asks the rooms for their pages, all at once and each in a thread of its own: one that is slow or dead holds nobody up.

    urls  room -> address of its page
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = dict(urls)
        self._asked: dict[str, _Question] = {}
        self._lock = Lock()

    def get(self, limit_s: float = ROOMS_S) -> dict[str, str]:
        """Return the pages that came within the limit. A room that still owes an answer is not asked again: whoever asks meanwhile waits for the same one."""
        with self._lock:
            for room, url in self._urls.items():
                if room not in self._asked or not self._asked[room].is_alive():
                    self._asked[room] = _Question(url, limit_s)
                    self._asked[room].start()
            questions = dict(self._asked)
        until = monotonic() + limit_s
        for question in questions.values():
            question.join(max(0.0, until - monotonic()))
        return {room: question.page for room, question in questions.items() if question.page}

    def rooms(self) -> tuple[str, ...]:
        """Return the names of the rooms that have a page."""
        return tuple(self._urls)


class MetricsServer:
    """Serves GET /metrics, and /healthz.

    sees_processes  as for page_of
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        folder: Path,
        ray_url: str,
        rooms: Mapping[str, str] | None = None,
        sees_processes: bool = True,
    ) -> None:
        self._sees_processes = sees_processes
        self._host = host
        self._port = port
        self._folder = folder
        self._ray_url = ray_url
        self._rooms = RoomPages(rooms or {})
        self._parts: Callable[[], Mapping[str, bool]] = dict
        self._server: ThreadingHTTPServer | None = None

    def look_at(self, parts: Callable[[], Mapping[str, bool]]) -> None:
        """Say where the states of the parts come from."""
        self._parts = parts

    def page(self) -> str:
        """Return the whole page. A room that did not give its page in time is left out and counts as down."""
        pages = self._rooms.get()
        late = set(self._rooms.rooms()) - pages.keys()
        parts = {name: up and name not in late for name, up in self._parts().items()}
        figures = process_page(self._folder, sees_processes=self._sees_processes)
        own = ("", parts_page(parts)), ("", figures)
        return joined((*own, ("", page_at(self._ray_url)), *pages.items()))

    def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        if self._server is not None:
            return
        page = self.page

        class Handler(BaseHTTPRequestHandler):
            timeout = SILENCE_S

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def _answer(self, *, with_body: bool) -> None:
                from consilium.kernel.metrics import packed

                known = self.path in {"/metrics", "/healthz"}
                text = page() if self.path == "/metrics" else "ok\n" if known else "not found\n"
                body, encoding = packed(text, self.headers.get("Accept-Encoding", ""))
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Vary", "Accept-Encoding")
                if encoding:
                    self.send_header("Content-Encoding", encoding)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer((self._host, self._port), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True, name="metrics").start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

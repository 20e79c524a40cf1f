"""The metrics address of one machine: the figures of gateway and engines, Ray's, those of each room, and which parts are up, on one page.

A source that is slow or hangs costs the page its age and nothing else (metrics_sources.py). Knows where each page comes from. Does not know what the figures mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from consilium.kernel.metrics_join import joined
from consilium.supervisor.metrics_sources import Sources, at

SILENCE_S: Final = 10.0
"""Seconds after which a caller that says nothing is let go: each keeps a thread and a descriptor of the supervisor."""
PROCESSES: Final = "processes"
RAY: Final = "ray"
"""Names of the sources that are no rooms: the files of gateway and engines, and Ray's agent."""
PART_UP: Final = ("consilium_part_up", "Whether a part of the cluster is up.")
"""The supervisor's own metric, a gauge with the label `part`: its name, and what it says."""
SOURCE_AGE: Final = (
    "consilium_metrics_source_age_seconds",
    "Age of what a source of this page said last, 0 if it answered just now.",
)
"""The page's own metric, a gauge with the label `source`."""
_SCOPE: Final = re.compile(r',otel_scope_[a-z_]+="[^"]*"')
"""Labels that each of Ray's samples has, the same on all of them: a third of its page."""
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def parts_page(parts: Mapping[str, bool]) -> str:
    """Return `consilium_part_up{part}` in the text format."""
    name, meaning = PART_UP
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    lines += [f'{name}{{part="{part}"}} {int(up)}' for part, up in parts.items()]
    return "\n".join(lines) + "\n"


def ages_page(ages: Mapping[str, float]) -> str:
    """Return `consilium_metrics_source_age_seconds{source}` in the text format."""
    name, meaning = SOURCE_AGE
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    lines += [f'{name}{{source="{source}"}} {age_s:.3f}' for source, age_s in ages.items()]
    return "\n".join(lines) + "\n"


def process_page(folder: Path, *, sees_processes: bool = True) -> str:
    """Return the sum of the gateway replicas' figures from their multi-process files, or nothing before there are any.

    sees_processes  as for page_of
    """
    if not any(folder.glob("*.db")):
        return ""
    from consilium.kernel.metrics_files import page_of

    return page_of(folder, sees_processes=sees_processes)


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
        self._rooms = frozenset(rooms or ())
        self._sources = Sources(
            {
                PROCESSES: self._processes,
                RAY: at(ray_url),
                **{room: at(url) for room, url in (rooms or {}).items()},
            }
        )
        self._parts: Callable[[], Mapping[str, bool]] = dict
        self._server: ThreadingHTTPServer | None = None

    def look_at(self, parts: Callable[[], Mapping[str, bool]]) -> None:
        """Say where the states of the parts come from."""
        self._parts = parts

    def page(self) -> str:
        """Return the whole page. A room that did not give its page in time counts as down."""
        given = self._sources.get()
        parts = {
            name: up and not (name in self._rooms and given[name].is_late)
            for name, up in self._parts().items()
        }
        own = (
            (parts_page(parts) if parts else ""),
            ages_page({name: one.age_s for name, one in given.items()}),
        )
        rooms = ((name, given[name].page) for name in sorted(self._rooms))
        figures = given[PROCESSES].page, _SCOPE.sub("", given[RAY].page)
        return joined((*(("", page) for page in (*own, *figures)), *rooms))

    def _processes(self) -> str:
        return process_page(self._folder, sees_processes=self._sees_processes)

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

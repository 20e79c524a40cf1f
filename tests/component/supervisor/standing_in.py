"""A room for tests of the supervisor alone: it answers GET /healthz and /metrics where `services` in its configuration says, and does what its section says.

    {"services": {"standing_in": {"metrics": "http://127.0.0.1:1234"}}, "standing_in": {"exit": 64}}

exit    end with this code at once
silent  live, but never listen
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from consilium.kernel.rooms import Room

ROOM = Room(
    "standing_in", "tests.component.supervisor.standing_in", words="a room for tests", silent_s=3.0
)


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"ok\n" if self.path == "/healthz" else b"# TYPE greetings counter\ngreetings 1\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True, type=Path)
    tree = json.loads(parser.parse_args().config.read_text())
    mine = tree.get(ROOM.name, {})
    if "exit" in mine:
        sys.stderr.write("error: standing_in.exit: it was told to\nnext: Leave it out.\n")
        return int(mine["exit"])
    if mine.get("silent"):
        time.sleep(600)
    port = urlsplit(tree["services"][ROOM.name]["metrics"]).port
    ThreadingHTTPServer(("127.0.0.1", port or 0), Page).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

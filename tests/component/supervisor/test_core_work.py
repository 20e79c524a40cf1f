"""The part `core` over a real socket: when its engine is given up, the start ends and says why."""

from __future__ import annotations

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.waiting import until

from consilium.supervisor import factories
from consilium.supervisor.failures import failure_of
from consilium.supervisor.state_folder import Cluster, Pid, StateFolder

BODY = (
    b'{"error": {"code": "engine_failed", "message": "core did not start: it is not tried again"}}'
)


class GivenUp(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize("logged", [True, False])
def test_an_engine_that_serve_has_given_up_ends_the_part_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool
) -> None:
    monkeypatch.setattr(
        factories, "ensure_local_key", lambda *_: "csl_x"
    )  # it is made with Redis, which has no part in this
    folder = StateFolder(tmp_path / "state")
    if logged:
        logs = folder.ray_temp / "session_latest" / "logs"
        logs.mkdir(parents=True)
        line = 'event=engine_start_failed executor=core reason="the context is too long"'
        (logs / "worker-1.err").write_text(
            f":actor_name:ServeReplica:executor-core:Engine\n{line}\n"
        )
    try:
        with ThreadingHTTPServer(("127.0.0.1", 0), GivenUp) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}"
            addresses = {"http": url, "openai": f"{url}/v1", "redis": "redis://"}
            cluster = Cluster(
                str(folder.root),
                "starting",
                "m",
                "tiny",
                0.0,
                "b",
                Pid(0, 0.0),
                addresses=addresses,
            )
            work = factories.CoreWork(factories.Site(folder, cluster, {}, "x"))
            work.start()
            until(lambda: work.answer(0.05) and work.ended() is not None)
            server.shutdown()
    finally:
        shutil.rmtree(folder.ray_temp.parent, ignore_errors=True)
    assert work.ended() == 76
    failure = failure_of("core", 76, work.tail())
    assert failure.code == "engine_failed"
    assert failure.sentence == (
        "the core did not start: the context is too long"
        if logged
        else "core did not start: it is not tried again"
    )
    work.start()
    assert work.ended() is None

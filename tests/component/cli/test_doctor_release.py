"""`consilium doctor --release` over a socket: an HTTP server that answers as an API server does, with a recorded release behind it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from tests.unit.cli.cluster.recorded import document

from consilium.cli.app import main

PATHS = {
    "rayservices": "services", "rayclusters": "clusters", "pods": "pods", "jobs": "jobs", "statefulsets": "sets", "deployments": "deployments",
    "persistentvolumeclaims": "claims", "events": "events", "storageclasses": "classes", "persistentvolumes": "volumes", "nodes": "nodes",
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers lists in pages of two, logs, and 403 for what may not be read."""

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        *_, pod, last = url.path.split("/")
        if self.headers["authorization"] != "Bearer right":
            return self.say(401, {"message": "Unauthorized"})
        if url.path == "/version":
            return self.say(200, {"gitVersion": "v1.35.4"})
        if last == "log":
            text = self.server.release.get("logs", {}).get(f"{pod}/{query['container'][0]}")
            return self.say(200, text or "")
        if last in self.server.hidden:
            return self.say(403, {"message": f'{last} is forbidden: User "me" cannot list'})
        if last not in PATHS:
            return self.say(404, {"message": "not found"})
        rows = self.server.release.get(PATHS[last], [])
        begin = int(query.get("continue", ["0"])[0])
        more = str(begin + 2) if begin + 2 < len(rows) else ""
        return self.say(200, {"items": rows[begin : begin + 2], "metadata": {"continue": more}})

    def say(self, status, body):
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def start(handler, folder, *, token="right"):
    """Return a server on a free port, and a kubeconfig that leads to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    file = folder / "config"
    file.write_text(yaml.safe_dump({
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
    }))  # fmt: skip
    return server, file


@pytest.fixture
def served(tmp_path, monkeypatch):
    servers = []

    def serve(name, *, token="right", hidden=()):
        server, file = start(Handler, tmp_path, token=token)
        server.release, server.hidden = document(name), hidden
        servers.append(server)
        monkeypatch.setenv("KUBECONFIG", str(file))

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def told(capsys, *words):
    code = main(["doctor", "--release", "mind", "-n", "llm", *words])
    return code, capsys.readouterr().out


def test_a_release_that_crashes_is_told_with_what_it_said_last(served, capsys):
    served("crash_loop")
    code, said = told(capsys)
    assert code == 3
    assert "No module named 'consilium'" in said
    assert "--previous --tail=50" in said


def test_a_healthy_release_ends_with_0_and_programs_get_json(served, capsys):
    served("healthy")
    code, said = told(capsys, "--output", "json")
    assert code == 0
    document = json.loads(said)
    assert document["healthy"] is True
    assert [row["id"] for row in document["findings"]] == ["answers", "pods"]


def test_credentials_that_are_not_known(served, capsys):
    served("healthy", token="wrong")
    code, said = told(capsys)
    assert code == 3
    assert "401" in said
    assert "sign in again" in said


def test_what_may_not_be_read_is_left_out_and_told(served, capsys):
    served("no_gpu", hidden=("nodes",))
    code, said = told(capsys)
    assert code == 3
    assert "Insufficient" not in said
    assert "no node has that left" in said
    assert "nodes could not be read" in said


def test_a_server_that_is_not_there(served, capsys, monkeypatch, tmp_path):
    served("healthy")
    file = tmp_path / "config"
    file.write_text(file.read_text().replace("http://127.0.0.1:", "http://127.0.0.1:1/"))
    code, said = told(capsys)
    assert code == 3
    assert "does not answer" in said
    assert "kubectl get nodes" in said


@pytest.mark.parametrize(("words", "flag"), [(["-n", "llm"], "--namespace"), (["--release", "m", "-f", "v.yaml"], "--values")])  # fmt: skip
def test_a_flag_that_would_say_nothing_is_refused(words, flag, capsys):
    assert main(["doctor", *words]) == 1
    assert f"{flag}: it belongs to --cluster" in capsys.readouterr().err

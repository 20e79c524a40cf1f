"""Downloads from a real HTTP server that speaks the hub's protocol and has its faults."""

import hashlib
import json
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from consilium.demo import folder, hub, tiny
from consilium.demo.model import resolve
from consilium.kernel.errors import ConsiliumError

COMMIT = "1234567890abcdef1234567890abcdef12345678"
OLDER = "abcdef1234567890abcdef1234567890abcdef12"
WEIGHTS = "model.safetensors"


class Hub(ThreadingHTTPServer):
    """One repository at two commits, and switches for what goes wrong."""

    daemon_threads = True

    def __init__(self, source: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            file.name: file.read_bytes() for file in source.iterdir() if file.name != folder.MARKER
        }
        self.files |= {
            "README.md": b"read me",
            "modeling_evil.py": b"raise SystemExit",
            "consolidated.safetensors": b"twice",
            "onnx/model.onnx": b"o",
        }
        self.gated = False
        self.token = ""
        self.spoil: set[str] = set()  # files that arrive with one wrong byte
        self.spoil_once: set[str] = set()
        self.cut_at: int | None = (
            None  # the weights break off at this byte, and then the server is ill
        )
        self.ill = False
        self.ranges: list[tuple[str, str | None]] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.ill:
            return self.say(503, b"ill")
        if self.server.gated and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.say(
                401,
                b"{}",
                X_Error_Code="GatedRepo",
                X_Error_Message="Access to model org/tiny is restricted",
            )
        if found := re.fullmatch(
            r"/api/models/org/tiny/revision/([^?]+)\?blobs=(?:True|true)", self.path
        ):
            return self.listing(found.group(1))
        if found := re.fullmatch(r"/org/tiny/resolve/([^/]+)/(.+)", self.path):
            return self.file(*found.groups())
        return self.say(404, b"{}", X_Error_Code="RepoNotFound")

    def listing(self, revision):
        commit = {
            "main": COMMIT,
            COMMIT: COMMIT,
            OLDER: OLDER,
            "v1": OLDER,
            "evil": "../../../outside",
        }.get(revision)
        if commit is None:
            return self.say(404, b"{}", X_Error_Code="RevisionNotFound")
        rows = []
        for name, data in self.server.files.items():
            row = {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            if name.endswith(".safetensors"):
                row["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 130,
                }
            rows.append(row)
        body = json.dumps(
            {
                "id": "org/tiny",
                "modelId": "org/tiny",
                "sha": commit,
                "siblings": rows,
                "private": False,
                "gated": False,
                "tags": [],
            }
        ).encode()
        return self.say(200, body, Content_Type="application/json")

    def file(self, commit, name):
        data = self.server.files[name]
        if name in self.server.spoil | self.server.spoil_once:
            self.server.spoil_once.discard(name)
            data = data[:-1] + bytes([data[-1] ^ 1])
        span = self.headers.get("Range")
        self.server.ranges.append((name, span))
        start = int(re.fullmatch(r"bytes=(\d+)-", span).group(1)) if span else 0
        headers = {
            "X_Repo_Commit": commit,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Accept_Ranges": "bytes",
        }
        if self.server.cut_at is not None and name == WEIGHTS:
            self.server.ill = True
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: self.server.cut_at])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.say(206 if start else 200, data[start:], **headers)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture
def server(source):
    served = Hub(source)
    thread = threading.Thread(
        target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join(5)


@pytest.fixture
def access(server, tmp_path):
    return hub.Access(endpoint=server.url, token="hf_right", cache_dir=tmp_path / "hf-cache")


def refused(*args, **kwargs):
    with pytest.raises(ConsiliumError) as caught:
        resolve(*args, **kwargs)
    assert caught.value.public().count("\n") == 0
    return caught.value


def test_a_model_is_downloaded_checked_and_then_found_without_the_network(
    server, access, source, tmp_path
):
    steps = []
    found = resolve("org/tiny", tmp_path, steps.append, access=access)
    assert (found.name, found.kind, found.revision) == ("org/tiny", "hub", COMMIT[:12])
    got = {file.name for file in found.path.iterdir()}
    assert got == {file.name for file in source.iterdir()} - {folder.MARKER} | {hub.MARKER}
    assert (found.path / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    loading = [step for step in steps if step.total]
    assert loading[-1].done == loading[-1].total > 2_800_000
    assert [step.done for step in loading] == sorted(step.done for step in loading)
    server.ill = True
    assert resolve("org/tiny", tmp_path, access=access) == found


def test_a_broken_download_goes_on_where_it_stopped(server, access, source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000
    )  # what arrived of an unfinished chunk (10 MB) is lost
    server.cut_at = 1_000_000
    error = refused("org/tiny", tmp_path, access=access)
    assert error.code == "model_missing"
    assert "goes on where it stopped" in error.public()
    server.cut_at, server.ill = None, False
    server.ranges.clear()
    steps = []
    found = resolve("org/tiny", tmp_path, steps.append, access=access)
    assert (found.path / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()
    assert server.ranges[0] == (WEIGHTS, "bytes=1000000-")
    assert next(step.done for step in steps if step.total) > 1_000_000
    assert not list(found.path.glob(".*.part"))


def test_a_killed_download_goes_on_too(server, access, source, tmp_path):
    snapshot = tmp_path / "hub" / "org--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / f".{WEIGHTS}.part").write_bytes((source / WEIGHTS).read_bytes()[:12345])
    resolve("org/tiny", tmp_path, access=access)
    assert (WEIGHTS, "bytes=12345-") in server.ranges


def test_one_wrong_transfer_is_fetched_again(server, access, source, tmp_path):
    server.spoil_once = {WEIGHTS, "config.json"}
    found = resolve("org/tiny", tmp_path, access=access)
    for name in (WEIGHTS, "config.json"):
        assert (found.path / name).read_bytes() == (source / name).read_bytes()
        assert len([row for row in server.ranges if row[0] == name]) == 2


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_wrong_checksum_is_refused(server, access, tmp_path, name):
    server.spoil = {name}
    error = refused("org/tiny", tmp_path, access=access)
    assert f"{name} arrived 2 times with another checksum" in error.public()
    assert not (tmp_path / "hub/org--tiny/snapshots" / COMMIT / name).exists()


def test_a_gated_model_says_what_to_do(server, access, tmp_path):
    server.gated, server.token = True, "hf_other"
    error = refused("org/tiny", tmp_path, access=access)
    assert "gated" in error.public()
    assert "HF_TOKEN" in error.public()
    server.token = "hf_right"
    assert resolve("org/tiny", tmp_path, access=access).revision == COMMIT[:12]


def test_an_unknown_model(access, tmp_path):
    error = refused("org/nothing", tmp_path, access=access)
    assert error.code == "model_missing"
    assert "has no such repository" in error.public()


def test_an_unknown_revision(access, tmp_path):
    assert "no revision 'v9'" in refused("org/tiny@v9", tmp_path, access=access).public()


def test_a_mirror_does_not_name_folders_outside_of_ours(server, access, tmp_path):
    error = refused("org/tiny@evil", tmp_path / "models", access=access)
    assert "names no commit" in error.public()
    assert not (tmp_path / "models" / "outside").exists()
    assert not any("/resolve/" in path for path in server.asked)


def test_a_revision_is_a_folder_of_its_own(server, access, tmp_path):
    newest, older = (
        resolve("org/tiny", tmp_path, access=access),
        resolve("org/tiny@v1", tmp_path, access=access),
    )
    assert (newest.revision, older.revision) == (COMMIT[:12], OLDER[:12])
    assert newest.path != older.path
    server.asked.clear()
    assert resolve(f"org/tiny@{OLDER}", tmp_path, access=access).path == older.path
    assert server.asked == []


def test_no_network(access, tmp_path, server):
    dead = hub.Access(endpoint="http://127.0.0.1:9", cache_dir=access.cache_dir)
    assert "cannot be reached" in refused("org/tiny", tmp_path, access=dead).public()


def test_a_repository_without_safetensors(server, access, tmp_path):
    server.files = {"config.json": b"{}", "model-Q4.gguf": b"GGUF"}
    assert "no .safetensors files (.gguf)" in refused("org/tiny", tmp_path, access=access).public()


def test_no_room(server, access, tmp_path, monkeypatch):
    monkeypatch.setattr(
        folder.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0)
    )
    error = refused("org/tiny", tmp_path, access=access)
    assert error.code == "disk_full"
    assert not [row for row in server.ranges if row[0] == WEIGHTS]


def test_a_damaged_download_is_mended(server, access, source, tmp_path):
    found = resolve("org/tiny", tmp_path, access=access)
    (found.path / WEIGHTS).write_bytes(b"short")
    server.ranges.clear()
    assert resolve("org/tiny", tmp_path, access=access) == found
    assert [name for name, _ in server.ranges] == [WEIGHTS]
    assert (found.path / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_what_another_program_downloaded_is_used_where_it_lies(server, access, source, tmp_path):
    store = access.cache_dir / "models--org--tiny"
    shutil.copytree(source, store / "snapshots" / COMMIT)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(COMMIT)
    found = resolve("org/tiny", tmp_path, access=access)
    assert found.path == store / "snapshots" / COMMIT
    assert server.asked == []
    (store / "snapshots" / COMMIT / WEIGHTS).write_bytes(b"half")
    assert resolve("org/tiny", tmp_path, access=access).path != found.path


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (
            ["model.safetensors", "consolidated.safetensors", "config.json"],
            ["config.json", "model.safetensors"],
        ),
        (
            ["consolidated.safetensors", "params.json", "tekken.json"],
            ["consolidated.safetensors", "params.json", "tekken.json"],
        ),
        (
            [
                "a.py",
                "x.bin",
                "original/model.safetensors",
                "README.md",
                "merges.txt",
                "chat_template.jinja",
            ],
            ["chat_template.jinja", "merges.txt"],
        ),
    ],
)
def test_only_what_serving_needs_is_taken(names, left):
    assert hub.chosen(names) == left

"""Bodies over HTTP: packed ones, long ones, and those that trickle."""

import asyncio
import gzip
import json
import zlib
from contextlib import suppress

import pytest
import zstandard
from tests.greeter.room import WRITE
from tests.waiting import LIMIT_S

from consilium.gateway import asgi, request_body
from consilium.gateway.request_body import Pace

from .conftest import chat

PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}
FILES = "/v1/greeter/files"
CHAT = "/v1/chat/completions"


def told(answer):
    return answer.json()["error"]


@pytest.mark.parametrize("encoding", PACKERS)
async def test_packed_bodies_are_opened(gateway, encoding):
    bench = await gateway()
    for body in (chat(), chat("один " * 500, stream=True)):
        packed = PACKERS[encoding](json.dumps(body).encode())
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        answer = await bench.client().post(CHAT, content=packed, headers=headers)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_bomb_is_refused_at_the_limit(gateway, encoding):
    bench = await gateway(max_body_bytes=1 << 20)
    packed = PACKERS[encoding](bytes(256 << 20))
    assert len(packed) < 1 << 20
    answer = await bench.client().post(CHAT, content=packed, headers={"content-encoding": encoding})
    assert (answer.status_code, told(answer)["code"]) == (413, "body_too_large")
    assert "gateway.max_body_bytes" in told(answer)["message"]


async def test_other_encodings_are_named(gateway):
    bench = await gateway()
    for encoding in ("br", "gzip, zstd"):
        headers = {"content-encoding": encoding}
        answer = await bench.client().post(CHAT, content=b"x", headers=headers)
        assert (answer.status_code, told(answer)["code"]) == (415, "encoding_unknown")
        assert encoding in told(answer)["message"]
        assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
    answer = await bench.client().post(CHAT, content=b"{}", headers={"content-encoding": "gzip"})
    assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
    assert "Content-Encoding" in told(answer)["message"]
    for path in ("/v1/embeddings", "/v1/responses", "/tokenize"):
        answer = await bench.client().post(path, content=b"x", headers={"content-encoding": "br"})
        assert answer.status_code == 415


async def test_rooms_get_bodies_opened_and_within_their_limit(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = bench.client(await bench.new_key(scopes=frozenset({WRITE})))
    body = bytes(range(256)) * 4000
    for encoding, pack in PACKERS.items():
        headers = {"content-encoding": encoding}
        made = await client.put(f"{FILES}/{encoding}", content=pack(body), headers=headers)
        assert made.status_code < 300, made.text
        assert (greeter.files / encoding).read_bytes() == body
    refused = await client.put(f"{FILES}/br", content=b"x", headers={"content-encoding": "br"})
    assert (refused.status_code, told(refused)["code"]) == (415, "encoding_unknown")
    cut = gzip.compress(body)[:-20]
    broken = await client.put(f"{FILES}/cut", content=cut, headers={"content-encoding": "gzip"})
    assert (broken.status_code, told(broken)["code"]) == (400, "invalid_request")


async def test_a_body_of_the_whole_limit_goes_in(gateway):
    bench = await gateway()
    text = "x " * (4_300_000 // 2)
    answer = await bench.client().post(CHAT, json=chat(text))
    assert (answer.status_code, told(answer)["code"]) == (400, "prompt_too_long")
    answer = await bench.client().post(CHAT, json=chat(text * 2))
    assert (answer.status_code, told(answer)["code"]) == (413, "body_too_large")


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(request_body.read, "__defaults__", (Pace(0.4, 0.4, 8192.0), None))
    monkeypatch.setattr(request_body, "UPLOADED", Pace(0.4, 0.4, 8192.0))


async def _trickled(bench, path, key, size=1000):
    """Send a body a byte at a time; return what comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    method = b"PUT" if path.startswith(FILES) else b"POST"
    writer.write(
        b"%s %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
        % (method, path.encode(), key.encode(), size)
    )

    async def heard():
        found = b""
        with suppress(ConnectionResetError):  # a byte of ours that comes after the end
            while piece := await reader.read(65536):
                found += piece
        return found

    said = asyncio.ensure_future(heard())
    async with asyncio.timeout(LIMIT_S):
        while not said.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
    writer.close()
    return await said


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_trickles_is_ended(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(scopes=frozenset({WRITE, "generate"}))
    for path in (CHAT, "/v1/embeddings", f"{FILES}/slow"):
        said = await _trickled(bench, path, key)
        assert said.startswith(b"HTTP/1.1 408 "), said
        assert b"request_too_slow" in said
        assert b"connection: close" in said.lower()
    await bench.until(lambda: bench.http.streams == 0)


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_who_has_no_key_is_not_read(gateway, monkeypatch, size):
    """A key that is well spelled, but not known, is looked up before a body that is long, slow or of unknown length."""
    bench = await gateway()
    wrong = bench.key[:-1] + ("0" if bench.key[-1] != "0" else "1")
    monkeypatch.setattr(asgi, "LINGER_SILENCE_S", 0.5)
    for key in ("none", wrong):
        said = await _trickled(bench, CHAT, key, size=size)
        assert said.startswith(b"HTTP/1.1 401 "), "one that was read would end with 408"
        assert b"connection: close" in said.lower()


async def test_a_body_that_keeps_its_pace_may_take_long(gateway, monkeypatch):
    monkeypatch.setattr(request_body.read, "__defaults__", (Pace(60.0, 0.4, 100.0), None))
    bench = await gateway()
    raw = json.dumps(chat("x " * 20_000)).encode()

    async def steady():
        for at in range(0, len(raw), 2000):
            yield raw[at : at + 2000]
            await asyncio.sleep(0.05)

    answer = await bench.client().post(CHAT, content=steady())
    assert told(answer)["code"] == "prompt_too_long"

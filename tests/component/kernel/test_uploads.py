"""Bodies that go to a room's disk: whole, in parts, broken off, in the wrong place, and large."""

import asyncio
import hashlib
import os

import httpx
import psutil
import pytest
from tests.greeter.running import Running
from tests.waiting import LIMIT_S

FILE = "/v1/greeter/files/book"
MIB = 1 << 20


@pytest.fixture
async def greeter(tmp_path):
    running = Running(tmp_path, {"greeter": {"max_file_bytes": 300 * MIB}})
    yield await running.start().until_up()
    running.end()


@pytest.fixture
async def client(greeter):
    async with httpx.AsyncClient(
        base_url=greeter.url(""), headers=greeter.headers(), timeout=60
    ) as made:
        yield made


async def offset(client: httpx.AsyncClient) -> int:
    return int((await client.head(FILE)).headers["upload-offset"])


async def until_there(client: httpx.AsyncClient, size: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await offset(client) < size:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.02)


async def test_a_body_is_on_the_disk_and_comes_back_as_it_was(client, greeter):
    book = os.urandom(3 * MIB + 7)
    assert await offset(client) == 0
    answer = await client.put(FILE, content=book)
    assert (answer.status_code, answer.json()) == (201, {"bytes": len(book)})
    assert await offset(client) == len(book)
    assert (greeter.folder / "greeter" / "home" / "book").read_bytes() == book
    assert (await client.get(FILE)).content == book
    assert (await client.delete(FILE)).status_code == 204
    assert (await client.get(FILE)).status_code == 404


@pytest.mark.parametrize("spelling", ["query", "header"])
async def test_what_broke_off_goes_on_where_it_ended(client, greeter, until, spelling):
    book = os.urandom(5 * MIB)

    async def breaking_off():
        yield book[: 3 * MIB]
        await until_there(client, MIB)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await client.put(FILE, content=breaking_off(), headers={"content-length": str(len(book))})
    there = await offset(client)
    assert MIB <= there <= 3 * MIB, "what has come is kept"
    query = {"offset": there} if spelling == "query" else {}
    header = f"bytes {there}-{len(book) - 1}/{len(book)}" if spelling == "header" else None
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = await client.put(
                FILE,
                params=query,
                content=book[there:],
                headers={"content-range": header} if header else {},
            )
            if answer.status_code != 409:
                break
            await asyncio.sleep(0.02)  # the first has not been let go of yet
    assert answer.json() == {"bytes": len(book)}
    assert (await client.get(FILE)).content == book
    assert "Traceback" not in greeter.log


async def test_an_offset_before_the_end_throws_away_what_lies_behind_it(client):
    await client.put(FILE, content=b"0123456789")
    answer = await client.put(FILE, params={"offset": 4}, content=b"ab")
    assert answer.json() == {"bytes": 6}
    assert (await client.get(FILE)).content == b"0123ab"
    await client.put(FILE, content=b"")
    assert await offset(client) == 0


async def test_a_hole_a_second_writer_and_odd_words_are_refused(client, greeter):
    await client.put(FILE, content=b"0123")
    answer = await client.put(FILE, params={"offset": 5}, content=b"ab")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "offset 4" in answer.json()["error"]["message"]
    for params, headers in (
        ({"offset": "-1"}, {}),
        ({"offset": "²"}, {}),
        ({"offset": "9" * 40}, {}),
        ({}, {"content-range": "bytes */4"}),
        ({}, {"content-range": "lines 1-2/3"}),
    ):
        answer = await client.put(FILE, params=params, headers=headers, content=b"ab")
        assert answer.status_code == 400
    assert (await client.put("/v1/greeter/files/..%2Ftoken", content=b"x")).status_code in (
        400,
        404,
    )
    assert (greeter.folder / "token").read_text() != "x"
    goes_on = asyncio.Event()

    async def slow():
        yield b"a" * 2 * MIB
        await goes_on.wait()
        yield b"b"

    first = asyncio.create_task(client.put(FILE, content=slow()))
    await until_there(client, MIB)
    answer = await client.put(FILE, content=b"other")
    assert answer.status_code == 409
    goes_on.set()
    assert (await first).json() == {"bytes": 2 * MIB + 1}
    assert (await client.get(FILE)).content == b"a" * 2 * MIB + b"b"


async def test_a_body_over_the_limit_is_refused_and_250_mib_cost_little_memory(client, greeter):
    process = psutil.Process(greeter.process.pid)
    before = process.memory_info().rss
    piece, digest, peak = os.urandom(MIB), hashlib.sha256(), 0

    async def body(count: int):
        nonlocal peak
        for number in range(count):
            digest.update(piece)
            if number % 10 == 0:
                peak = max(peak, process.memory_info().rss)
            yield piece

    answer = await client.put(FILE, content=body(250))
    assert answer.json() == {"bytes": 250 * MIB}
    assert peak - before < 32 * MIB
    read = hashlib.sha256()
    async with client.stream("GET", FILE) as answer:
        async for part in answer.aiter_bytes():
            read.update(part)
            peak = max(peak, process.memory_info().rss)
    assert read.digest() == digest.digest()
    assert peak - before < 32 * MIB
    try:
        answer = await client.put(FILE, content=body(320))
    except httpx.TransportError:
        pass  # told so while it was still sending, and cut off
    else:
        assert answer.json()["error"]["code"] == "body_too_large"
    assert await offset(client) <= 300 * MIB


@pytest.fixture
async def small(tmp_path):
    running = Running(tmp_path, {"greeter": {"max_tenant_bytes": 4 * MIB}})
    yield await running.start().until_up()
    running.end()


async def test_a_tenant_keeps_no_more_than_it_may(small):
    async with httpx.AsyncClient(
        base_url=small.url(""), headers=small.headers(), timeout=60
    ) as client:
        assert (await client.put(FILE, content=bytes(3 * MIB))).status_code == 201
        refused = await client.put("/v1/greeter/files/other", content=bytes(2 * MIB))
        told = refused.json()["error"]
        assert (refused.status_code, told["code"]) == (413, "storage_quota")
        assert "greeter.max_tenant_bytes" in told["message"]
        assert str(4 * MIB) in told["message"]
        await client.delete("/v1/greeter/files/other")
        assert (await client.put(FILE, content=bytes(4 * MIB))).status_code == 201
        assert (await client.delete(FILE)).status_code == 204
        assert (await client.put(FILE, content=bytes(4 * MIB))).status_code == 201


async def test_two_uploads_at_once_cannot_pass_the_quota_together(small):
    async with httpx.AsyncClient(
        base_url=small.url(""), headers=small.headers(), timeout=60
    ) as client:
        answers = await asyncio.gather(
            *(client.put(f"{FILE}-{n}", content=bytes(3 * MIB)) for n in range(3))
        )
    assert sorted(one.status_code for one in answers)[1:] == [413, 413]
    kept = sum(one.stat().st_size for one in (small.folder / "greeter" / "home").iterdir())
    assert kept <= 4 * MIB


async def test_what_lies_there_counts_after_a_restart(small):
    async with httpx.AsyncClient(headers=small.headers(), timeout=60) as client:
        assert (await client.put(small.url(FILE), content=bytes(3 * MIB))).status_code == 201
        small.end()
        await small.start().until_up()
        refused = await client.put(small.url(f"{FILE}-2"), content=bytes(2 * MIB))
    assert refused.status_code == 413

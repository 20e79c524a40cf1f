"""A connection that is lost after the server has done its work: the call is sent again, and counted once."""

import asyncio
import secrets
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from consilium.gateway.backends.redis import open_stores
from consilium.gateway.config import RedisSettings
from consilium.gateway.keys import digest, mint, parse


class Forgetful:
    """A proxy before the server that once loses the answer of a function, after it was done."""

    def __init__(self, target: str) -> None:
        self._at = urlsplit(target)
        self._loses = b""
        self.lost = 0
        self.port = 0

    def lose(self, function: bytes) -> None:
        self._loses = function

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()

    @property
    def url(self) -> str:
        word = f":{self._at.password}@" if self._at.password else ""
        return f"redis://{word}127.0.0.1:{self.port}/0"

    async def _serve(self, reader, writer):
        up_reader, up_writer = await asyncio.open_connection(self._at.hostname, self._at.port)
        try:
            while data := await reader.read(65536):
                up_writer.write(data)
                answer = await up_reader.read(65536)
                if self._loses and self._loses in data:
                    self._loses, self.lost = b"", self.lost + 1
                    return
                writer.write(answer)
        finally:
            for end in (writer, up_writer):
                with suppress(OSError):
                    end.close()


@pytest.fixture
async def proxied(valkey):
    async with Forgetful(valkey.url) as proxy:
        settings = RedisSettings(url=SecretStr(proxy.url), prefix=f"t{secrets.token_hex(4)}")
        stores = open_stores(settings, receipt_ttl_s=60, receipts_max_bytes=1000)
        await stores.prepare()
        yield proxy, stores
        await stores.close()


async def test_what_is_taken_and_settled_counts_once(proxied):
    proxy, stores = proxied
    keys = stores.keys
    assert (await keys.reserve("k", 10, 1000, 100)).remaining_requests == 9
    proxy.lose(b"csl_reserve_")
    again = await keys.reserve("k", 10, 1000, 100)
    assert (proxy.lost, again.remaining_requests, again.remaining_tokens) == (1, 8, 800)
    proxy.lose(b"csl_settle_")
    await keys.settle("k", 100, 0)
    assert proxy.lost == 2
    after = await keys.reserve("k", 10, 1000, 0)
    assert (after.remaining_requests, 899 <= after.remaining_tokens <= 905) == (7, True)


async def test_a_request_of_a_key_counts_once(proxied):
    proxy, stores = proxied
    text, record = mint(b"p", name="k", now=time.time(), rpm=5, tpm=100)
    await stores.keys.put(record)
    proxy.lose(b"csl_check_")
    found, verdict = await stores.keys.check(record.id, digest(b"p", parse(text).secret), 40)
    assert (proxy.lost, found.id) == (1, record.id)
    assert (verdict.remaining_requests, verdict.remaining_tokens) == (4, 60)


async def test_a_kept_document_takes_its_room_once(proxied):
    proxy, stores = proxied
    await stores.receipts.put("first", {"text": "x" * 400})
    proxy.lose(b"csl_keep_")
    await stores.receipts.put("second", {"text": "y" * 400})
    assert proxy.lost == 1
    assert await stores.receipts.get("first") is not None, "counted twice, it would have made room"

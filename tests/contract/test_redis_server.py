"""kernel/redis.py on a real server: blocking reads, Lua that is gone, kill -9, ACL, TLS, one error."""

import asyncio
import contextlib
import ssl
import subprocess
import time

import pytest
import structlog
from pydantic import SecretStr
from tests.waiting import LIMIT_S, sooner_than

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis import Functions, RedisServer, Script
from consilium.kernel.redis_config import RedisSettings
from consilium.supervisor import probes

ADD = Script(
    "return redis.call('INCRBY', KEYS[1], ARGV[1])",
)
COUNT = Functions(
    "redis.register_function('csl_count_HASH', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)"
)


@pytest.fixture
async def opened():
    found = []

    def make(url, **more):
        options = {
            name: more.pop(name)
            for name in ("on_state", "steps", "commands", "waits")
            if name in more
        }
        settings = RedisSettings(url=SecretStr(url), **{"timeout_s": 20, **more})
        found.append(RedisServer(settings, room="test", **options))
        return found[-1]

    yield make
    for server in found:
        await server.aclose()


async def is_down(awaitable):
    with pytest.raises(ConsiliumError) as caught:
        await awaitable
    assert caught.value.code == "upstream_down"
    assert caught.value.retry_after_s
    return caught.value


async def until_back(server):
    async with asyncio.timeout(LIMIT_S):
        while True:
            with contextlib.suppress(ConsiliumError):
                return await server.ask(lambda redis: redis.ping())
            await asyncio.sleep(0.02)


class Between:
    """A line between client and server that a test can cut, or that speaks TLS on the client's side.

    cuts   whether the next answer is swallowed, and its line ended
    """

    def __init__(self, port, tls=None):
        self.to, self.tls, self.cuts = port, tls, False
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        inner, outer = await asyncio.open_connection("127.0.0.1", self.to)

        async def down():
            while data := await inner.read(65536):
                if self.cuts:
                    self.cuts = False
                    break  # the server has done it, and nobody hears so
                writer.write(data)
                await writer.drain()

        async def up():
            while data := await reader.read(65536):
                outer.write(data)
                await outer.drain()

        ways = [asyncio.ensure_future(down()), asyncio.ensure_future(up())]
        self.tasks.update(ways)
        with contextlib.suppress(OSError):
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, outer):
            end.transport.abort()

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_blocking_read_waits_five_seconds_where_a_command_has_two(valkey, opened):
    server = opened(valkey.url, timeout_s=2.0)
    name = server.key("test", "empty")
    began = time.monotonic()
    assert await server.wait(lambda redis: redis.xread({name: "$"}, block=5000), 5) in ([], {})
    assert time.monotonic() - began >= 4.9
    assert server.is_up


async def test_forty_wait_and_commands_are_answered_meanwhile(valkey, opened):
    server = opened(valkey.url, commands=2)
    names = [server.key("test", f"list-{number}") for number in range(40)]
    reads = [
        asyncio.ensure_future(server.wait(lambda redis, name=name: redis.blpop([name], 20), 20))
        for name in names
    ]
    await asyncio.sleep(0.1)
    for name in names:
        await server.ask(lambda redis, name=name: redis.rpush(name, name))
    assert [found[1] for found in await asyncio.gather(*reads)] == names


async def test_an_answer_that_comes_after_its_caller_was_cancelled_reaches_nobody_else(
    valkey, opened
):
    server = opened(valkey.url, waits=1)
    late, own = server.key("test", "late"), server.key("test", "own")
    for number in range(10):
        read = asyncio.ensure_future(server.wait(lambda redis: redis.blpop([late], 20), 20))
        await asyncio.sleep(0.02)
        read.cancel()
        await server.ask(lambda redis: redis.rpush(own, number))  # noqa: B023
        found = await server.wait(lambda redis: redis.blpop([own], 60), 60)
        assert found[1] == str(number)


async def test_a_crowd_is_told_so_and_is_no_outage(valkey, opened):
    told = []
    server = opened(valkey.url, timeout_s=4.0, waits=1, on_state=told.append)
    name = server.key("test", "nothing")
    first = asyncio.ensure_future(server.wait(lambda redis: redis.blpop([name], 90), 90))
    await asyncio.sleep(0.1)
    await is_down(server.wait(lambda redis: redis.blpop([name], 90), 90))
    assert told == [True]
    await server.ask(lambda redis: redis.rpush(name, "x"))
    assert (await first)[1] == "x"


async def test_lua_is_loaded_again_after_a_flush_and_after_kill_9(own_valkey, opened):
    own_valkey.start()
    server = opened(own_valkey.url)
    name = server.key("test", "count")
    expected = 0

    async def both():
        nonlocal expected
        assert await server.run(ADD, [name], 1) == expected + 1
        assert await server.call(COUNT, "count", [name], 1) == expected + 2
        expected += 2

    await both()
    await server.ask(lambda redis: redis.script_flush())
    await server.ask(lambda redis: redis.function_flush())
    await both()
    await asyncio.sleep(1.5)  # appendfsync everysec
    own_valkey.kill()
    own_valkey.start()
    await both()


async def test_kill_9_is_upstream_down_and_over_by_itself(own_valkey, opened):
    own_valkey.start()
    told = []
    server = opened(own_valkey.url, on_state=told.append)
    await server.ask(lambda redis: redis.set("a", 1))
    read = asyncio.ensure_future(server.wait(lambda redis: redis.blpop(["none"], 90), 90))
    await asyncio.sleep(0.1)
    own_valkey.kill()
    with sooner_than(90.0, "a blocked read ends with its server"):
        await is_down(read)
    error = await is_down(server.ask(lambda redis: redis.get("a")))
    assert error.public() == (
        "Redis is not answering. Try again in 1.0 s; 'consilium status' shows the parts."
    )
    own_valkey.start()
    await until_back(server)
    assert told == [True, False, True]


async def test_a_server_that_hangs_costs_those_who_wait_together_one_wait(own_valkey, opened):
    own_valkey.start()
    server = opened(own_valkey.url, timeout_s=4.0)
    await server.prepare()
    own_valkey.hold()
    with sooner_than(4.0 * 120, "one wait for each"):
        for _ in range(2):
            await asyncio.gather(
                *(is_down(server.ask(lambda redis: redis.get("a"))) for _ in range(60))
            )
    own_valkey.go_on()
    await until_back(server)


async def test_a_state_is_known_while_nobody_asks(own_valkey, opened):
    own_valkey.start()
    told = asyncio.Queue()
    server = opened(own_valkey.url, on_state=told.put_nowait)
    watch = asyncio.ensure_future(server.watch())
    async with asyncio.timeout(LIMIT_S):
        assert await told.get() is True
        own_valkey.kill()
        assert await told.get() is False
        own_valkey.start()
        assert await told.get() is True
    watch.cancel()


async def test_what_was_done_unheard_is_repeated_only_where_that_is_allowed(valkey, opened):
    async with Between(valkey.port) as line:
        server = opened(valkey.url.replace(str(valkey.port), str(line.port)))
        name = server.key("test", "unheard")
        await server.prepare()
        line.cuts = True
        assert await server.ask(lambda redis: redis.incr(name)) == 2
        line.cuts = True
        await is_down(server.ask(lambda redis: redis.incr(name), repeat=False))
        assert await server.ask(lambda redis: redis.get(name)) == "3"


async def test_a_user_of_its_own_that_may_do_little(own_valkey, opened):
    own_valkey.more = (
        "user jobs on >hush ~csl:* +@read +@write +@connection +fcall +eval +evalsha -info",
    )
    own_valkey.start()
    url = own_valkey.url.replace(":secret@", "")
    server = opened(url, username="jobs", password=SecretStr("hush"))
    name = server.key("test", "a")
    await server.ask(lambda redis: redis.set(name, 1))
    assert await server.run(ADD, [name], 1) == 2
    error = await is_down(server.ask(lambda redis: redis.get("foreign")))
    assert error.public().startswith("Redis (its user may not do that)")
    assert server.is_up, "it answers, and refuses"
    error = await is_down(opened(url, username="jobs", password=SecretStr("wrong")).prepare())
    assert error.public().startswith("Redis (it refuses our user or password)")
    assert "wrong" not in error.detail + error.public()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    return folder


async def test_tls_with_certificates_of_ones_own(valkey, opened, certificate):
    """The wheel's Valkey speaks no TLS: a line in front of it does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with Between(valkey.port, context) as line:
        url = f"rediss://:secret@localhost:{line.port}/0"
        trusting = opened(url, ca_file=str(certificate / "cert.pem"))
        assert await trusting.ask(lambda redis: redis.ping())
        await is_down(opened(url).ask(lambda redis: redis.ping()))


async def test_the_supervisor_asks_over_tls_too(valkey, certificate):
    """Its probe spoke plain Redis only: a server at rediss:// was never up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    async def asked(url):
        return await asyncio.to_thread(probes.redis_ready, url, 5.0)

    async with Between(valkey.port, context) as line:
        ca = f"ssl_ca_certs={certificate / 'cert.pem'}"
        assert await asked(f"rediss://:secret@localhost:{line.port}/0?{ca}") == (True, "", True)
        ready, _, heard = await asked(f"rediss://:wrong@localhost:{line.port}/0?{ca}")
        assert (ready, heard) == (False, True)
        ready, why, heard = await asked(f"rediss://:secret@localhost:{line.port}/0")
        assert (ready, heard) == (False, False)
        assert "certificate" in why.lower()
    assert (await asked(f"rediss://localhost:{line.port}/0"))[::2] == (False, False)


async def test_a_server_that_drops_keys_or_forgets_is_said_once(own_valkey, opened):
    own_valkey.more = ("appendonly no", "maxmemory-policy allkeys-lru")
    own_valkey.start()
    server = opened(own_valkey.url)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            await server.ask(lambda redis: redis.ping())
    assert [line["event"] for line in lines] == ["redis_may_drop_keys", "redis_may_forget"]


async def test_full_memory_is_told_and_reading_goes_on(own_valkey, opened):
    own_valkey.more = ("maxmemory 3mb",)
    own_valkey.start()
    server = opened(own_valkey.url)

    async def fill():
        for number in range(100):
            await server.ask(lambda redis: redis.set(f"csl:x:{number}", "x" * 100_000))  # noqa: B023

    error = await is_down(fill())
    assert "maxmemory" in error.detail
    assert error.public().startswith("Redis (its memory is full) is not answering.")
    assert await server.ask(lambda redis: redis.get("csl:x:0")) == "x" * 100_000


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://127.0.0.1:port/0"])
def test_what_is_no_address_is_refused_at_once(opened, url):
    with pytest.raises(ConsiliumError) as caught:
        opened(url)
    assert caught.value.code == "redis_missing"

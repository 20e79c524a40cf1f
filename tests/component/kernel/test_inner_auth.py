"""Who gets into the inside of the cluster, and as whom: over gRPC and over HTTP alike."""

import time

import grpc
import httpx
import pytest

from consilium.kernel import calls
from consilium.kernel.clock import CountedIds
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import HttpServer
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.inner_http import InnerHttp, Page
from consilium.kernel.principals import (
    ANYONE,
    CLUSTER,
    LIFETIME_S,
    PRINCIPAL_KEY,
    SKEW_S,
    TOKEN_KEY,
    Principal,
    sign,
)
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

TOKEN = "of-this-test"
ANNA = Principal("k1", "Анна", frozenset({"read"}), "lab", "anna")
NOW = time.time()
REFUSED = [
    ({}, "ask the gateway"),
    ({TOKEN_KEY: "wrong"}, "is not that of this cluster"),
    ({TOKEN_KEY: ""}, "is not that of this cluster"),
    ({PRINCIPAL_KEY: sign(ANNA, TOKEN, NOW)}, "ask the gateway"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(CLUSTER, "wrong", NOW)}, "not signed by"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(ANNA, TOKEN, NOW - LIFETIME_S - SKEW_S - 60)}, "not s"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(ANNA, TOKEN, NOW + SKEW_S + 600)}, "not signed by"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: sign(ANNA, TOKEN, NOW)[:-3]}, "not signed by"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: "."}, "not signed by"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: ""}, "not signed by"),
    ({TOKEN_KEY: TOKEN, PRINCIPAL_KEY: "admin"}, "not signed by"),
]


@pytest.fixture
async def http():
    """The address of an inner HTTP whose application tells who asks."""

    async def app(scope, receive, send):
        call = calls.current()
        assert call.principal == scope["principal"]
        body = f"{call.principal.key_id or call.principal.name} {call.request_id}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    page = Page(lambda: "figures 1\n" * 100, lambda: "ok")
    server = HttpServer(InnerHttp(app, InnerAuth(TOKEN), page, CountedIds("made")), "127.0.0.1", 0)
    port = await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    await server.stop(0)


@pytest.mark.parametrize(("metadata", "reason"), REFUSED)
async def test_who_is_refused_is_told_why_over_both(serve, http, metadata, reason):
    bench = await serve(authenticate=InnerAuth(TOKEN))
    async with bench.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await rpc.GenerationServiceStub(channel.raw).CountTokens(
                pb.CountTokensRequest(prompt="a"), timeout=60, metadata=tuple(metadata.items())
            )
    assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason in told.value.details()
    assert not bench.script.seen
    answer = await http.get("/v1/files", headers=metadata)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthenticated"
    assert answer.json()["error"]["message"] == told.value.details()


async def test_the_token_without_a_deadline_is_refused_as_well(serve):
    bench = await serve(authenticate=InnerAuth(TOKEN))
    async with bench.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await rpc.GenerationServiceStub(channel.raw).CountTokens(
                pb.CountTokensRequest(prompt="a"), metadata=((TOKEN_KEY, TOKEN),)
            )
    assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told.value.details().startswith("deadline: ")


async def test_a_channel_says_for_whom_it_asks(serve):
    bench = await serve(authenticate=InnerAuth(TOKEN))
    async with bench.channel(token=TOKEN) as channel:
        stub = rpc.GenerationServiceStub(channel.raw)

        async def asked(**options) -> object:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"), **options)
            return bench.script.seen[-1].principal

        assert await asked() == CLUSTER, "outside of a call, the cluster itself asks"
        assert await asked(principal=ANNA) == ANNA
        calls.enter(calls.Call("/a.B/C", "r", time.time() + 60, ANYONE))
        assert await asked() == ANYONE, "inside of one, whoever called"
        assert await asked(principal=CLUSTER) == CLUSTER
        calls.enter(calls.Call("/a.B/C", "r", time.time() + 60, None))
        with pytest.raises(LookupError, match="say for whom"):
            await asked()
        assert await asked(principal=ANNA) == ANNA
        stream = channel.listen(
            stub.Generate, pb.GenerateRequest(prompt="count 1 0"), principal=ANNA
        )
        assert [message.text async for message in stream] == ["0"]
        assert bench.script.seen[-1].principal == ANNA


async def test_a_channel_with_a_key_sends_no_token(serve, authenticate):
    bench = await serve(public=True, authenticate=authenticate)
    async with bench.channel(key="csl_good_key") as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))
    assert bench.script.seen[-1].principal == "principal-1"


async def test_http_knows_who_asks_and_keeps_the_id_of_the_request(http):
    for principal, told in ((None, "cluster"), (ANNA, "k1")):
        signed = {PRINCIPAL_KEY: sign(principal, TOKEN, time.time())} if principal else {}
        answer = await http.get(
            "/v1/files", headers={TOKEN_KEY: TOKEN, "x-request-id": "r-7", **signed}
        )
        assert (answer.status_code, answer.text) == (200, f"{told} r-7")


async def test_the_page_is_open_and_nothing_else_is(http):
    for path, text in (("/metrics", "figures 1\n" * 100), ("/healthz", "ok\n")):
        packed = await http.get(path)
        assert (packed.status_code, packed.text) == (200, text)
        assert packed.headers["content-encoding"] == "gzip"
        plain = await http.get(path, headers={"accept-encoding": "identity"})
        assert plain.text == text
        assert "content-encoding" not in plain.headers
        head = await http.head(path, headers={"accept-encoding": "identity"})
        assert head.content == b""
        assert int(head.headers["content-length"]) == len(text)
        assert (await http.post(path)).status_code == 405
    assert (await http.get("/metrics/x")).status_code == 401


async def test_a_port_that_is_taken_is_told():
    async def app(scope, receive, send):
        raise AssertionError

    first = HttpServer(app, "127.0.0.1", 0)
    port = await first.start()
    with pytest.raises(ConsiliumError) as told:
        await HttpServer(app, "127.0.0.1", port, name="inner HTTP").start()
    assert told.value.code == "port_taken"
    assert str(port) in told.value.public()
    with pytest.raises(ConsiliumError) as told:
        await HttpServer(app, "192.0.2.1", 1).start()
    assert told.value.code == "config_invalid"
    await first.stop(0)
    await HttpServer(app, "127.0.0.1", 1).stop(0)

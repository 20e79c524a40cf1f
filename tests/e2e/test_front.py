"""The public port as strangers meet it: limits that hold on every hop, HAProxy's own answers, odd methods, pages in browsers, slow callers, and the ports behind it."""

import itertools
import json
import select
import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from tests.waiting import until

from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

PAGE = "http://localhost:3000"
CHAT = "/v1/chat/completions"


@pytest.fixture
def client(cluster):
    headers = {"authorization": f"Bearer {cluster.key}"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=240) as made:
        yield made


def code(answer):
    return (answer.status_code, answer.json()["error"]["code"])


def ports(cluster):
    return json.loads((cluster.state / "cluster.json").read_text())["ports"]


def words(size):
    return "x " * (size // 2)


@pytest.mark.parametrize("size", [4_300_000, 8_300_000])
def test_the_told_limit_holds_on_every_hop(client, size):
    for route, body in (
        (CHAT, {"messages": [{"role": "user", "content": words(size)}]}),
        ("/v1/completions", {"prompt": words(size)}),
        ("/v1/responses", {"input": words(size)}),
    ):
        answer = client.post(route, json={"model": "base", **body})
        assert code(answer) == (400, "prompt_too_long"), (route, answer.text)


def test_over_the_told_limit_its_key_is_named(client):
    body = {"model": "base", "messages": [{"role": "user", "content": words(9_000_000)}]}
    answer = client.post(CHAT, json=body)
    assert code(answer) == (413, "body_too_large")
    assert "gateway.max_body_bytes" in answer.text


async def test_the_told_limit_holds_over_grpc(cluster):
    options = [("grpc.max_send_message_length", -1)]
    metadata = (("authorization", f"Bearer {cluster.key}"),)
    async with grpc.aio.insecure_channel(cluster.grpc, options=options) as channel:
        stub = rpc.GenerationServiceStub(channel)
        for size, wanted in ((4_300_000, "prompt_too_long"), (9_000_000, "body_too_large")):
            request = pb.GenerateRequest(model="base", prompt=words(size))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Generate(request, metadata=metadata, timeout=240):
                    pass
            told = dict(caught.value.trailing_metadata())
            assert told["x-consilium-error"] == wanted


def test_haproxy_answers_in_json(client):
    answer = client.get("/v1/models", headers={"x": "y" * 20_000})
    assert code(answer) == (400, "invalid_request")
    assert code(client.request("FOO1", "/v1/models")) == (405, "method_not_allowed")
    for path in ("/-/routes", "/%2d/routes", "/-/x", "/nope"):
        answer = client.get(path)
        assert code(answer) == (404, "route_unknown")
        assert "gateway" not in answer.text


def test_odd_methods_and_paths_add_no_series_to_rays_metrics(cluster, client):
    page = json.loads((cluster.state / "cluster.json").read_text())["addresses"]["metrics"]
    for number in range(5):
        client.request(f"FOO{number}", "/v1/models")
        client.get(f"/odd/{number}")
    time.sleep(12)  # Ray tells its figures every ten seconds
    with httpx.Client(timeout=60) as reader:
        until(
            lambda: 'route="unknown"' in reader.get(page).text, 120, "Ray told of them", every_s=1
        )
        text = reader.get(page).text
        head = reader.head(page)
        packed = reader.get(page, headers={"accept-encoding": "gzip"})
    assert "FOO" not in text
    assert "/odd" not in text
    assert (head.status_code, head.content) == (200, b"")
    assert packed.headers["content-encoding"] == "gzip"


def test_the_ports_behind_it_name_nothing(cluster):
    known = ports(cluster)
    first = known["serve_ingress_http"]
    found = 0
    with httpx.Client(timeout=60) as reader:
        for port in (first, first + 1, known["serve_fallback_http"]):
            for path in ("/nope", "/-/routes", "/-/x"):
                answer = reader.get(f"http://127.0.0.1:{port}{path}")
                assert code(answer) == (404, "route_unknown"), (port, path, answer.text)
                found += 1
            assert reader.get(f"http://127.0.0.1:{port}/-/healthz").status_code == 200
    assert found == 9


@pytest.mark.parametrize("stream", [False, True])
def test_pages_may_call(client, stream):
    asked = client.options(
        CHAT,
        headers={
            "origin": PAGE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, PAGE)
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 3,
        "stream": stream,
    }
    answers = [
        client.post(CHAT, json=body, headers={"origin": PAGE}),
        client.post(CHAT, content=b"{", headers={"origin": PAGE}),
        client.request("FOO1", CHAT, headers={"origin": PAGE}),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 405]
    for answer in answers:
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    assert "x-consilium-receipt" in answers[0].headers["access-control-expose-headers"]


def test_slow_callers_are_ended_and_others_are_answered(cluster, client):
    """200 send a byte of their headers a second, one a byte of its body: all are let go after the ten seconds, which are real, and meanwhile others are answered."""
    at = urlsplit(cluster.url)
    body = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {cluster.key}\r\n"
        "content-type: application/json\r\ncontent-length: 5000\r\n\r\n{"
    )
    with ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection((at.hostname, at.port), timeout=60))
            for _ in range(201)
        ]
        callers[0].sendall(body.encode())
        said, more = {}, itertools.chain(b"GET /v1/", itertools.repeat(ord("x")))

        def are_let_go():
            byte = bytes([next(more)])
            for caller in [one for one in callers if one not in said]:
                ending = let_go(caller, byte)
                if ending is not None:
                    said[caller] = ending
            assert client.get("/v1/models").status_code == 200
            return len(said) == len(callers)

        print(f"let go after {until(are_let_go, 120, 'all were let go', every_s=1):.1f} s")
    assert said[callers[0]].startswith(b"HTTP/1.1 408 ")
    assert b"request_too_slow" in said[callers[0]]


def let_go(caller, byte):
    """Send one more byte. Return what the caller was told at its end, or None where it may go on."""
    try:
        if select.select([caller], [], [], 0)[0]:
            return caller.recv(65536)
        caller.sendall(byte)
    except OSError:
        return b""
    return None

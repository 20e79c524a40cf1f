"""What is refused over HTTP, and how: OpenAI error objects for everything, never a traceback, never a 500 from bad input."""

import asyncio
import json
import random

import openai
import pytest

from consilium.engine import wire
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.ports import Head
from consilium.kernel.errors import ConsiliumError

from .conftest import chat

POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
)


def told(answer):
    """Return the error object, whose shape is checked."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"].startswith("application/json")
    return body["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "route_unknown"),
        ("GET", "/v1/chat/completion", 404, "route_unknown"),
        ("POST", "/metrics", 404, "route_unknown"),
        ("POST", "/invocations", 404, "route_unknown"),
        ("POST", "/v1/load_lora_adapter", 404, "route_unknown"),
        ("GET", "/v1/%ff%00/..", 404, "route_unknown"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/v1/responses/x", 405, "method_not_allowed"),
        ("GET", "/v1/receipts/none", 404, "receipt_unknown"),
        ("GET", "/v1/receipts/" + "x" * 3000, 404, "receipt_unknown"),
        ("GET", "/v1/responses/none", 404, "response_unknown"),
        ("GET", "/v1/models/none", 404, "model_unknown"),
    ],
)
async def test_routes(gateway, method, path, status, code):
    bench = await gateway()
    answer = await bench.client().request(method, path)
    assert (answer.status_code, told(answer)["code"]) == (status, code)


async def test_keys(gateway):
    import httpx

    bench = await gateway()
    expired = await bench.new_key(lifetime_s=-1)
    revoked = await bench.new_key()
    await bench.stores.keys.revoke(revoked.split("_")[1], 1.0)
    unscoped = await bench.new_key(scopes=frozenset({"read"}))
    wrong = bench.key[:-1] + ("0" if bench.key[-1] != "0" else "1")
    async with httpx.AsyncClient(base_url=bench.url, timeout=60) as client:
        for header, status in [(None, 401), ("", 401), ("Bearer x", 401), ("Basic eDp5", 401), (f"Bearer {expired}", 401), (f"Bearer {revoked}", 401),
                               (f"Bearer {wrong}", 401), (f"Bearer {unscoped}", 403), (f"bearer {bench.key}", 200)]:  # fmt: skip
            headers = {} if header is None else {"authorization": header}
            answer = await client.post("/v1/chat/completions", json=chat(), headers=headers)
            assert answer.status_code == status, header
            if status != 200:
                assert told(answer)["code"] == ("forbidden" if status == 403 else "unauthenticated")


BAD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe\x00",
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b"[" * 200_000,
    b'{"model": "auto", "messages": NaN, ' + b'"x": 1e999}',
    b'{"model": {"a": 1}}',
    b'{"model": "auto", "consilium": []}',
    b'{"model": "auto", "consilium": {"role": 5}}',
    b'{"model": "auto", "consilium": {"unknown": 5}}',
    b'{"model": "\xed\xa0\x80"}',
    b'{"model": "\\ud800"}',
    b'{"model": "auto", "prompt": "\\udc00 x", "messages": [{"role": "user", "content": "\\uDFFF"}], "input": "\\ud800"}',
    b'{"model": "' + b"x" * 100_000 + b'"}',
    b'{"model": "role/none", "messages": [], "prompt": "x", "input": "x", "tokens": []}',
    b'{"model": "auto", "input": ' + b"1" * 5000 + b"}",
]


@pytest.mark.parametrize("path", POSTS)
async def test_bad_bodies_are_the_callers_fault(gateway, path):
    """All of them at one gateway, which is none the worse for those before."""
    bench = await gateway(engines=[StrictEcho()])
    client = bench.client()
    for raw in BAD_BODIES:
        answer = await client.post(path, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code < 500 or answer.status_code == 501, (raw[:80], answer.text)
        if answer.status_code >= 400:
            told(answer)


async def test_a_huge_body_is_refused_before_it_is_read(gateway):
    bench = await gateway(max_body_bytes=4096)
    answer = await bench.client().post("/v1/chat/completions", json=chat("x" * 5000))
    assert (answer.status_code, told(answer)["code"]) == (413, "body_too_large")

    async def endless():
        for _ in range(100):
            yield b"x" * 1000

    answer = await bench.client().post("/v1/chat/completions", content=endless())
    assert answer.status_code == 413


async def test_unknown_models_name_the_nearest(gateway):
    bench = await gateway()
    for model, status, code, hint in [
        ("executor/cor", 404, "model_unknown", "core"),
        ("adapter/x", 404, "adapter_unknown", ""),
        ("gpt-4", 404, "model_unknown", ""),
    ]:
        answer = await bench.client().post("/v1/chat/completions", json=chat(model=model))
        error = told(answer)
        assert (answer.status_code, error["code"], error["param"]) == (status, code, "model")
        assert hint in error["message"]


async def test_too_many_answers_at_once_are_refused(gateway):
    bench = await gateway(max_n=2)
    answer = await bench.client().post("/v1/chat/completions", json=chat(n=3))
    assert (answer.status_code, told(answer)["param"]) == (400, "n")


async def test_a_prompt_that_is_too_long_gets_both_numbers(gateway):
    bench = await gateway()
    answer = await bench.client().post("/v1/chat/completions", json=chat("x " * 5000, stream=True))
    assert answer.status_code == 400
    assert "5000" in told(answer)["message"]
    assert "4096" in told(answer)["message"]


async def test_an_engine_that_fails_tells_the_request_id_only(gateway):
    bench = await gateway()
    with pytest.raises(openai.InternalServerError) as raised:
        await bench.openai().chat.completions.create(**chat("!fail"))
    assert raised.value.body["code"] == "internal"
    assert "the prompt asked" not in str(raised.value)


def _noise(seed):
    """Return a request body out of chaos: raw bytes, or JSON of the right words with wrong values."""
    dice = random.Random(seed)
    if dice.random() < 0.5:
        return dice.randbytes(dice.randint(0, 400))
    words = ["model", "messages", "prompt", "input", "tokens", "stream", "n", "max_tokens", "consilium", "stream_options", "temperature", "tools", "stop", "instructions",
             "previous_response_id", "store", "chat_template_kwargs", "background", "encoding_format", "max_output_tokens"]  # fmt: skip

    def value(depth=0):
        kinds = [
            None,
            True,
            -1,
            10**30,
            1e308,
            "",
            "auto",
            "role/\u0000",
            "п" * dice.randint(0, 30),
            "\ud800",
        ]
        if depth < 4 and dice.random() < 0.5:
            if dice.random() < 0.5:
                return [value(depth + 1) for _ in range(dice.randint(0, 3))]
            return {
                dice.choice(
                    [*words, "role", "content", "type", "text", "profile", "executor", "receipt"]
                ): value(depth + 1)
                for _ in range(dice.randint(0, 3))
            }
        return dice.choice(kinds)

    return json.dumps({dice.choice(words): value() for _ in range(dice.randint(0, 6))}).encode()


class StrictEcho(EchoEngine):
    """Refuses bodies that it cannot read, as real engines do with their own models of them."""

    async def _frames(self, call):
        try:
            async for frame in super()._frames(call):
                yield frame
        except (AttributeError, TypeError, ValueError) as error:
            yield wire.failure(
                Head(400, False, wire.JSON),
                ConsiliumError(
                    "invalid_request", str(error), field="body", reason="the engine cannot read it"
                ),
            )


async def _directly(app, path, raw, key):
    """Call the ASGI application without a socket; return status and body."""
    sent, told_ = [], [{"type": "http.request", "body": raw}]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {key}".encode())],
    }

    async def receive():
        if not told_:
            await asyncio.Event().wait()
        return told_.pop()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def test_ten_thousand_random_bodies_never_break_anything(gateway, log_lines):
    bench = await gateway(engines=[StrictEcho()])
    statuses = {}
    for seed in range(10_000):
        status, body = await _directly(
            bench.http, POSTS[seed % len(POSTS)], _noise(seed), bench.key
        )
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500 or status == 501, (seed, body)
        assert b"Traceback" not in body
    assert statuses[200] > 100
    assert statuses[400] > 1000
    await bench.until(lambda: not bench.engines["core"].running)
    assert bench.face.cast.gate.running("core") == 0
    assert not [line for line in log_lines if line["event"] in {"request_failed", "turn_failed"}]


async def test_random_bytes_on_a_real_socket(gateway):
    """What is no HTTP at all is uvicorn's to refuse; the gateway lives on."""
    bench = await gateway(engines=[StrictEcho()])
    client = bench.client()
    for seed in range(300):
        answer = await client.post(POSTS[seed % len(POSTS)], content=_noise(seed))
        assert answer.status_code < 500 or answer.status_code == 501, (seed, answer.text)
    dice = random.Random(1)
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(dice.randbytes(200) + b"\r\n\r\n")
        writer.write_eof()
        async with asyncio.timeout(60):
            await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await client.get("/health")).status_code == 200

"""The remote executor against a real HTTP server that is quick, slow, broken, or rude."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from consilium.engine import wire
from consilium.engine.backends.openai import RemoteEngine, RemoteSettings
from consilium.engine.ports import Call, Head, State, Tail, Usage
from consilium.kernel.errors import ConsiliumError

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CHUNKS = [
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n',
]
USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}\n\n'


class Server:
    """One answer per connection, written by a handler; keeps what was asked."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[bytes] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            body = await reader.readexactly(length)
            self.requests.append(head)
            self.bodies.append(body)
            await self._handler(body, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    server = Server(handler)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()


def reply(status: int, body: bytes, *, kind: str = "application/json", extra: str = "") -> Handler:
    async def handler(_: bytes, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    return handler


def events(*chunks: bytes, then: str = "end") -> Handler:
    async def handler(_: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for chunk in chunks:
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        if then == "end":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        elif then == "hang":
            await reader.read()

    return handler


def remote(server: Server | str, **over: object) -> RemoteEngine:
    url = server if isinstance(server, str) else server.url
    return RemoteEngine(
        RemoteSettings(
            **{
                "name": "far",
                "url": url,
                "model": "m",
                "timeout_s": 30.0,
                "connect_timeout_s": 30.0,
                **over,
            }
        )
    )  # type: ignore[arg-type]


def chat(**body: object) -> Call:
    return Call("r1", "chat", {"model": "x", "messages": [], **body})


async def ask(engine: RemoteEngine, call: Call) -> tuple[Head, bytes, Tail]:
    reader, body = wire.Reader(), b""
    head, tail = Head(0, False, ""), Tail()
    try:
        async for frame in engine.stream(call):
            item = reader.take(frame)
            head, tail = item.head or head, item.tail or tail
            body += item.body
    finally:
        await engine.stop()
    return head, body, tail


async def test_a_stream_passes_through_and_its_usage_is_ours() -> None:
    async with serving(events(*CHUNKS, USAGE, wire.DONE)) as server:
        head, body, tail = await ask(remote(server), chat(stream=True))
    assert (head.status, head.stream, head.executor) == (200, True, "far")
    assert body == b"".join(CHUNKS) + wire.DONE  # the usage event was our wish, not the caller's
    assert tail.usage == Usage(3, 2, 1)
    assert tail.finish_reason == "stop"
    assert tail.timings.first_token_ms is not None
    sent = json.loads(server.bodies[0])
    assert sent["model"] == "m"
    assert sent["stream_options"] == {"include_usage": True}


async def test_the_trace_of_a_call_goes_along() -> None:
    trace = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "vendor=one"}
    async with serving(events(*CHUNKS, USAGE, wire.DONE)) as server:
        await ask(remote(server), replace(chat(stream=True), trace=trace))
    for name, value in trace.items():
        assert f"{name}: {value}\r\n".encode() in server.requests[0]


async def test_a_caller_who_asks_for_usage_gets_it() -> None:
    async with serving(events(*CHUNKS, USAGE, wire.DONE)) as server:
        _, body, tail = await ask(
            remote(server), chat(stream=True, stream_options={"include_usage": True})
        )
    assert body == b"".join(CHUNKS) + USAGE + wire.DONE
    assert tail.usage == Usage(3, 2, 1)


async def test_the_end_of_a_stream_travels_with_its_tail() -> None:
    async with serving(events(*CHUNKS, wire.DONE)) as server:
        engine = remote(server)
        frames = [frame async for frame in engine.stream(chat(stream=True))]
        await engine.stop()
    body, _, _ = frames[-1].partition(wire.TAIL)
    assert body.endswith(
        wire.DONE
    )  # the gateway writes its receipt into the body that comes with the tail


async def test_the_last_event_of_a_response_travels_with_its_tail() -> None:
    last = b'data: {"type":"response.completed","response":{"id":"r","usage":{"input_tokens":3,"output_tokens":2}}}\n\n'
    async with serving(events(b'data: {"type":"response.created"}\n\n', last)) as server:
        engine = remote(server)
        frames = [
            frame
            async for frame in engine.stream(
                Call("r1", "responses", {"input": "x", "stream": True})
            )
        ]
        await engine.stop()
    assert frames[-1].partition(wire.TAIL)[0] == last


async def test_a_server_that_keeps_the_connection_open_after_the_end_holds_up_nobody() -> None:
    async with serving(events(*CHUNKS, wire.DONE, then="hang")) as server:
        _, body, tail = await asyncio.wait_for(
            ask(remote(server, timeout_s=600.0), chat(stream=True)), 60.0
        )
    assert body == b"".join(CHUNKS) + wire.DONE
    assert tail.finish_reason == "stop"


async def test_what_a_server_says_after_the_end_is_not_kept() -> None:
    async with serving(
        events(*CHUNKS, wire.DONE, *(b": more\n\n" * 1000 for _ in range(100)))
    ) as server:
        _, body, _ = await ask(remote(server), chat(stream=True))
    assert body == b"".join(CHUNKS) + wire.DONE


async def test_a_response_that_stops_before_its_end_ends_with_an_error_event() -> None:
    async with serving(events(b'data: {"type":"response.created"}\n\n')) as server:
        _, body, _ = await ask(
            remote(server), Call("r1", "responses", {"input": "x", "stream": True})
        )
    assert b'"code":"upstream_down"' in body


async def test_a_zero_byte_is_a_broken_server_and_breaks_no_frame() -> None:
    async with serving(events(CHUNKS[0], b'data: {"x":"\x00"}\n\n', wire.DONE)) as server:
        _, body, _ = await ask(remote(server), chat(stream=True))
    assert body.startswith(CHUNKS[0])
    assert b'"code":"upstream_down"' in body
    async with serving(reply(200, '{"choices":[]}'.encode("utf-16"))) as server:
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await ask(remote(server), chat())


@pytest.mark.parametrize(
    "usage",
    ['{"prompt_tokens":"many"}', '{"prompt_tokens":1e999}', '{"prompt_tokens_details":[1]}', "7"],
)
async def test_a_usage_that_is_none_costs_the_counts_and_not_the_answer(usage: str) -> None:
    async with serving(reply(200, f'{{"choices":[],"usage":{usage}}}'.encode())) as server:
        head, _, tail = await ask(remote(server), chat())
    assert (head.status, tail.usage) == (200, Usage())


async def test_a_password_in_the_url_stays_here() -> None:
    async with serving(reply(200, b'{"choices":[]}')) as server:
        head, _, _ = await ask(remote(server.url.replace("http://", "http://user:secret@")), chat())
    assert head.replica == server.url


async def test_a_number_that_json_cannot_write_is_the_callers_fault() -> None:
    with pytest.raises(ConsiliumError) as caught:
        await ask(remote("http://127.0.0.1:9/v1"), chat(temperature=float("inf")))
    assert caught.value.code == "invalid_request"


async def test_events_cut_anywhere_stay_whole() -> None:
    raw = b"".join(CHUNKS) + USAGE + wire.DONE
    async with serving(events(*(raw[i : i + 7] for i in range(0, len(raw), 7)))) as server:
        _, body, tail = await ask(remote(server), chat(stream=True))
    assert body == b"".join(CHUNKS) + wire.DONE
    assert tail.usage == Usage(3, 2, 1)


async def test_a_document_passes_through() -> None:
    answer = json.dumps(
        {
            "choices": [{"finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    ).encode()
    async with serving(reply(200, answer)) as server:
        head, body, tail = await ask(remote(server), chat())
    assert (head.stream, body, tail.finish_reason, tail.usage) == (
        False,
        answer,
        "length",
        Usage(1, 2),
    )


async def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "s3cret")
    async with serving(reply(200, b"{}")) as server:
        await ask(remote(server, key_env="FAR_KEY"), chat())
    assert b"authorization: Bearer s3cret" in server.requests[0]


async def test_a_missing_key_is_told_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FAR_KEY", raising=False)
    with pytest.raises(ConsiliumError, match="FAR_KEY"):
        await remote("http://127.0.0.1:9/v1", key_env="FAR_KEY").start()


@pytest.mark.parametrize("status", [500, 502, 503, 401, 403, 404])
async def test_a_server_at_fault_is_down_and_its_words_stay_here(status: int) -> None:
    async with serving(reply(status, b'{"error":{"message":"internal path /srv/x"}}')) as server:
        with pytest.raises(ConsiliumError) as caught:
            await ask(remote(server), chat())
    assert caught.value.code == "upstream_down"
    assert "/srv/x" not in caught.value.public()


async def test_a_caller_at_fault_reads_the_servers_error() -> None:
    error = b'{"error":{"message":"bad temperature","type":"invalid_request_error","param":"temperature","code":null}}'
    async with serving(reply(400, error)) as server:
        head, body, _ = await ask(remote(server), chat())
    assert (head.status, body) == (400, error)


async def test_an_error_of_another_shape_gets_that_of_openai() -> None:
    error = b'{"object":"error","error":{"message":"too hot","type":"BadRequestError","param":"temperature","code":400}}'
    wanted = {"message": "too hot", "type": "invalid_request_error", "param": "temperature", "code": "invalid_request"}  # fmt: skip
    async with serving(reply(400, error)) as server:
        _, body, _ = await ask(remote(server), chat())
    assert json.loads(body) == {"error": wanted}
    async with serving(events(CHUNKS[0], b"data: " + error + b"\n\n", wire.DONE)) as server:
        _, body, _ = await ask(remote(server), chat(stream=True))
    shown = b"data: " + json.dumps({"error": wanted}, separators=(",", ":")).encode() + b"\n\n"
    assert body == CHUNKS[0] + shown + wire.DONE


async def test_an_error_that_is_no_json_becomes_one() -> None:
    async with serving(reply(400, b"<html>no</html>", kind="text/html")) as server:
        head, body, _ = await ask(remote(server), chat())
    assert head.status == 400
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def test_too_many_requests_keep_their_retry_after() -> None:
    async with serving(
        reply(429, b'{"error":{"message":"slow down"}}', extra="retry-after: 7\r\n")
    ) as server:
        head, _, _ = await ask(remote(server), chat())
    assert (head.status, head.retry_after) == (429, 7.0)


@pytest.mark.parametrize("said", ["inf", "nan", "1e999", "soon"])
async def test_a_retry_after_that_is_no_time_is_left_out(said: str) -> None:
    async with serving(
        reply(429, b'{"error":{"message":"slow down"}}', extra=f"retry-after: {said}\r\n")
    ) as server:
        head, _, _ = await ask(remote(server), chat())
    assert (head.status, head.retry_after) == (429, None)


async def test_nobody_there() -> None:
    with pytest.raises(ConsiliumError) as caught:
        await ask(remote("http://127.0.0.1:9/v1"), chat())
    assert caught.value.code == "upstream_down"


async def test_a_server_that_says_nothing() -> None:
    async def silent(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as server:
        with pytest.raises(ConsiliumError) as caught:
            await ask(remote(server, timeout_s=0.2), chat())
    assert caught.value.code == "deadline"


async def test_a_cut_stream_ends_with_an_error_event() -> None:
    async with serving(events(*CHUNKS[:1], then="cut")) as server:
        _, body, _ = await ask(remote(server), chat(stream=True))
    assert body.startswith(CHUNKS[0])
    assert b'"code":"upstream_down"' in body
    assert body.endswith(wire.DONE)


async def test_a_stream_that_stops_without_done_ends_with_an_error_event() -> None:
    async with serving(events(*CHUNKS[:1])) as server:
        _, body, _ = await ask(remote(server), chat(stream=True))
    assert b'"code":"upstream_down"' in body


async def test_an_answer_that_is_no_json_is_a_broken_server() -> None:
    async with serving(reply(200, b"<html>", kind="text/html")) as server:
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await ask(remote(server), chat())


async def test_closing_the_stream_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[httpx.Response] = []
    real = httpx.Response.aclose

    async def note(self: httpx.Response) -> None:
        closed.append(self)
        await real(self)

    monkeypatch.setattr(httpx.Response, "aclose", note)
    async with serving(events(*CHUNKS, then="hang")) as server:
        engine = remote(server)
        stream = engine.stream(chat(stream=True))
        await anext(stream)
        await stream.aclose()
        assert closed  # at once, and not when the loop gets to what was dropped
        await asyncio.wait_for(server.gone.wait(), 60.0)
        await engine.stop()


async def test_places_are_counted_and_freed() -> None:
    async with serving(events(*CHUNKS, then="hang")) as server:
        engine = remote(server, max_in_flight=1)
        first = engine.stream(chat(stream=True))
        await anext(first)
        with pytest.raises(ConsiliumError) as caught:
            await anext(engine.stream(chat(stream=True)))
        assert caught.value.code == "queue_full"
        await first.aclose()
        second = engine.stream(chat(stream=True))
        await anext(second)
        await second.aclose()
        await engine.stop()


async def test_check_learns_the_context() -> None:
    listed = json.dumps({"data": [{"id": "m", "max_model_len": 4096}]}).encode()
    async with serving(reply(200, listed)) as server:
        engine = remote(server)
        await engine.check()
        assert (engine.info().state, engine.info().context) == (State.READY, 4096)
        await engine.stop()


async def test_check_says_down() -> None:
    engine = remote("http://127.0.0.1:9/v1")
    with pytest.raises(ConsiliumError):
        await engine.check()
    assert engine.info().state is State.DOWN
    await engine.stop()


async def test_a_route_that_the_server_lacks() -> None:
    async with serving(reply(404, b"{}")) as server:
        with pytest.raises(ConsiliumError) as caught:
            await ask(remote(server), Call("r1", "tokenize", {"prompt": "x"}))
    assert caught.value.code == "not_supported"
    assert server.requests[0].startswith(b"POST /tokenize ")


async def test_responses_usage_is_read() -> None:
    done = b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6}}}\n\n'
    async with serving(events(done)) as server:
        _, body, tail = await ask(
            remote(server), Call("r1", "responses", {"input": "x", "stream": True})
        )
    assert body == done
    assert tail.usage == Usage(5, 6)

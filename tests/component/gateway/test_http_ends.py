"""How turns end that never begin well: the caller leaves, the engine fails, the prompt is too long for the profile; and what each leaves behind."""

import asyncio
import json
from dataclasses import replace

import pytest
from tests.waiting import LIMIT_S, until_true

from consilium.engine.backends.echo import EchoEngine
from consilium.engine.client import EngineClient, State
from consilium.gateway import asgi, executor_states, http_turns, turn
from consilium.gateway.config import Gateway, Profile
from consilium.gateway.executor_states import FRESH_S, SILENT_S, Seen, Watch
from consilium.gateway.gate import Gate
from consilium.gateway.meter import GatewayMeter
from consilium.kernel.clock import FakeClock, SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.metrics import Metrics

from .conftest import chat


async def receipt_of(bench, found) -> dict:
    async def kept():
        return await bench.stores.receipts.get(found)

    async with asyncio.timeout(LIMIT_S):
        while (receipt := await kept()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return receipt


async def test_an_answer_that_fails_has_a_receipt_and_tells_its_id(gateway):
    bench = await gateway()
    answer = await bench.client().post("/v1/chat/completions", json=chat("!fail"))
    assert answer.status_code == 500
    receipt = await receipt_of(bench, answer.headers["x-consilium-receipt"])
    assert (receipt["status"], receipt["executor"], receipt["notes"]) == (
        500,
        "core",
        ["ended by: internal"],
    )


async def test_a_request_that_names_nobody_has_no_receipt(gateway):
    bench = await gateway()
    answer = await bench.client().post(
        "/v1/chat/completions", json={**chat("x"), "model": "role/none"}
    )
    assert answer.status_code == 404
    assert "x-consilium-receipt" not in answer.headers


async def test_who_leaves_before_the_answer_begins_is_counted_and_gives_all_back(gateway):
    bench = await gateway()
    key = await bench.new_key(tpm=100_000)
    kept = bench.stores.receipts._found
    leaving = asyncio.create_task(
        bench.client(key).post("/v1/chat/completions", json=chat("!wait"))
    )
    await bench.until(lambda: bool(bench.engines["core"].running))
    leaving.cancel()
    await bench.until(lambda: bool(kept) and not bench.engines["core"].running)
    receipt = await receipt_of(bench, next(iter(kept)))
    assert (receipt["status"], receipt["notes"]) == (499, ["ended by: client_gone"])
    assert bench.face.cast.gate.running("core") == 0
    left = await bench.client(key).post("/v1/chat/completions", json=chat("hi", max_tokens=1))
    assert (
        int(left.headers["x-ratelimit-remaining-tokens"]) > 99_000
    )  # the 256 held for the answer came back


async def test_work_that_is_done_in_the_moment_in_which_we_are_cancelled_is_dropped_properly():
    dropped = []

    async def nothing():
        await asyncio.Event().wait()

    async def drop(made):
        dropped.append(made)

    work = asyncio.get_running_loop().create_future()
    request = asgi.Request("POST", "/", b"/", "", {}, [], nothing, nothing)
    waiting = asyncio.ensure_future(asgi.unless_gone(request, work, drop))
    await asyncio.sleep(0.01)
    work.set_result("an answer that has begun")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert dropped == ["an answer that has begun"]


PROFILES = {"short": Profile(context=20, max_tokens=50)}


@pytest.mark.parametrize(
    ("asked", "most"), [({}, 17), ({"max_tokens": 5}, 5), ({"max_tokens": "5"}, "5")]
)
async def test_the_answer_ends_where_the_profiles_context_does(gateway, asked, most):
    bench = await gateway(profiles=PROFILES)
    answer = await bench.client().post(
        "/v1/chat/completions",
        json={**chat("one two three"), "consilium": {"profile": "short"}, **asked},
    )
    assert answer.status_code == 200
    sent = bench.engines["core"].calls[-1].body
    assert (sent.get("max_completion_tokens") or sent.get("max_tokens")) == most


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", chat("w " * 30), "messages"),
        ("/v1/chat/completions", chat("w", max_tokens=20), "messages"),
        ("/v1/completions", {"model": "auto", "prompt": "w " * 30}, "prompt"),
        ("/v1/responses", {"model": "auto", "input": "w " * 30}, "input"),
    ],
)
async def test_what_is_longer_than_the_profiles_context_is_refused_with_both_numbers(
    gateway, path, body, field
):
    bench = await gateway(profiles=PROFILES)
    answer = await bench.client().post(path, json={**body, "consilium": {"profile": "short"}})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    assert "'short' holds 20" in error["message"]


async def test_tenants_share_no_prefix_cache(gateway):
    bench = await gateway()
    at_home = bench.client()
    guest = bench.client(await bench.new_key(tenant="guest"))
    await at_home.post("/v1/chat/completions", json=chat("hi"))
    await guest.post("/v1/chat/completions", json=chat("hi"))
    await guest.post("/v1/chat/completions", json={**chat("hi"), "cache_salt": "mine"})
    salts = [call.body.get("cache_salt") for call in bench.engines["core"].calls]
    assert salts[0] is None
    assert len(set(salts)) == 3
    assert all(len(salt) <= 128 and not set(salt) & set("@/\\\0") for salt in salts[1:])


async def test_however_many_ask_an_executor_is_asked_once(monkeypatch):
    monkeypatch.setattr(executor_states, "WAIT_S", LIMIT_S)
    asked = []

    class Slow(EchoEngine):
        async def check(self):
            asked.append(self.info().name)
            await asyncio.sleep(0.05)
            await super().check()

    engine = Slow()
    await engine.start()
    metrics, gate = Metrics(), Gate(1)
    meter = GatewayMeter(metrics, gate)
    watch = Watch(EngineClient({"core": engine}), gate, Gateway(), SystemClock(), meter.executors)
    found = await asyncio.gather(*(watch.look() for _ in range(100)))
    assert len(asked) == 1
    assert found[0]["core"].is_ready
    assert watch.states() == {"core": "ready"}
    assert 'consilium_engine_up{executor="core"} 1.0' in metrics.page()
    await engine.stop()
    await asyncio.sleep(FRESH_S)
    assert not (await watch.look())["core"].is_ready
    assert 'consilium_engine_up{executor="core"} 0.0' in metrics.page()


async def test_an_executor_that_does_not_answer_holds_nobody_up():
    """The others are told at once, the silent one with how long it has owed its answer; after a while it is not ready."""

    class Silent(EchoEngine):
        answers = True

        async def check(self):
            await super().check()
            if not self.answers:
                await asyncio.Event().wait()

    silent, other = Silent("core"), EchoEngine("hands")
    for engine in (silent, other):
        await engine.start()
    clock = FakeClock()
    watch = Watch(EngineClient({"core": silent, "hands": other}), Gate(1), Gateway(), clock)
    await watch.look()
    silent.answers = False
    await other.stop()
    clock.advance(FRESH_S)
    looked = await watch.look()  # it would wait for ever
    assert looked["hands"].state == "down"
    assert (looked["core"].state, looked["core"].silent_s) == ("ready", 0.0)
    clock.advance(3.0)
    assert watch.seen("core") == Seen(State.READY, watch.seen("core").since, 3.0)
    assert watch.seen("core").is_ready
    clock.advance(SILENT_S)
    assert not watch.seen("core").is_ready


async def test_ready_says_who_owes_an_answer(gateway):
    bench = await gateway()
    engine = bench.engines["core"]
    engine._info = replace(engine._info, silent_s=4.04)
    said = (await bench.client().get("/ready")).json()
    assert said == {
        "ready": True,
        "executors": dict.fromkeys(bench.engines, "ready"),
        "silent_s": {"core": 4.0},
    }


async def test_a_failure_does_not_end_the_watch(log_lines):
    class Broken(EchoEngine):
        async def check(self):
            raise ValueError("nobody expected this")

    watch = Watch(EngineClient({"core": Broken()}), Gate(1), Gateway(), SystemClock())
    running = asyncio.ensure_future(watch.run())
    await until_true(lambda: bool(log_lines))
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()
    assert [line["event"] for line in log_lines] == ["look_failed"]


async def test_each_request_but_a_probe_has_one_line_in_the_log(gateway, log_lines):
    bench = await gateway()
    http = bench.client(await bench.new_key())
    for path in ("/health", "/ready/", "/v1/models", "/nope"):
        await http.get(path)
    await http.post("/v1/chat/completions", json=chat("hi"))
    told = [
        (
            line["event"],
            line.get("path") or line.get("route"),
            line.get("status") or line.get("code"),
        )
        for line in log_lines
    ]
    assert told == [
        ("answered", "/v1/models", 200),
        ("refused", "/nope", "route_unknown"),
        ("turn_done", "chat", 200),
    ]


async def test_a_key_without_the_scope_gets_its_tokens_back(gateway):
    bench = await gateway()
    key = await bench.new_key(scopes=frozenset({"read"}), tpm=10_000)
    for _ in range(5):
        refused = await bench.client(key).post(
            "/v1/chat/completions", json=chat("hi", max_tokens=3000)
        )
        assert refused.status_code == 403


class Countless(EchoEngine):
    """A remote server without /tokenize, or with one that answers something else."""

    odd = False

    async def stream(self, call):
        if call.route == "tokenize":
            if not self.odd:
                raise ConsiliumError("not_supported", reason="The server has no tokenize.")
            call = replace(call, route="models")
        async for frame in super().stream(call):
            yield frame


@pytest.mark.parametrize("odd", [False, True])
async def test_an_executor_that_counts_no_tokens_answers_and_the_receipt_says_so(gateway, odd):
    engine = Countless()
    engine.odd = odd
    bench = await gateway(engines=[engine], profiles=PROFILES)
    answer = await bench.client().post(
        "/v1/chat/completions", json={**chat("one two"), "consilium": {"profile": "short"}}
    )
    assert answer.status_code == 200
    assert "did not count" in answer.json()["consilium"]["receipt"]["notes"][0]
    assert bench.face.cast.gate.running("core") == 0


async def test_who_reads_nothing_keeps_no_place_after_its_deadline(gateway, monkeypatch):
    monkeypatch.setattr(http_turns, "READ_S", 0.2)
    bench = await gateway()
    body = json.dumps(chat(" ".join(["word"] * 200_000), stream=True)).encode()
    bench.engines["core"]._info = replace(bench.engines["core"].info(), context=1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port, limit=1024)
    reader._transport.pause_reading()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bench.key}\r\nx-consilium-timeout: 5\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await bench.until(lambda: bool(bench.engines["core"].calls))
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)
    writer.transport.abort()


async def test_an_embedder_that_hangs_is_not_waited_for_beyond_the_deadline(gateway, monkeypatch):
    bench = await gateway()

    async def hang(_body):
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.face.embeddings, "create", hang)
    late = await bench.client().post(
        "/v1/embeddings",
        json={"model": "auto", "input": "x"},
        headers={"x-consilium-timeout": "0.2"},
    )
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")


async def test_embeddings_count_as_work_so_that_a_drain_waits_for_them(gateway, monkeypatch):
    bench = await gateway()
    create, go_on = bench.face.embeddings.create, asyncio.Event()

    async def slowly(body):
        await go_on.wait()
        return await create(body)

    monkeypatch.setattr(bench.face.embeddings, "create", slowly)
    gate = bench.face.cast.gate
    asking = asyncio.create_task(
        bench.client().post("/v1/embeddings", json={"model": "auto", "input": "x"})
    )
    await bench.until(lambda: gate.running("embeddings") == 1)
    go_on.set()
    assert (await asking).status_code == 200
    assert gate.running("embeddings") == 0


async def test_a_stream_that_nobody_reads_gives_its_place_back_long_before_its_deadline(
    gateway, log_lines
):
    bench = await gateway(unread_s=0.5, engines=[EchoEngine(context=1_000_000)])
    body = json.dumps(chat(" ".join(["word"] * 200_000), stream=True)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port, limit=1024)
    reader._transport.pause_reading()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bench.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await bench.until(lambda: any(line["event"] == "turn_done" for line in log_lines))
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)
    await bench.until(lambda: not bench.engines["core"].running)
    writer.transport.abort()
    done = next(line for line in log_lines if line["event"] == "turn_done")
    assert (done["status"], done["ended_by"]) == (499, "unread")
    await turn.finish_background()
    receipt = await bench.stores.receipts.get(done["receipt"])
    assert "ended: the caller read nothing for 0.5 s" in receipt["notes"]


async def test_who_reads_slowly_but_reads_gets_the_whole_answer(gateway):
    bench = await gateway(unread_s=5.0, engines=[EchoEngine(context=1_000_000)])
    async with bench.client().stream(
        "POST", "/v1/chat/completions", json=chat(" ".join(["word"] * 20_000), stream=True)
    ) as answer:
        last = b""
        number = 0
        async for chunk in answer.aiter_raw():
            number += 1
            last = chunk
            if number % 1000 == 0:
                await asyncio.sleep(0.4)  # the whole takes longer than unread_s
    assert last.endswith(b"[DONE]\n\n")

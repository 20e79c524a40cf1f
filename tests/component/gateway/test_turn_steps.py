"""The steps of a turn over real sockets: what other rooms add, the fallback, lanes, tables in the receipt."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import grpc
import pytest
from tests.component.gateway.conftest import chat, events

from consilium.engine.backends.echo import EchoEngine
from consilium.gateway import turn
from consilium.gateway.adapters import Adapters
from consilium.gateway.config import Profile
from consilium.gateway.contributions import Contributors, Piece, Question
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Held
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc


@dataclass
class Library:
    """A contributor that sleeps, fails or gives pieces."""

    name: str = "retrieval"
    kind: str = "passages"
    budget_s: float = 60.0
    sleeps_s: float = 0.0
    error: Exception | None = None
    found: Sequence[Piece] = ()
    asked: Question | None = None

    async def pieces(self, question: Question) -> Sequence[Piece]:
        self.asked = question
        await asyncio.sleep(self.sleeps_s)
        if self.error is not None:
            raise self.error
        return self.found


def with_rooms(bench, *rooms: Library) -> None:
    cast = replace(bench.face.cast, contributors=Contributors(rooms))
    object.__setattr__(bench.face, "cast", cast)


async def said(bench, **fields):
    answer = await bench.client(bench.key).post("/v1/chat/completions", json=chat(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_contribution_that_sleeps_costs_its_budget_and_a_note(gateway):
    bench = await gateway()
    slow = Library(sleeps_s=600, budget_s=0.2)
    quick = Library("memory", "memories", budget_s=60.0, found=(Piece("m1", "remember"),))
    with_rooms(bench, slow, quick)
    body = await said(bench)
    receipt = body["consilium"]["receipt"]
    late, came = receipt["contributions"]
    assert late["note"] == "retrieval was not there within 200 ms"
    assert late["took_ms"] >= 200
    assert came["pieces"] == 1
    assert receipt["memories"] == ["m1"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConsiliumError("upstream_down", name="retrieval"), "upstream_down"),
        (RuntimeError("a fault"), "internal"),
    ],
)
async def test_a_room_that_fails_costs_its_contribution_and_not_the_answer(gateway, error, code):
    bench = await gateway()
    with_rooms(bench, Library(error=error))
    body = await said(bench)
    assert code in body["consilium"]["receipt"]["contributions"][0]["note"]


async def test_a_prompt_over_the_context_drops_what_we_added_and_not_the_answer(gateway):
    engine = EchoEngine(context=60)
    bench = await gateway(engines=[engine])
    with_rooms(bench, Library(found=tuple(Piece(f"p{n}", "word " * 40) for n in range(3))))
    body = await said(bench, max_tokens=5)
    assert body["choices"][0]["message"]["content"]
    receipt = body["consilium"]["receipt"]
    assert "passages" not in receipt
    assert any("left out" in note for note in receipt["notes"])


async def test_an_executor_that_refuses_what_was_added_is_asked_again_without_it(gateway):
    class Fussy(EchoEngine):
        bodies: list = []

        async def stream(self, call):
            self.bodies.append(call.body)
            if "<context>" in json.dumps(call.body):
                raise ConsiliumError("prompt_too_long", tokens=99, limit=50, param="messages")
            async for frame in super().stream(call):
                yield frame

    bench = await gateway(engines=[Fussy()])
    with_rooms(bench, Library(found=(Piece("p", "text"),)))
    receipt = (await said(bench))["consilium"]["receipt"]
    assert len(Fussy.bodies) == 2
    assert "passages" not in receipt
    assert "what was added was left out: the prompt was too long with it" in receipt["notes"]


async def test_rooms_are_told_the_words_the_key_and_the_conversation(gateway):
    bench = await gateway()
    library = Library()
    with_rooms(bench, library)
    answer = await bench.client(bench.key).post(
        "/v1/chat/completions",
        json=chat("what is it?"),
        headers={"x-consilium-conversation": "talk-7"},
    )
    assert answer.json()["consilium"]["receipt"]["conversation"] == "talk-7"
    assert library.asked.text == "what is it?"
    assert library.asked.conversation == "talk-7"
    assert library.asked.key_id == bench.key.split("_")[1]


async def test_the_fallback_is_composed_anew_and_not_sent_what_was_fitted_for_the_first(gateway):
    class Down(EchoEngine):
        async def stream(self, call):
            if call.route != "tokenize":
                raise ConsiliumError("upstream_down", name="core")
            async for frame in super().stream(call):
                yield frame

    class Roomy(EchoEngine):
        sent: list = []

        async def stream(self, call):
            if call.route == "tokenize":
                raise ConsiliumError("not_supported", reason="no tokenizer")
            self.sent.append(call.body)
            async for frame in super().stream(call):
                yield frame

    profiles = {"short": Profile(context=20, max_tokens=80)}
    core = Down(context=100)
    core._info = replace(core.info(), fallback="spare")
    spare = Roomy("spare", model="spare-model", context=100)
    bench = await gateway(engines=[core, spare], profiles=profiles)
    directly = await said(bench, consilium={"profile": "short", "executor": "spare"})
    instead = await said(bench, consilium={"profile": "short"})
    alone, second = Roomy.sent
    assert alone == second
    assert alone["max_tokens"] == 80
    assert directly["consilium"]["receipt"]["executor"] == "spare"
    tried = instead["consilium"]["receipt"]["attempts"]
    assert [(each["executor"], each["code"]) for each in tried] == [("core", "upstream_down")]
    assert instead["consilium"]["receipt"]["fallback_from"] == "core"


async def test_a_night_turn_is_refused_before_a_persons(gateway):
    bench = await gateway(places=4)
    gate = bench.face.cast.gate
    gate.enter("core")
    gate.enter("core")
    entry = await bench.face.enter(f"Bearer {bench.key}", chat(), 100)
    with pytest.raises(ConsiliumError) as refused:
        await turn.play(bench.face.cast, entry.ask("chat", chat(), lane="night"))
    assert refused.value.code == "queue_full"
    await said(bench)


async def test_an_answer_has_the_id_that_its_caller_chose(gateway):
    bench = await gateway()
    entry = await bench.face.enter(f"Bearer {bench.key}", chat(), 100)
    ask = entry.ask("chat", chat(stream=True), answer_id="job-7.1", lane="batch")
    answer = await turn.play(bench.face.cast, ask)
    whole = b"".join([chunk async for chunk in answer])
    receipt = events(whole.decode())[-1]["consilium"]["receipt"]
    assert answer.receipt_id == receipt["id"] == "job-7.1"
    assert receipt["lane"] == "batch"
    await turn.finish_background()
    assert (await bench.face.receipts.get("job-7.1"))["lane"] == "batch"


async def test_a_reservation_is_settled_once(gateway):
    bench = await gateway()
    settled = []

    async def settle(*words):
        settled.append(words)

    bench.face.authority.settle = settle
    body = chat()
    entry = await bench.face.enter(f"Bearer {bench.key}", body, 100)
    answer = await turn.play(bench.face.cast, entry.ask("chat", body))
    async for _ in answer:
        pass
    await turn.finish_background()
    await entry.held.settle(7)
    assert len(settled) == 1


async def test_the_receipt_says_how_old_a_table_is_whose_room_is_down(gateway):
    @dataclass
    class Followed:
        version: int = 3
        age_s: float = 12.4
        is_live: bool = False

    bench = await gateway()
    cast = replace(bench.face.cast, tables={"adapters": Followed()})
    object.__setattr__(bench.face, "cast", cast)
    tables = (await said(bench))["consilium"]["receipt"]["tables"]
    assert tables == {"adapters": "version 3, 12 s old"}


async def test_what_was_added_never_costs_a_caller_the_profiles_context(gateway):
    bench = await gateway(profiles={"short": Profile(context=400)})
    with_rooms(bench, Library(found=(Piece("p", "word " * 1500),)))
    body = await said(bench, consilium={"profile": "short"}, max_tokens=5)
    assert body["choices"][0]["message"]["content"]
    assert "passages" not in body["consilium"]["receipt"]


async def test_a_conversation_over_grpc_must_be_a_name(gateway):
    bench = await gateway()
    request = pb.GenerateRequest(prompt="hi", conversation="x" * 1000)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.grpc.port}") as channel:
        call = rpc.GenerationServiceStub(channel).Generate(
            request, metadata=(("authorization", f"Bearer {bench.key}"),)
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_key_of_home_cannot_name_another_tenants_cache(gateway):
    bench = await gateway()
    guest = bench.client(await bench.new_key(tenant="acme"))
    await guest.post("/v1/chat/completions", json=chat("hi"))
    theirs = bench.engines["core"].calls[-1].body["cache_salt"]
    await said(bench, cache_salt=theirs)
    assert bench.engines["core"].calls[-1].body["cache_salt"] != theirs


async def test_without_keys_nobody_is_an_admin(gateway):
    bench = await gateway(auth=False)
    client = bench.client()
    assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
    for method, path, body in (
        ("POST", "/v1/keys", {"name": "x", "scopes": ["admin"]}),
        ("GET", "/v1/keys", None),
        ("PUT", "/v1/config", {"roles": {}}),
    ):
        answer = await client.request(method, path, json=body)
        assert answer.status_code == 403, path


async def test_a_header_shortens_a_turn_and_never_lengthens_it(gateway):
    bench = await gateway(request_timeout_s=1.0)
    answer = await bench.client(bench.key).post(
        "/v1/chat/completions", json=chat("!wait"), headers={"x-consilium-timeout": "80000"}
    )
    assert answer.status_code == 504


class Slotless(EchoEngine):
    """Cannot load any adapter."""

    async def stream(self, call):
        if call.adapter:
            raise ConsiliumError("adapter_refused", reason="its files are damaged", check="load")
        async for frame in super().stream(call):
            yield frame


@pytest.mark.parametrize("stream", [False, True])
async def test_who_has_not_asked_for_an_adapter_is_answered_plainly_where_it_cannot_be_loaded(
    gateway, stream
):
    bench = await gateway(engines=[Slotless()])
    version = {"sha": "a" * 64, "reference": "sport:aaaa", "proof": "ok", "fits": {"core": ""}}
    row = {"kind": "adapter", "current": "a" * 64, "versions": [version], "triggers": ["<s>"]}
    table = SimpleNamespace(held=Held("e", 1, {"sport": row}), age_s=0.0)
    adapters = Adapters(table, bench.face.cast.adapters._embedder, None, bench.face.cast.clock)
    object.__setattr__(bench.face, "cast", replace(bench.face.cast, adapters=adapters))
    client = bench.client(bench.key)
    answer = await client.post("/v1/chat/completions", json=chat("<s> hi", stream=stream))
    assert answer.status_code == 200, answer.text
    body = events(answer.text)[-1] if stream else answer.json()
    receipt = body["consilium"]["receipt"]
    assert "adapters" not in receipt or not receipt["adapters"]
    assert "damaged" in receipt["adapter_why"]
    assert any("sport" in note for note in receipt["notes"])
    asked = await client.post("/v1/chat/completions", json=chat(model="adapter/sport"))
    assert asked.json()["error"]["code"] == "adapter_refused"

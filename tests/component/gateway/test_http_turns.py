"""Turns over HTTP: the unmodified openai client, streamed and not, receipts, roles, fallback, models."""

import asyncio
import json

import openai
import pytest
from tests.waiting import LIMIT_S

from consilium.engine.backends.echo import EchoEngine
from consilium.gateway.config import Profile, Role

from .conftest import chat, events


async def test_the_openai_client_gets_a_whole_answer(gateway):
    bench = await gateway()
    raw = await bench.openai().chat.completions.with_raw_response.create(**chat())
    answer = raw.parse()
    assert answer.choices[0].message.content == "one two three"
    assert answer.usage.completion_tokens == 3
    receipt = answer.model_extra["consilium"]["receipt"]
    assert raw.headers["x-consilium-receipt"] == receipt["id"]
    assert raw.headers["x-request-id"]
    assert receipt["executor"] == "core"
    assert receipt["profile"] == "dialog"
    assert receipt["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "cached_tokens": 0}
    assert "key_id" not in receipt


async def test_the_openai_client_gets_a_stream(gateway):
    bench = await gateway()
    stream = await bench.openai().chat.completions.create(
        **chat(), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == "one two three"
    )
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [6]
    assert chunks[-1].model_extra["consilium"]["receipt"]["finish_reason"] == "stop"


async def test_the_synchronous_client_works_too(gateway):
    bench = await gateway()

    def ask():
        with openai.OpenAI(
            base_url=f"{bench.url}/v1", api_key=bench.key, max_retries=0, timeout=LIMIT_S
        ) as client:
            whole = client.completions.create(model="base", prompt="a b").choices[0].text
            parts = client.completions.create(model="base", prompt="a b", stream=True)
            return whole, "".join(part.choices[0].text for part in parts if part.choices)

    assert await asyncio.to_thread(ask) == ("a b", "a b")


async def test_streamed_bytes_pass_through_untouched_but_for_the_receipt(gateway):
    bench = await gateway()
    client = bench.client()
    with_receipt = (await client.post("/v1/chat/completions", json=chat(stream=True))).text
    without = (
        await client.post(
            "/v1/chat/completions", json=chat(stream=True, consilium={"receipt": False})
        )
    ).text
    assert with_receipt.endswith("data: [DONE]\n\n")
    assert without.endswith("data: [DONE]\n\n")
    one, two = events(with_receipt), events(without)
    note = one[-1].pop("consilium")
    assert note["receipt"]["executor"] == "core"
    if len(one) > len(
        two
    ):  # the engine sent [DONE] by itself: the receipt then has an event of its own
        said, told = one[-2], one.pop()
        assert told == {
            **{name: said[name] for name in ("id", "object", "created", "model")},
            "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
        }
    for pair in zip(one, two, strict=True):
        assert {**pair[0], "id": ""} == {**pair[1], "id": ""}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_receipt_can_be_fetched_by_its_owner_only(gateway, stream):
    bench = await gateway()
    answer = await bench.client().post("/v1/chat/completions", json=chat(stream=stream))
    name = answer.headers["x-consilium-receipt"]
    found = None
    async with asyncio.timeout(LIMIT_S):
        while found is None or found.status_code != 200:
            found = await bench.client().get(f"/v1/receipts/{name}")
            await asyncio.sleep(0.01)
    assert found.json()["status"] == 200
    assert "key_id" not in found.json()
    stranger = await bench.client(await bench.new_key()).get(f"/v1/receipts/{name}")
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (404, "receipt_unknown")
    admin = await bench.client(await bench.new_key(scopes=frozenset({"admin"}))).get(
        f"/v1/receipts/{name}"
    )
    assert admin.json()["key_id"]


async def test_a_role_puts_its_frame_first_and_names_its_profile(gateway):
    bench = await gateway(roles={"sage": Role(frame="You are wise.", profile="think")})
    answer = await bench.client().post(
        "/v1/chat/completions",
        json=chat(
            model="role/sage",
            messages=[{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}],
        ),
    )
    call = bench.engines["core"].calls[-1]
    assert call.body["messages"][0] == {"role": "system", "content": "You are wise.\n\nown"}
    assert call.body["model"] == "echo"
    assert call.body["chat_template_kwargs"] == {"enable_thinking": True}
    receipt = answer.json()["consilium"]["receipt"]
    assert (receipt["role"], receipt["profile"]) == ("sage", "think")
    again = await bench.client().post(
        "/v1/chat/completions", json=chat(model="auto", consilium={"role": "sage"})
    )
    assert again.json()["consilium"]["receipt"]["role"] == "sage"
    assert bench.engines["core"].calls[-1].prefix_key.startswith("sage")


async def test_a_profile_names_the_executor(gateway):
    bench = await gateway(
        engines=[EchoEngine(), EchoEngine("wide", model="wide-model")],
        profiles={"deep": Profile(executor="wide", temperature=0.5)},
    )
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat(consilium={"profile": "deep"})
    )
    assert answer.json()["consilium"]["receipt"]["executor"] == "wide"
    assert bench.engines["wide"].calls[-1].body["temperature"] == 0.5


@pytest.mark.parametrize("stream", [False, True])
async def test_the_fallback_answers_when_the_first_is_down(gateway, stream):
    bench = await gateway(
        engines=[EchoEngine(), EchoEngine("spare", model="small")],
        roles={"sage": Role(frame="x", fallback="spare")},
    )
    await bench.engines["core"].stop()
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat(model="role/sage", stream=stream)
    )
    assert answer.status_code == 200
    receipt = (events(answer.text)[-1] if stream else answer.json())["consilium"]["receipt"]
    assert (receipt["executor"], receipt["fallback_from"], receipt["fallback_why"]) == (
        "spare",
        "core",
        "upstream_down",
    )
    without = await bench.client().post("/v1/chat/completions", json=chat(stream=stream))
    assert (without.status_code, without.json()["error"]["code"]) == (503, "upstream_down")
    assert int(without.headers["retry-after"]) >= 1


async def test_a_break_after_the_first_token_is_an_error_event_and_no_fallback(gateway):
    bench = await gateway()
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat("one !break two", stream=True)
    )
    assert answer.status_code == 200
    assert "upstream_down" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_models_are_listed_and_found(gateway):
    bench = await gateway(
        engines=[EchoEngine(), EchoEngine("spare", model="org/small")],
        roles={"sage": Role(frame="x")},
    )
    listed = await bench.openai().models.list()
    names = [model.id for model in listed.data]
    assert names == [
        "auto",
        "base",
        "role/sage",
        "executor/core",
        "executor/spare",
        "echo",
        "org/small",
        *bench.face.embeddings.names,
    ]
    assert all(model.model_extra["description"] for model in listed.data)
    for name in names:
        one = await bench.client().get(f"/v1/models/{name}")
        assert one.status_code == 200
        assert one.json() == next(row.to_dict() for row in listed.data if row.id == name)
    lost = await bench.client().get("/v1/models/role/sago")
    assert lost.status_code == 404
    assert "role/sage" in lost.json()["error"]["message"]


async def test_tokenize_and_detokenize_pass_through(gateway):
    bench = await gateway()
    counted = await bench.client().post("/tokenize", json={"model": "auto", "prompt": "a b c"})
    assert counted.json()["count"] == 3
    text = await bench.client().post("/detokenize", json={"tokens": [1, 2]})
    assert text.json() == {"prompt": "1 2"}


async def test_lm_eval_hears_of_the_tokenizer(gateway):
    bench = await gateway()
    for path in ("/tokenizer_info", "/tokenizer_info?model=echo"):
        told = await bench.client().get(path)
        assert (told.status_code, told.json()) == (200, {"tokenizer_class": "Echo"})
    assert (await bench.client().get("/tokenizer_info?model=nobody")).status_code == 404
    assert (await bench.client().post("/tokenizer_info", json={})).status_code == 405
    assert (await bench.client("nobody").get("/tokenizer_info")).status_code == 401


async def test_embeddings_are_answered_and_settled(gateway):
    bench = await gateway()
    key = await bench.new_key(tpm=1000)
    found = await bench.openai(key).embeddings.create(
        model="auto", input=["a b", "c"], encoding_format="float"
    )
    assert [len(row.embedding) for row in found.data] == [2, 2]
    packed = await bench.openai(key).embeddings.create(
        model="auto", input="a b"
    )  # the client asks for base64 by itself
    assert list(packed.data[0].embedding) == pytest.approx(found.data[0].embedding)


async def test_health_says_alive_and_ready_says_the_core_answers(gateway):
    bench = await gateway()
    client = bench.client()
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/ready")).json()["ready"] is True
    await bench.engines["core"].stop()
    assert (await client.get("/health")).status_code == 200

    async def is_down():
        return (await client.get("/ready")).status_code == 503

    await bench.eventually(is_down)
    assert (await client.get("/ready")).json()["executors"] == {"core": "down"}


async def test_a_caller_may_set_its_deadline(gateway):
    bench = await gateway()
    late = await bench.client().post(
        "/v1/chat/completions", json=chat("!wait"), headers={"x-consilium-timeout": "0.2"}
    )
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
    await bench.until(lambda: not bench.engines["core"].running)
    for bad in ("x", "-1", "nan", "inf"):
        refused = await bench.client().post(
            "/v1/chat/completions", json=chat(), headers={"x-consilium-timeout": bad}
        )
        assert refused.status_code == 400


async def test_responses_are_kept_and_gone_on_with(gateway):
    bench = await gateway()
    client = bench.openai()
    first = await client.responses.create(model="auto", input="one two")
    assert first.output_text == "one two"
    kept = await client.responses.retrieve(first.id)
    assert kept.output_text == "one two"
    second = await client.responses.create(
        model="auto", input="three", previous_response_id=first.id
    )
    sent = bench.engines["core"].calls[-1].body
    assert [item["content"] for item in sent["input"]] == ["one two", "one two", "three"]
    assert "previous_response_id" not in sent
    third = await client.responses.create(
        model="auto", input="four", previous_response_id=second.id
    )
    sent = bench.engines["core"].calls[-1].body
    assert [item["content"] for item in sent["input"]] == [
        "one two",
        "one two",
        "three",
        second.output_text,
        "four",
    ]
    assert (await client.responses.retrieve(third.id)).previous_response_id == second.id
    with pytest.raises(openai.NotFoundError):
        await bench.openai(await bench.new_key()).responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="auto", input="x", previous_response_id="resp_none")
    unkept = await client.responses.create(model="auto", input="one", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(unkept.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_streamed_responses_are_kept_too(gateway):
    bench = await gateway()
    client = bench.openai()
    stream = await client.responses.create(model="auto", input="one two", stream=True)
    seen = [event async for event in stream]
    assert seen[0].type == "response.created"
    done = next(event for event in seen if event.type == "response.completed")
    kept = None
    async with asyncio.timeout(LIMIT_S):
        while kept is None:
            try:
                kept = await client.responses.retrieve(done.response.id)
            except openai.NotFoundError:
                await asyncio.sleep(0.01)
    assert kept.output_text == "one two"


@pytest.mark.parametrize("name", ["resp_none", 7])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_earlier_response_that_is_not_there_and_a_conversation_are_refused(
    gateway, name, stream
):
    bench = await gateway()
    async with bench.client() as client:
        body = {"model": "auto", "input": "x", "stream": stream}
        gone = await client.post("/v1/responses", json={**body, "previous_response_id": name})
        held = await client.post("/v1/responses", json={**body, "conversation": "conv_nope"})
    assert gone.status_code == (404 if name == "resp_none" else 400)
    assert gone.json()["error"]["code"] in {"response_unknown", "invalid_request"}
    assert (held.status_code, held.json()["error"]["param"]) == (400, "conversation")
    assert "previous_response_id" in held.json()["error"]["message"]


async def test_a_response_that_was_cut_says_so_streamed_and_stored_alike(gateway):
    bench = await gateway()
    client = bench.openai()
    first = await client.responses.create(model="auto", input="one")
    asked = {
        "model": "auto",
        "input": "one two three",
        "max_output_tokens": 2,
        "previous_response_id": first.id,
        "metadata": {"a": "b"},
        "instructions": "Be calm.",
    }
    whole = await client.responses.create(**asked)
    seen = [event async for event in await client.responses.create(**asked, stream=True)]
    assert seen[-1].type == "response.incomplete"
    for made in (whole, seen[-1].response, await client.responses.retrieve(whole.id)):
        assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert made.output[-1].status == "incomplete"
    for made in (seen[0].response, seen[-1].response, await client.responses.retrieve(seen[-1].response.id)):  # fmt: skip
        assert (made.previous_response_id, made.metadata) == (first.id, {"a": "b"})
        assert (made.instructions, made.store) == ("Be calm.", True)


async def test_without_keys_anyone_may_ask(gateway):
    import httpx

    bench = await gateway(auth=False)
    async with httpx.AsyncClient(base_url=bench.url, timeout=60) as client:
        answer = await client.post("/v1/chat/completions", content=json.dumps(chat()))
    assert answer.status_code == 200


@pytest.mark.parametrize("name", ["two-numbers", "embedding", "text-embedding-3-small"])
async def test_a_model_for_vectors_that_is_asked_to_chat_says_what_it_is_for(gateway, name):
    bench = await gateway()
    client = bench.client()
    for path, body in (
        ("/v1/chat/completions", chat(model=name)),
        ("/v1/chat/completions", chat(model=name, stream=True)),
        ("/v1/completions", {"model": name, "prompt": "a"}),
        ("/v1/responses", {"model": name, "input": "a"}),
        ("/tokenize", {"model": name, "prompt": "a"}),
    ):
        refused = await client.post(path, json=body)
        assert refused.status_code == 400, path
        error = refused.json()["error"]
        assert (error["code"], error["param"]) == ("invalid_request", "model")
        assert (
            f"{name!r} makes vectors and does not answer: it is for /v1/embeddings"
            in error["message"]
        )
    assert not bench.engines["core"].calls


@pytest.mark.parametrize("name", ["base", "role/sage", "executor/core", "core", "echo"])
async def test_a_model_that_answers_and_is_asked_for_vectors_says_what_it_is_for(gateway, name):
    bench = await gateway(roles={"sage": Role(frame="x")})
    refused = await bench.client().post("/v1/embeddings", json={"model": name, "input": "a"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_request", "model")
    assert "makes no vectors" in error["message"]
    assert "'two-numbers'" in error["message"]
    unknown = await bench.client().post("/v1/embeddings", json={"model": "nope", "input": "a"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_unknown")

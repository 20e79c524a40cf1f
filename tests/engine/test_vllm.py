"""vLLM behind the engine port: every route, what the caller sees and what the tail says, aborts, refusals."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import generate_latest

from consilium.engine import wire
from consilium.engine.ports import State
from consilium.kernel.errors import ConsiliumError
from tests.waiting import until_true

from .conftest import CONTEXT, Asker, counted

LONG = 400
"""Tokens of an answer that its caller does not wait for."""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,  # without it vLLM pins the name only, and a random model says anything
        "description": "w",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}


async def test_it_is_ready_and_says_what_it_is(dense: Asker) -> None:
    info = dense.engine.info()
    assert (info.state, info.model, info.context, info.template) == (
        State.READY,
        "tiny",
        CONTEXT,
        "model",
    )
    await dense.engine.check()


async def test_it_tells_its_control_tokens_and_how_long_a_token_is(dense: Asker) -> None:
    info = dense.engine.info()
    assert {"<|im_start|>", "<|im_end|>"} <= set(info.special_tokens)
    for text in ("A quiet town keeps its library alive.", "Тихий город бережёт свою библиотеку."):
        said = await dense.ask("tokenize", prompt=text, add_special_tokens=False)
        assert 0.8 <= info.estimate_tokens(text) / said.json["count"] <= 1.5


async def test_chat(dense: Asker) -> None:
    said = await dense.chat()
    assert (said.head.status, said.head.stream, said.head.content_type) == (200, False, wire.JSON)
    usage = said.json["usage"]
    assert said.json["object"] == "chat.completion"
    assert (said.tail.usage.prompt_tokens, said.tail.usage.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert said.tail.finish_reason == said.json["choices"][0]["finish_reason"] == "length"
    times = said.tail.timings
    assert None not in (times.queue_ms, times.prefill_ms, times.first_token_ms, times.total_ms)


async def test_a_stream_says_the_same_and_shows_no_usage_that_was_not_asked_for(
    dense: Asker,
) -> None:
    whole, stream = await dense.chat(), await dense.chat(stream=True)
    assert (stream.head.stream, stream.head.content_type) == (True, wire.SSE)
    assert stream.body.endswith(wire.DONE)
    assert stream.text == whole.text
    assert stream.tail.usage.completion_tokens == whole.tail.usage.completion_tokens == 8
    assert stream.tail.usage.prompt_tokens == whole.tail.usage.prompt_tokens
    assert stream.tail.finish_reason == "length"
    assert not any(event.get("usage") for event in stream.events)


async def test_usage_is_there_when_asked_for(dense: Asker) -> None:
    said = await dense.chat(stream=True, stream_options={"include_usage": True})
    assert said.events[-1]["choices"] == []
    assert said.events[-1]["usage"]["completion_tokens"] == said.tail.usage.completion_tokens


async def test_a_repeated_prompt_comes_from_the_cache(dense: Asker) -> None:
    text = "a long and stable beginning of a prompt " * 20  # a cache block holds 128 tokens on CPU
    await dense.chat(text)
    assert (await dense.chat(text)).tail.usage.cached_tokens > 0


async def test_several_choices_are_counted_together(dense: Asker) -> None:
    said = await dense.chat(n=2, stream=True, temperature=1, seed=1, max_tokens=4)
    assert {event["choices"][0]["index"] for event in said.events} == {0, 1}
    assert said.tail.usage.completion_tokens == 8


async def test_completions_with_two_prompts(dense: Asker) -> None:
    for stream in (False, True):
        said = await dense.ask(
            "completions",
            prompt=["one", "two and more"],
            max_tokens=3,
            temperature=0,
            stream=stream,
        )
        assert said.tail.usage.completion_tokens == 6
    assert {event["choices"][0]["index"] for event in said.events} == {0, 1}


async def test_responses(dense: Asker) -> None:
    said = await dense.ask("responses", input="Hello", max_output_tokens=4, temperature=0)
    assert said.json["object"] == "response"
    assert said.json["usage"]["output_tokens"] == said.tail.usage.completion_tokens == 4
    stream = await dense.ask(
        "responses", input="Hello", max_output_tokens=4, temperature=0, stream=True
    )
    assert stream.events[0]["type"] == "response.created"
    assert stream.tail.usage.completion_tokens == 4


async def test_tokenize_and_back(dense: Asker) -> None:
    tokens = (await dense.ask("tokenize", prompt="Hello there", add_special_tokens=False)).json[
        "tokens"
    ]
    assert (await dense.ask("detokenize", tokens=tokens)).json["prompt"] == "Hello there"


async def test_models_are_listed(dense: Asker) -> None:
    assert [row["id"] for row in (await dense.ask("models")).json["data"]] == ["tiny"]


async def test_a_tool_is_called_when_required(dense: Asker) -> None:
    said = await dense.chat(
        "weather?",
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=200,
    )
    call = said.json["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather", said.body
    assert json.loads(call["arguments"])["city"] in {"Rome", "Oslo"}
    stream = await dense.chat(
        "weather?", tools=[TOOL], tool_choice="required", max_tokens=200, stream=True
    )
    deltas = [event["choices"][0]["delta"] for event in stream.events if event["choices"]]
    assert any(delta.get("tool_calls") for delta in deltas)


async def test_structured_output_obeys_its_schema(dense: Asker) -> None:
    said = await dense.chat(
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        max_tokens=30,
    )
    assert json.loads(said.text)["n"] in {1, 2}


async def test_logprobs(dense: Asker) -> None:
    said = await dense.chat(logprobs=True, top_logprobs=2, max_tokens=3)
    content = said.json["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2, 2]


async def test_figures_have_the_names_of_vllms_server_and_say_whose_they_are(dense: Asker) -> None:
    await dense.chat()
    page = generate_latest().decode().splitlines()
    own = [line for line in page if line.startswith("vllm:") and "executor=" in line]
    assert all('executor="core"' in line and 'replica="0"' in line for line in own)
    names = {line.partition("{")[0] for line in own}
    assert {
        "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_bucket", "vllm:request_success_total", "vllm:cache_config_info",
    } <= names  # fmt: skip
    assert (
        next(
            float(line.split()[-1])
            for line in own
            if line.startswith("vllm:generation_tokens_total")
        )
        >= 2
    )


async def test_a_stop_string_stops(dense: Asker) -> None:
    text = (await dense.chat(max_tokens=12)).text
    stop = text[4:6]
    said = await dense.chat(max_tokens=12, stop=[stop])
    assert stop not in said.text
    assert text.startswith(said.text)
    assert said.tail.finish_reason == said.json["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"top_p": 7}, "top_p"),
        ({"messages": "no"}, "messages"),
    ],
)
async def test_bad_values_are_the_callers_fault(
    dense: Asker, body: dict[str, Any], param: str
) -> None:
    said = await dense.chat(**{"stream": True, **body})
    assert said.head.status == 400
    assert not said.head.stream
    assert said.json["error"]["param"] == param


async def test_another_model_is_not_found(dense: Asker) -> None:
    assert (await dense.chat(model="other")).head.status == 404


@pytest.mark.parametrize("route", ["chat", "completions", "responses"])
@pytest.mark.parametrize("words", [CONTEXT, CONTEXT * 100])
async def test_too_long_names_both_numbers(dense: Asker, route: str, words: int) -> None:
    text = "word " * words
    body: dict[str, Any] = {
        "chat": {"messages": [{"role": "user", "content": text}]},
        "completions": {"prompt": text},
        "responses": {"input": text},
    }[route]
    said = await dense.ask(route, stream=True, **body)
    error = said.json["error"]
    assert said.head.status == 400
    assert (error["code"], error["type"]) == ("prompt_too_long", "invalid_request_error")
    assert str(CONTEXT) in error["message"]
    assert "at least" in error["message"]
    assert dense.engine.load()["unfinished"] == 0


async def test_embeddings_need_an_embedding_model(dense: Asker) -> None:
    assert (await dense.ask("embeddings", input="x")).head.status == 501


def made() -> float:
    """Return how many tokens the engine has made so far."""
    return counted("vllm:generation_tokens_total")


async def freed(dense: Asker, before: float, asked: int = LONG) -> None:
    """Wait until nothing runs. It was ended, and did not end by itself: fewer tokens were made than were asked for."""
    await until_true(lambda: dense.engine.load() == {"streams": 0, "unfinished": 0}, limit_s=120.0)
    assert made() - before < asked


async def test_closing_a_stream_frees_its_place(dense: Asker) -> None:
    before = made()
    stream = dense.engine.stream(
        dense.call(
            "chat",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            max_tokens=LONG,
            ignore_eos=True,
        )
    )
    await anext(stream)
    assert dense.engine.load() == {"streams": 1, "unfinished": 1}
    await stream.aclose()
    await freed(dense, before)


@pytest.mark.parametrize("route", ["chat", "responses"])
async def test_a_cancelled_caller_of_a_whole_answer_frees_its_place(
    dense: Asker, route: str
) -> None:
    before = made()
    task = asyncio.create_task(
        dense.ask(
            route,
            messages=[{"role": "user", "content": "x"}],
            input="x",
            max_tokens=LONG,
            max_output_tokens=LONG,
            ignore_eos=True,
        )
    )
    async with asyncio.timeout(120):
        while not dense.engine.load()["unfinished"]:  # noqa: ASYNC110  # the engine tells nobody when it takes a request
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await freed(dense, before)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_caller_of_several_prompts_is_cancelled_and_frees_their_places(
    dense: Asker, stream: bool
) -> None:
    before = made()
    prompts = ["one", "two", "three"]
    task = asyncio.create_task(
        dense.ask("completions", prompt=prompts, max_tokens=LONG, ignore_eos=True, stream=stream)
    )
    async with asyncio.timeout(120):
        while dense.engine.load()["unfinished"] < len(prompts):  # noqa: ASYNC110  # the engine tells nobody when it takes a request
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await freed(dense, before, LONG * len(prompts))


async def test_an_engine_that_reads_a_long_prompt_is_well_and_one_that_makes_no_step_is_not(
    dense: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = dense.engine

    async def no_token() -> None:
        await asyncio.Event().wait()  # as when all of each step goes to the long prompt

    monkeypatch.setattr(engine, "_generate_one", no_token)
    monkeypatch.setattr(
        engine, "_settings", replace(engine._settings, idle_s=0.0, check_timeout_s=10.0)
    )
    others = asyncio.create_task(dense.chat(max_tokens=LONG, ignore_eos=True))
    await engine.check()
    await others

    async def look() -> None:
        for _ in range(5):  # a step may follow the last token
            await engine.check()

    with pytest.raises(ConsiliumError, match="upstream_down"):
        await look()


async def test_a_full_batch_takes_the_next_when_one_leaves(dense: Asker) -> None:
    before = made()
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "max_tokens": LONG,
        "ignore_eos": True,
    }
    streams = [dense.engine.stream(dense.call("chat", **body)) for _ in range(8)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    waiting = asyncio.create_task(dense.chat(max_tokens=1))
    await streams[0].aclose()
    assert (await asyncio.wait_for(waiting, 120.0)).tail.usage.completion_tokens == 1
    assert dense.engine.load()["unfinished"], "it did not wait for the others"
    for stream in streams:
        await stream.aclose()
    await freed(dense, before, LONG * len(streams))

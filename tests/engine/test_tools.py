"""Tools through vLLM: called where the model can, left out or refused where it cannot, in words of this house; on both routes, streamed or not."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from consilium.engine.answerable import Abilities
from consilium.kernel.errors import ConsiliumError

from .conftest import Asker
from .test_vllm import TOOL

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

FLAT = {"type": "function", **TOOL["function"]}  # type: ignore[dict-item]
FIELD = {"chat": TOOL, "responses": FLAT}
LENGTH = {"chat": "max_tokens", "responses": "max_output_tokens"}


@pytest.fixture
def speechless(dense: Asker) -> Iterator[Asker]:
    """The engine of the session, as one whose model has no tool parser and whose default is the likeliest token."""
    able, dense.engine._able = dense.engine._able, Abilities(calls_tools=False, greedy=True)
    yield dense
    dense.engine._able = able


def asked(route: str, **more: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": "weather?"}
    own = {"messages": [turn]} if route == "chat" else {"input": "weather?"}
    return {**own, "tools": [FIELD[route]], LENGTH[route]: 8, "temperature": 0, **more}


def without_tools(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "tools"}


def calls(said: Any) -> list[dict[str, Any]]:
    """Return the calls of an answer: name and arguments."""
    whole = said.json
    if "choices" in whole:
        message = whole["choices"][0]["message"]
        return [call["function"] for call in message.get("tool_calls") or ()]
    return [item for item in whole["output"] if item["type"] == "function_call"]


@pytest.mark.parametrize("route", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_taken_where_calling_one_is_the_models_choice(
    dense: Asker, route: str, stream: bool
) -> None:
    for choice in ({}, {"tool_choice": "auto"}):
        said = await dense.ask(route, **asked(route, stream=stream, **choice))
        assert (said.head.status, said.head.tools_left_out, said.head.note) == (200, False, "")
        plain = await dense.ask(route, **without_tools(asked(route, stream=stream)))
        assert said.tail.usage.prompt_tokens > plain.tail.usage.prompt_tokens + 50, "they are shown"


@pytest.mark.parametrize("route", ["chat", "responses"])
async def test_a_call_that_is_demanded_comes(dense: Asker, route: str) -> None:
    named: dict[str, Any] = {"type": "function", "name": "weather"}
    if route == "chat":
        named = {"type": "function", "function": {"name": "weather"}}
    said = await dense.ask(route, **asked(route, tool_choice=named, **{LENGTH[route]: 200}))
    (call,) = calls(said)
    assert call["name"] == "weather"
    assert json.loads(call["arguments"])["city"] in {"Rome", "Oslo"}
    # A random model may fill its call with spaces up to the limit; what it writes is a call, whole or not.
    said = await dense.ask(route, **asked(route, tool_choice="required", **{LENGTH[route]: 30}))
    assert calls(said) or b"<tool_call>" in said.body


@pytest.mark.parametrize("route", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_parser_it_answers_without_tools_and_says_so(
    speechless: Asker, route: str, stream: bool
) -> None:
    said = await speechless.ask(route, **asked(route, stream=stream))
    assert (said.head.status, said.head.tools_left_out) == (200, True)
    assert "engine.tool_parser" in said.head.note
    plain = await speechless.ask(route, **without_tools(asked(route, stream=stream)))
    assert said.tail.usage.prompt_tokens == plain.tail.usage.prompt_tokens
    assert (plain.head.tools_left_out, plain.head.note) == (False, "")


@pytest.mark.parametrize("route", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_parser_a_demanded_call_is_refused(
    speechless: Asker, route: str, stream: bool
) -> None:
    with pytest.raises(ConsiliumError) as caught:
        await speechless.ask(route, **asked(route, stream=stream, tool_choice="required"))
    assert (caught.value.row.http, "engine.tool_parser" in caught.value.public()) == (400, True)


async def test_several_answers_come_where_only_the_default_is_greedy(speechless: Asker) -> None:
    turn = [{"role": "user", "content": "Hello"}]
    said = await speechless.ask("chat", messages=turn, n=2, max_tokens=4)
    assert [choice["index"] for choice in said.json["choices"]] == [0, 1]
    assert "temperature 1" in said.head.note
    refused = await speechless.ask("chat", messages=turn, n=2, max_tokens=4, temperature=0)
    assert refused.head.status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template": "{{ messages }}"},
        {"prompt_logprobs": 1000},
        {"logprobs": True, "top_logprobs": 1000},
        {"media_io_kwargs": {"image": {}}},
        {"thinking_token_budget": 5},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_refusal_names_an_option_of_vllms(dense: Asker, body: Any, stream: bool) -> None:
    said = await dense.chat(stream=stream and "prompt_logprobs" not in body, **body)
    assert b'"error"' in said.body, said.body
    assert b" --" not in said.body
    assert b"`--" not in said.body
    assert b"(--" not in said.body


async def test_log_probabilities_compile_nothing(dense: Asker) -> None:
    """The first caller who asks for them waited for a compiler: up to 24 s in which nobody got a token."""
    said = await dense.chat(logprobs=True, top_logprobs=2, max_tokens=2)
    assert said.head.status == 200
    assert os.environ["TORCHDYNAMO_DISABLE"] == "1", "the core was started with it"


async def test_the_tokenizer_tells_of_itself(dense: Asker) -> None:
    said = await dense.ask("tokenizer_info")
    assert said.head.status == 200
    assert said.json["tokenizer_class"]
    assert said.json["eos_token"] == "<|im_end|>"

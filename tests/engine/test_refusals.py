"""What an engine refuses: one shape of errors on every route, the field at fault, before the first byte; and what no body may do to it."""

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import pytest

from consilium.gateway.body_checks import check_shape
from consilium.gateway.config import Gateway
from consilium.kernel.errors import ConsiliumError
from tests.engine import body_mutations

from .conftest import Asker

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

MUTATIONS = 2000
"""For each route; together about 30 s on two cores."""
AT_ONCE = 8
LONGEST_S = 240.0
ASKED = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "completions": {"prompt": "x"},
    "responses": {"input": "x"},
    "tokenize": {"prompt": "x"},
    "detokenize": {"tokens": [1]},
    "embeddings": {"input": "x"},
}
WRONG_SCHEMA = {"type": "nothing"}
WRONG_SHAPES = [
    ("chat", {"structured_outputs": 1}, "structured_outputs"),
    ("chat", {"structured_outputs": []}, "structured_outputs"),
    ("chat", {"structured_outputs": {"grammar": "root ::= "}}, "structured_outputs"),
    ("chat", {"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ("chat", {"structured_outputs": {"json": WRONG_SCHEMA}}, "structured_outputs"),
    ("chat", {"structured_outputs": {"a": 1}}, "structured_outputs"),
    ("chat", {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": WRONG_SCHEMA}}}, "response_format"),
    ("chat", {"response_format": 1}, "response_format"),
    ("completions", {"structured_outputs": 1}, "structured_outputs"),
    ("completions", {"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ("completions", {"prompt": ["a", "b"], "structured_outputs": {"regex": "("}}, "structured_outputs"),
    ("completions", {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": WRONG_SCHEMA}}}, "response_format"),
    ("responses", {"structured_outputs": 1}, "structured_outputs"),
    ("responses", {"structured_outputs": {"grammar": "root ::= "}}, "structured_outputs"),
    ("responses", {"text": {"format": {"type": "json_schema", "name": "n", "schema": WRONG_SCHEMA}}}, "text"),
    ("responses", {"tools": 7}, "tools"),
]  # fmt: skip


def refused(error: dict[str, Any]) -> None:
    """Check the shape of a refusal."""
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["type"] in {"invalid_request_error", "server_error", "rate_limit_error"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "body", "wanted"),
    [
        ("chat", {"max_tokens": 0}, ("max_tokens", "invalid_request")),
        ("chat", {"temperature": "hot"}, ("temperature", "invalid_request")),
        ("chat", {"presence_penalty": 9}, ("presence_penalty", "invalid_request")),
        ("chat", {"n": 2, "temperature": 0}, ("n", "invalid_request")),
        ("chat", {"messages": [{"role": "user", "content": [{"type": 1}]}]}, ("messages", "invalid_request")),
        ("chat", {"tool_choice": "\ud800", "tools": [1]}, ("tool_choice", "invalid_request")),
        ("chat", {"model": "other"}, ("model", "model_unknown")),
        ("completions", {"max_tokens": -1}, ("max_tokens", "invalid_request")),
        ("completions", {"top_p": 7}, ("top_p", "invalid_request")),
        ("completions", {"stop": [""]}, ("stop", "invalid_request")),
        ("responses", {"max_output_tokens": 0}, ("max_tokens", "invalid_request")),
        ("responses", {"temperature": "hot"}, ("temperature", "invalid_request")),
        ("tokenize", {"prompt": 5}, ("prompt", "invalid_request")),
        ("detokenize", {"tokens": "x"}, ("tokens", "invalid_request")),
        ("embeddings", {"input": {}}, ("input", "invalid_request")),
        ("embeddings", {}, (None, "not_supported")),
    ],
)  # fmt: skip
async def test_a_refusal_has_the_shape_of_openai_on_every_route(
    dense: Asker,
    route: str,
    body: dict[str, Any],
    wanted: tuple[str | None, str],
    stream: bool,
) -> None:
    param, code = wanted
    said = await dense.ask(route, **{**ASKED[route], "stream": stream, **body})
    error = said.json["error"]
    refused(error)
    assert said.head.status == {"invalid_request": 400, "model_unknown": 404}.get(code, 501)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert (error["param"] or "").rpartition(".")[2] == (param or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("route", "body", "param"), WRONG_SHAPES)
async def test_a_wrong_shape_of_the_answer_is_refused_with_its_field_before_the_first_byte(
    dense: Asker, route: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    said = await dense.ask(route, **{**ASKED[route], "stream": stream, **body})
    assert (said.head.status, said.head.stream) == (400, False), said.body
    refused(said.json["error"])
    assert said.json["error"]["param"] == param
    assert dense.engine.load() == {"streams": 0, "unfinished": 0}


async def test_log_probabilities_of_the_prompt_do_not_end_an_engine_with_adapters_on_a_cpu(
    dense: Asker,
) -> None:
    for body in ({"prompt_logprobs": 1}, {"echo": True, "logprobs": 1}):
        said = await dense.ask("completions", prompt="a longer prompt", max_tokens=2, **body)
        assert (said.head.status, said.json["error"]["param"]) == (400, "prompt_logprobs")
    assert (await dense.chat()).head.status == 200


async def test_a_shape_that_needs_the_tokens_that_stop_it_is_the_callers_fault(
    dense: Asker,
) -> None:
    body = {"response_format": {"type": "json_object"}, "stop_token_ids": list(range(300))}
    said = await dense.chat(**body)
    assert (said.head.status, said.json["error"]["param"]) == (400, "stop_token_ids")
    told = (await dense.chat(stream=True, **body)).events[-1]
    assert told["error"]["code"] == "invalid_request"


async def test_many_wrong_entries_cost_no_more_than_one(dense: Asker) -> None:
    # 3 ms each, if all of them were told: a minute
    async with asyncio.timeout(30):
        said = await dense.ask("responses", input=[*[{"role": "user", "content": "x"}] * 20, *[{}] * 20_000])  # fmt: skip
    assert said.head.status == 400
    assert said.json["error"]["param"] == "input"
    assert "body.input.20." in said.json["error"]["message"]


PART = {"type": "input_text", "text": "x"}
LONG_INPUTS = {
    "wrong parts": [{"role": "user", "content": [{}] * 100_000}],
    "wrong parts behind right ones": [{"role": "user", "content": [PART] * 2_000 + [{}] * 100_000}],
    "wrong parts beside names of nobody": [{"role": "user", "content": [{}] * 100_000, **{f"k{at}": at for at in range(1_000)}}],
    "numbers for parts": [{"role": "user", "content": [1] * 100_000}],
    "wrong notes in a part": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [{}] * 100_000}]}],
    "messages that are right": [{"role": "user", "content": "x"}] * 5_000,
}  # fmt: skip
"""Read at once they take 1 to 100 s."""


@pytest.mark.parametrize("kind", LONG_INPUTS)
async def test_others_are_served_while_a_long_body_is_read(dense: Asker, kind: str) -> None:
    """The loop that serves all computes for a small part of a second between two turns of its own. Seconds of computing: a machine that stands still adds none."""
    beats = [time.process_time()]

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.01)
            beats.append(time.process_time())

    beating = asyncio.ensure_future(beat())
    async with asyncio.timeout(240):
        said = await dense.ask("responses", input=LONG_INPUTS[kind])
    beating.cancel()
    beats.append(time.process_time())
    assert said.head.status == 400
    assert said.json["error"]["param"] in {"input", "input_tokens"}
    longest = max(later - before for before, later in itertools.pairwise(beats))
    print(f"{len(beats)} turns of the loop, the longest computed {longest:.3f} s")
    assert longest < 1.0


@pytest.mark.parametrize("route", sorted(body_mutations.BASES))
async def test_no_body_breaks_the_engine(dense: Asker, route: str) -> None:
    before = (await dense.chat()).text
    fields, limits = dense.engine._routes._handlers[route].body.fields, Gateway()
    bodies = itertools.islice(body_mutations.mutated(route, fields, seed=11), MUTATIONS)
    seen: Counter[int] = Counter()

    async def one_after_the_other() -> None:
        for body in bodies:
            try:
                check_shape(body, limits, route)  # type: ignore[arg-type]
            except ConsiliumError:
                continue
            async with asyncio.timeout(LONGEST_S):
                said = await dense.ask(route, **body)
            seen[said.head.status] += 1
            assert said.head.status in {200, 400, 404, 501}, (said.body, body)
            if said.head.status != 200:
                refused(said.json["error"])
            for event in said.events if said.head.stream else ():
                if event.get("error"):
                    refused(event["error"])
                    assert event["error"]["code"] != "internal", body

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one_after_the_other())
    assert seen[400] > MUTATIONS / 3
    assert seen[501 if route == "embeddings" else 200] > MUTATIONS / 20
    assert (await dense.chat()).text == before
    assert dense.engine.load() == {"streams": 0, "unfinished": 0}

"""What a model cannot do is left out, or refused with the setting that would change it."""

import pytest

from consilium.engine.answerable import Abilities, answerable
from consilium.engine.ports import Call
from consilium.kernel.errors import ConsiliumError

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
FLAT = {"type": "function", "name": "f", "parameters": {}}
NONE = Abilities(calls_tools=False)
GREEDY = Abilities(greedy=True)


def call(route="chat", **body):
    return Call("1", route, {"model": "m", **body})


@pytest.mark.parametrize(
    "asked",
    [
        call(tools=[TOOL]),
        call(tools=[TOOL], tool_choice="auto", stream=True),
        call(tools=[TOOL], tool_choice=None),
        call("responses", tools=[FLAT], input="x"),
        call("responses", tools=[FLAT, {"type": "web_search"}], tool_choice="auto"),
        call("responses", tools=[FLAT], tool_choice={"type": "allowed_tools", "mode": "auto"}),
    ],
)
def test_a_model_that_calls_no_tools_answers_without_where_it_has_the_choice(asked):
    found = answerable(asked, NONE, executor="core")
    assert not {"tools", "tool_choice"} & set(found.call.body)
    assert found.tools_left_out
    assert "engine.tool_parser" in found.note
    assert {"tools"} <= set(asked.body), "the caller's body stays as it is"


@pytest.mark.parametrize("route", ["chat", "responses"])
@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f"},
        {"type": "allowed_tools", "mode": "required", "tools": [FLAT]},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
    ],
)
def test_a_call_that_is_demanded_is_refused_with_the_setting(route, choice):
    asked = call(route, tools=[TOOL], tool_choice=choice)
    for executor, key in (("core", "engine"), ("clerk", "executors.clerk.engine")):
        with pytest.raises(ConsiliumError) as caught:
            answerable(asked, NONE, executor=executor)
        assert caught.value.code == "invalid_request"
        assert f"{key}.tool_parser" in caught.value.public()
        assert "--" not in caught.value.public()


@pytest.mark.parametrize(
    "asked",
    [
        call(tools=[]),
        call(tools=None),
        call(),
        call(tools=[TOOL], tool_choice="none"),
        call("completions", prompt="x", tools=[TOOL]),
    ],
)
def test_what_needs_no_parser_goes_on_as_it_is(asked):
    assert answerable(asked, NONE, executor="core").call is asked


def test_a_model_that_calls_tools_gets_them():
    asked = call(tools=[TOOL], tool_choice="required")
    assert answerable(asked, Abilities(), executor="core").call is asked


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_several_answers_are_drawn_where_only_the_models_default_is_greedy(route):
    found = answerable(call(route, n=2), GREEDY, executor="core")
    assert found.call.body["temperature"] == 1.0
    assert "temperature 1" in found.note
    assert not found.tools_left_out


@pytest.mark.parametrize(
    ("able", "body"),
    [
        (GREEDY, {"n": 2, "temperature": 0}),
        (GREEDY, {"n": 2, "temperature": 0.5}),
        (GREEDY, {"n": 2, "use_beam_search": True}),
        (GREEDY, {"n": 1}),
        (GREEDY, {}),
        (GREEDY, {"n": "2"}),
        (Abilities(), {"n": 2}),
    ],
)
def test_a_wish_of_the_callers_stays(able, body):
    asked = call(**body)
    assert answerable(asked, able, executor="core").call is asked

"""The vocabulary of generation.proto against that of OpenAI."""

import json

import pytest

from consilium.gateway import grpc_events, grpc_request
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb


def chat(*texts):
    return pb.Chat(
        messages=[
            pb.Message(author=pb.AUTHOR_USER, content=[pb.ContentPart(text=text)]) for text in texts
        ]
    )


def test_a_chat_becomes_an_openai_body():
    request = pb.GenerateRequest(
        model="role/x",
        chat=chat("hello"),
        sampling=pb.Sampling(max_tokens=5, temperature=0.7, seed=3, stop=["END"], top_logprobs=2),
        tools=[pb.Tool(name="look", description="d", parameters_json='{"type":"object"}')],
        tool_name="look",
        role="r",
        profile="think",
        thinking=True,
        thinking_budget=64,
        extra_json='{"logit_bias":{"1":2},"stream":false,"n":4,"consilium":{"receipt":true,"role":"old"},"chat_template_kwargs":{"a":1}}',
    )
    route, body = grpc_request.generation(request)
    assert route == "chat"
    assert body == {
        "model": "role/x",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.7,
        "seed": 3,
        "stop": ["END"],
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "d", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "consilium": {"receipt": True, "role": "r", "profile": "think"},
        "chat_template_kwargs": {"a": 1, "enable_thinking": True},
        "thinking_token_budget": 64,
        "logit_bias": {"1": 2},
        "n": 4,
    }


def test_a_prompt_becomes_a_completion():
    route, body = grpc_request.generation(
        pb.GenerateRequest(prompt="once", sampling=pb.Sampling(top_logprobs=1, temperature=0))
    )
    assert route == "completions"
    assert body == {
        "model": "auto",
        "prompt": "once",
        "stream": True,
        "logprobs": 1,
        "temperature": 0.0,
    }


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (pb.OutputFormat(json_object=True), {"response_format": {"type": "json_object"}}),
        (pb.OutputFormat(json_object=False), {}),
        (
            pb.OutputFormat(json_schema='{"type":"object"}', name="n", strict=True),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (pb.OutputFormat(regex="a+"), {"structured_outputs": {"regex": "a+"}}),
        (pb.OutputFormat(grammar="root ::= x"), {"structured_outputs": {"grammar": "root ::= x"}}),
    ],
)
def test_the_shape_of_the_answer(shape, wanted):
    _, body = grpc_request.generation(pb.GenerateRequest(prompt="x", output_format=shape))
    assert {
        key: value for key, value in body.items() if key not in {"model", "prompt", "stream"}
    } == wanted


def test_messages_of_every_kind():
    messages = [
        pb.Message(
            author=pb.AUTHOR_ASSISTANT,
            reasoning="hm",
            tool_calls=[pb.ToolCall(id="c1", name="look", arguments_json="{}")],
        ),
        pb.Message(
            author=pb.AUTHOR_TOOL,
            content=[pb.ContentPart(text="found")],
            tool_call_id="c1",
            name="look",
        ),
        pb.Message(
            author=pb.AUTHOR_USER,
            content=[
                pb.ContentPart(text="see"),
                pb.ContentPart(image=pb.Image(data=b"\x89PNGx")),
                pb.ContentPart(image=pb.Image(url="http://a/b")),
            ],
        ),
    ]
    _, body = grpc_request.generation(pb.GenerateRequest(chat=pb.Chat(messages=messages)))
    assistant, tool, user = body["messages"]
    assert assistant == {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        ],
    }
    assert tool == {"role": "tool", "content": "found", "name": "look", "tool_call_id": "c1"}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "image_url"]
    assert user["content"][1]["image_url"]["url"] == "data:image/png;base64,iVBOR3g="


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GenerateRequest(), "input"),
        (pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message()])), "chat.messages[0].author"),
        (pb.GenerateRequest(prompt="x", extra_json="[]"), "extra_json"),
        (pb.GenerateRequest(prompt="x", extra_json="{" * 100_000), "extra_json"),
        (
            pb.GenerateRequest(prompt="x", tools=[pb.Tool(name="t", parameters_json="no")]),
            "tools[0].parameters_json",
        ),
        (
            pb.GenerateRequest(prompt="x", extra_json='{"a":' + "[" * 64 + "]" * 64 + "}"),
            "extra_json",
        ),
        (pb.GenerateRequest(prompt="x", extra_json='{"user":"\\ud800"}'), "extra_json"),
        (
            pb.GenerateRequest(prompt="x", output_format=pb.OutputFormat(json_schema="")),
            "output_format.json_schema",
        ),
    ],
)
def test_what_is_wrong_is_named(request_, field):
    with pytest.raises(ConsiliumError) as raised:
        grpc_request.generation(request_)
    assert raised.value.code == "invalid_request"
    assert raised.value.fields["field"] == field


@pytest.mark.parametrize(
    ("options", "extra", "gone", "kept"),
    [
        (
            {"sampling": pb.Sampling(max_tokens=5)},
            {"max_completion_tokens": 9},
            {"max_completion_tokens"},
            {"max_tokens": 5},
        ),
        ({}, {"max_completion_tokens": 9}, set(), {"max_completion_tokens": 9}),
        (
            {"output_format": pb.OutputFormat(regex="a")},
            {"response_format": {"type": "json_object"}},
            {"response_format"},
            {"structured_outputs": {"regex": "a"}},
        ),
        (
            {"output_format": pb.OutputFormat(json_object=True)},
            {"structured_outputs": {"regex": "a"}},
            {"structured_outputs"},
            {},
        ),
        (
            {},
            {"messages": [], "prompt": "y", "n": 2, "stream": False},
            {"messages"},
            {"prompt": "x", "n": 2, "stream": True},
        ),
    ],
)
def test_a_field_of_the_message_wins_over_other_words_for_it(options, extra, gone, kept):
    _, body = grpc_request.generation(
        pb.GenerateRequest(prompt="x", extra_json=json.dumps(extra), **options)
    )
    assert not gone & body.keys()
    assert kept.items() <= body.items()


def test_events_become_messages_and_a_last_one():
    events = grpc_events.Events()
    stream = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning": "hm"}}]},
        {
            "choices": [
                {
                    "delta": {"content": "yes"},
                    "logprobs": {
                        "content": [
                            {
                                "token": "yes",
                                "logprob": -0.5,
                                "bytes": [121],
                                "top_logprobs": [{"token": "no", "logprob": -2.0}],
                            }
                        ]
                    },
                }
            ]
        },
        {
            "choices": [
                {
                    "delta": {
                        "tool_calls": [
                            {"index": 1, "id": "c", "function": {"name": "f", "arguments": "{"}}
                        ]
                    },
                    "finish_reason": "tool_calls",
                    "stop_reason": "END",
                }
            ]
        },
        {
            "choices": [],
            "consilium": {
                "receipt": {
                    "id": "r1",
                    "created": 10.5,
                    "executor": "core",
                    "model": "qwen",
                    "timings": {"gateway": 1.0, "first_byte": 3.0, "total": 9.0},
                    "notes": ["n"],
                }
            },
        },
    ]
    made = [message for event in stream for message in events.take(event)]
    assert [message.WhichOneof("event") for message in made] == [
        "reasoning",
        "text",
        "logprobs",
        "tool_call",
    ]
    assert made[2].logprobs.tokens[0].top[0].token == "no"
    final = events.final({"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}).final
    assert final.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert final.stop_text == "END"
    assert (final.usage.prompt_tokens, final.usage.cached_tokens) == (3, 1)
    assert final.receipt.id == "r1"
    assert [step.name for step in final.receipt.steps] == [
        "received",
        "note",
        "executor_chosen",
        "first_token",
        "done",
    ]
    assert final.receipt.created.ToMilliseconds() == 10_491
    assert final.receipt.model == "qwen"
    assert json.loads(final.receipt.json)["executor"] == "core"


def test_logprobs_of_a_completion():
    events = grpc_events.Events()
    (said, found) = events.take(
        {
            "choices": [
                {
                    "text": "ab",
                    "logprobs": {
                        "tokens": ["a", "b"],
                        "token_logprobs": [None, -1.0],
                        "top_logprobs": [None, {"c": -3.0}],
                    },
                }
            ]
        }
    )
    assert said.text == "ab"
    assert [token.token for token in found.logprobs.tokens] == ["a", "b"]
    assert found.logprobs.tokens[1].top[0].logprob == -3.0


def test_an_error_event_is_raised():
    with pytest.raises(ConsiliumError) as raised:
        list(
            grpc_events.Events().take(
                {"error": {"code": "deadline", "message": "The deadline has passed."}}
            )
        )
    assert raised.value.code == "deadline"

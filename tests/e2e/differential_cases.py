"""The requests that are put to the bare vLLM server and to our cluster alike.

Each case: route, body. `$MODEL` stands for the model's name. Bad values are part of it: both must refuse them in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `stream` says whether the answer is server-sent events."""

    name: str
    route: str
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        return self.body.get("stream") is True


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
        },
    },
}
SCHEMA = {
    "name": "answer",
    "schema": {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    },
}

USER = [{"role": "user", "content": "Say something about rivers."}]

# Each varies one thing against a short greedy answer.
CHAT_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("one token", {"max_tokens": 1}),
    ("max_completion_tokens", {"max_completion_tokens": 5}),
    ("system", {"messages": [{"role": "system", "content": "Be brief."}, *USER]}),
    (
        "history",
        {
            "messages": [
                *USER,
                {"role": "assistant", "content": "They flow."},
                {"role": "user", "content": "Where to?"},
            ]
        },
    ),
    (
        "parts",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
                }
            ]
        },
    ),
    ("russian", {"messages": [{"role": "user", "content": "Расскажи о реках. Ёж."}]}),
    ("emoji", {"messages": [{"role": "user", "content": "\U0001f30a \u200d \u0000x"}]}),
    ("seed and temperature", {"temperature": 0.7, "seed": 11}),
    ("top_p", {"temperature": 0.9, "top_p": 0.5, "seed": 3}),
    ("top_k", {"temperature": 0.9, "top_k": 4, "seed": 3}),
    ("min_p", {"temperature": 0.9, "min_p": 0.1, "seed": 3}),
    ("penalties", {"presence_penalty": 0.5, "frequency_penalty": 0.5}),
    ("repetition", {"repetition_penalty": 1.2}),
    ("stop string", {"stop": ["e", "a"]}),
    ("stop single", {"stop": " "}),
    ("include stop", {"stop": ["e"], "include_stop_str_in_output": True}),
    ("stop tokens", {"stop_token_ids": [5, 6, 7]}),
    ("ignore eos", {"ignore_eos": True}),
    ("min tokens", {"min_tokens": 4}),
    ("logprobs", {"logprobs": True, "top_logprobs": 3}),
    ("logprobs zero", {"logprobs": True}),
    ("n two", {"n": 2, "temperature": 0.8, "seed": 5}),
    ("logit bias", {"logit_bias": {"10": 50}}),
    ("tools auto", {"tools": [WEATHER], "tool_choice": "auto"}),
    ("tools none", {"tools": [WEATHER], "tool_choice": "none"}),
    (
        "tools named",
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
            "max_tokens": 24,
        },
    ),
    ("tools required", {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 24}),
    (
        "json schema",
        {"response_format": {"type": "json_schema", "json_schema": SCHEMA}, "max_tokens": 24},
    ),
    ("json object", {"response_format": {"type": "json_object"}, "max_tokens": 24}),
    ("structured choice", {"structured_outputs": {"choice": ["red", "green"]}}),
    ("structured regex", {"structured_outputs": {"regex": "[a-c]{3}"}}),
    ("no thinking", {"chat_template_kwargs": {"enable_thinking": False}}),
    ("echo", {"echo": True}),
    (
        "continue",
        {
            "messages": [*USER, {"role": "assistant", "content": "They"}],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    ("token ids", {"return_token_ids": True}),
    ("user field", {"user": "somebody"}),
    ("unknown field", {"surprise": 1}),
    ("truncate", {"truncate_prompt_tokens": 8}),
    ("skip special off", {"skip_special_tokens": False}),
)

CHAT_BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no messages", {"messages": None}),
    ("empty messages", {"messages": []}),
    ("messages string", {"messages": "hello"}),
    ("message without role", {"messages": [{"content": "x"}]}),
    ("content number", {"messages": [{"role": "user", "content": 5}]}),
    ("temperature string", {"temperature": "hot"}),
    ("temperature negative", {"temperature": -1}),
    ("top_p two", {"top_p": 2}),
    ("max_tokens zero", {"max_tokens": 0}),
    ("max_tokens negative", {"max_tokens": -3}),
    ("max_tokens string", {"max_tokens": "many"}),
    ("n zero", {"n": 0}),
    ("penalty range", {"presence_penalty": 9}),
    ("top_logprobs alone", {"top_logprobs": 3}),
    ("top_logprobs many", {"logprobs": True, "top_logprobs": 99}),
    ("bad response format", {"response_format": {"type": "poem"}}),
    (
        "bad schema",
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nothing"}},
            }
        },
    ),
    ("bad regex", {"structured_outputs": {"regex": "["}}),
    ("structured outputs number", {"structured_outputs": 1}),
    (
        "schema, streamed",
        {
            "stream": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nothing"}},
            },
        },
    ),
    (
        "bad tool choice",
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
    ),
    ("tool choice without tools", {"tool_choice": "required"}),
    ("stream options alone", {"stream_options": {"include_usage": True}}),
    ("logit bias word", {"logit_bias": {"word": 1}}),
    (
        "image to a text model",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
                    ],
                }
            ]
        },
    ),
    ("too long", {"messages": [{"role": "user", "content": "river " * 6000}]}),
    ("answer too long", {"max_tokens": 1_000_000}),
)

TEXT_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain", {}),
    ("list", {"prompt": ["A river", "A lake"]}),
    ("tokens", {"prompt": [5, 6, 7, 8]}),
    ("token lists", {"prompt": [[5, 6, 7], [8, 9]]}),
    ("echo", {"echo": True}),
    ("echo only", {"echo": True, "max_tokens": 0}),
    ("logprobs", {"logprobs": 2}),
    ("prompt logprobs", {"prompt_logprobs": 1}),
    ("stop", {"stop": ["a", "e"]}),
    ("n two", {"n": 2, "temperature": 0.8, "seed": 5}),
    ("seed", {"temperature": 1, "seed": 2}),
    ("suffix", {"suffix": " end"}),
    ("choice", {"structured_outputs": {"choice": ["red", "green"]}}),
    ("min tokens", {"min_tokens": 3}),
)

TEXT_BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("no prompt", {"prompt": None}),
    ("empty prompt", {"prompt": ""}),
    ("prompt number", {"prompt": 5}),
    ("token out of range", {"prompt": [99_999_999]}),
    ("temperature string", {"temperature": "hot"}),
    ("logprobs many", {"logprobs": 999}),
    ("max_tokens negative", {"max_tokens": -1}),
    ("too long", {"prompt": "river " * 6000}),
)


def cases() -> list[Case]:
    """Return all cases: each variant plain and streamed, the streamed ones with usage as well."""
    out: list[Case] = []
    for kind, route, base, good, bad in (
        (
            "chat",
            CHAT,
            {"model": "$MODEL", "messages": USER, "max_tokens": 8, "temperature": 0},
            CHAT_VARIANTS,
            CHAT_BAD,
        ),
        (
            "text",
            TEXT,
            {"model": "$MODEL", "prompt": "A river is", "max_tokens": 8, "temperature": 0},
            TEXT_VARIANTS,
            TEXT_BAD,
        ),
    ):
        for name, change in good:
            body = {**base, **change}
            out.append(Case(f"{kind} {name}", route, body))
            out.append(Case(f"{kind} {name}, streamed", route, {**body, "stream": True}))
        for name, change in bad:
            out.append(
                Case(
                    f"{kind} bad {name}",
                    route,
                    {k: v for k, v in {**base, **change}.items() if v is not None},
                )
            )
        out.append(
            Case(
                f"{kind} streamed with usage",
                route,
                {**base, "stream": True, "stream_options": {"include_usage": True}},
            )
        )
        out.append(
            Case(
                f"{kind} usage in each chunk",
                route,
                {
                    **base,
                    "stream": True,
                    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
                },
            )
        )
        out.append(
            Case(
                f"{kind} bad value, streamed", route, {**base, "stream": True, "temperature": "hot"}
            )
        )
    out += [
        Case("tokenize text", "/tokenize", {"model": "$MODEL", "prompt": "A river"}),
        Case("tokenize chat", "/tokenize", {"model": "$MODEL", "messages": USER}),
        Case(
            "tokenize with words",
            "/tokenize",
            {"model": "$MODEL", "prompt": "A river", "return_token_strs": True},
        ),
        Case("tokenize bad", "/tokenize", {"model": "$MODEL"}),
        Case("detokenize", "/detokenize", {"model": "$MODEL", "tokens": [5, 6, 7]}),
        Case("detokenize bad", "/detokenize", {"model": "$MODEL", "tokens": "x"}),
    ]
    return out

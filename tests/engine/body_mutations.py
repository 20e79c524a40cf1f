"""Bodies that no careful client sends: good ones with something in them replaced by junk. The same seed makes the same bodies.

Fields come from vLLM's own models, so that a new version is tried with its new fields.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "w", "parameters": SCHEMA},
}
TEXT = [{"type": "text", "text": "Hello"}]
DEEP: Any = 1
for _ in range(60):  # the gateway lets 64 levels through
    DEEP = [DEEP] if _ % 2 else {"a": DEEP}

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, -(2**63) - 1, 2**64, 10**400,
    "", " ", "x", "1", "nan", "\x00", "\ud800", "😀", "auto", "none", "required", "[", "root ::= ", "a" * 20_000, "../../etc/passwd", "{{ 1/0 }}", "null",
    [], [None], [1], ["x"], [[]], [{}], [1, "x", None], [[1], ["x"]], ["x"] * 300, list(range(300)), [float("nan")], [-1], [2**63], [True],
    {}, {"a": 1}, {"": ""}, {"type": "x"}, {"type": 1}, {"type": None}, {"name": "x"}, {"type": "function"}, {"type": "function", "function": 1},
    {"type": "text"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": 1}, {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}, {"type": "json_schema", "name": "x", "schema": {"type": 7}},
    {"type": "structural_tag"}, {"type": "structural_tag", "format": 1}, {"type": "structural_tag", "structures": [], "triggers": []},
    {"json": 1}, {"json": "{"}, {"json": {"type": "nothing"}}, {"json": {"$ref": "#/a"}}, {"json": {"$ref": "#"}}, {"json": DEEP}, {"regex": "("}, {"regex": 1},
    {"regex": "(a+)+$"}, {"choice": 1}, {"choice": []}, {"choice": [1]}, {"choice": [""]}, {"grammar": "root ::= "}, {"grammar": ""}, {"grammar": "x"},
    {"grammar": 'root ::= root "a"'}, {"json_object": False}, {"structural_tag": "{}"}, {"structural_tag": 1}, {"json": {}, "regex": "a"},
    {"1": 1}, {"1": "x"}, {"x": 1}, {"99999999": 5}, {"1": float("nan")}, {"role": "user"}, {"role": 1, "content": 1}, {"role": "tool", "content": None},
    {"enable_thinking": "x"}, {"add_generation_prompt": []}, {"include_usage": "x"}, {"effort": "x"}, {"format": 1}, {"format": {"type": "grammar"}},
    DEEP, {str(number): number for number in range(300)},
)  # fmt: skip

BASES: dict[str, tuple[dict[str, Any], ...]] = {
    "chat": (
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"messages": [{"role": "system", "content": TEXT}, {"role": "user", "content": TEXT}], "stream": True, "stream_options": {"include_usage": True}},
        {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "tool_choice": "required", "stream": True},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "stream": True},
        {"messages": [{"role": "user", "content": "x"}], "structured_outputs": {"json": SCHEMA}, "logprobs": True, "top_logprobs": 2},
    ),
    "completions": (
        {"prompt": "Hello"},
        {"prompt": ["one", "two"], "stream": True},
        {"prompt": [5, 6, 7], "structured_outputs": {"regex": "[ab]{2}"}, "logprobs": 1, "echo": True},
        {"prompt": "x", "response_format": {"type": "json_object"}, "stream": True},
    ),
    "responses": (
        {"input": "Hello"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}], "instructions": "Be brief.", "stream": True},
        {"input": [{"role": "user", "content": "x"}, {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"}, {"type": "function_call_output", "call_id": "1", "output": "x"}]},
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}, "stream": True},
        {"input": "x", "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}], "tool_choice": "auto", "reasoning": {"effort": "low"}},
    ),
    "embeddings": (
        {"input": "Hello"},
        {"input": ["one", "two"], "encoding_format": "base64"},
        {"messages": [{"role": "user", "content": "x"}]},
    ),
    "tokenize": (
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": TEXT}], "tools": [TOOL]},
    ),
    "detokenize": ({"tokens": [5, 6, 7]},),
}  # fmt: skip
LENGTHS = {
    "chat": {"max_tokens": 2},
    "completions": {"max_tokens": 2},
    "responses": {"max_output_tokens": 2},
}


def mutated(route: str, fields: frozenset[str], seed: int) -> Iterator[dict[str, Any]]:
    """Yield bodies without end: one to three places of a good body are junk."""
    chance, names = random.Random(f"{route} {seed}"), sorted(fields - {"model", "request_id"})
    while True:
        body = copy.deepcopy({**chance.choice(BASES[route]), **LENGTHS.get(route, {})})
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            if not body or chance.random() < 0.5:
                body[chance.choice(names)] = _junk(chance)
            else:
                _replace(body, chance)
        yield body


def _junk(chance: random.Random) -> Any:
    found = copy.deepcopy(chance.choice(JUNK))
    if chance.random() < 0.15:
        found = [found] if chance.random() < 0.5 else {chance.choice(("type", "x", "1")): found}
    return found


def _replace(body: dict[str, Any], chance: random.Random) -> None:
    """Replace, take out or repeat something at a random depth."""
    at: Any = body
    key: Any = chance.choice(list(body))
    while isinstance(at[key], dict | list) and at[key] and chance.random() < 0.75:
        at = at[key]
        key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
    what = chance.random()
    if what < 0.7:
        at[key] = _junk(chance)
    elif what < 0.85:
        del at[key]
    elif isinstance(at, list):
        at.append(copy.deepcopy(at[key]))
    else:
        at[f"{key}_"] = at[key]

"""LiteLLM, unmodified, as a library: the way of aider and of whatever else stands on it."""

import json
import os

import litellm
from openai import APIStatusError

BASE = {
    "api_base": os.environ["BASE_URL"],
    "api_key": os.environ["KEY"],
    "max_retries": 0,
}
SAY = [{"role": "user", "content": "Say something."}]
SHAPED = "openai/role/quick"  # its profile does not think, as a model of random weights would until its answer is full
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
report = {}


def chat(model="openai/base", **more):
    return litellm.completion(model=model, messages=SAY, **{**BASE, **more})


report["models"] = litellm.get_valid_models(
    check_provider_endpoint=True,
    custom_llm_provider="openai",
    api_base=BASE["api_base"].removesuffix("/v1"),
    api_key=BASE["api_key"],
)
report["chat"] = chat(max_tokens=4).usage.completion_tokens
report["chunks"] = sum(1 for _ in chat(max_tokens=4, stream=True))
called = chat(
    SHAPED,
    max_tokens=1024,
    tools=[
        {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}
    ],
    tool_choice={"type": "function", "function": {"name": "weather"}},
)
call = called.choices[0].message.tool_calls[0].function
report["tool"] = [call.name, json.loads(call.arguments)["city"]]
shaped = chat(
    SHAPED,
    max_tokens=1024,
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": CITY, "strict": True},
    },
)
report["structured"] = json.loads(shaped.choices[0].message.content)["city"]
vectors = litellm.embedding(
    model="openai/text-embedding-3-small", input=["a text", "another"], **BASE
)
report["embeddings"] = [len(row["embedding"]) for row in vectors.data]
report["errors"] = []
for wrong in (
    {"api_key": "csl_none_none"},
    {"model": "openai/nope"},
    {"model": "openai/text-embedding-3-small"},
):
    try:
        chat(**wrong)
    except APIStatusError as error:
        report["errors"].append([type(error).__name__, error.status_code])
for _ in chat(max_tokens=2000, stream=True):
    break
print(json.dumps(report))

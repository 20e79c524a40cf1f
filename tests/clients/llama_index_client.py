"""LlamaIndex's OpenAI-like model and embedding, unmodified."""

import json
import os

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from openai import APIStatusError

SAY = [ChatMessage(role="user", content="Say something.")]


def model(name="base", **more):
    given = {"max_tokens": 1024, "is_chat_model": True, "is_function_calling_model": True, **more}
    return OpenAILike(
        model=name,
        api_base=os.environ["BASE_URL"],
        api_key=os.environ["KEY"],
        max_retries=0,
        context_window=2048,
        **given,
    )


def weather(number: int) -> str:
    """Tell the weather of a day."""
    return f"{number}"


report = {}
report["chat"] = model(max_tokens=4).chat(SAY).raw.usage.completion_tokens
report["chunks"] = sum(1 for _ in model(max_tokens=4).stream_chat(SAY))
llm = model("role/quick", strict=True)  # its profile does not think
called = llm.chat_with_tools(
    [FunctionTool.from_defaults(weather)], user_msg="Say something.", tool_required=True
)
calls = llm.get_tool_calls_from_response(called, error_on_no_tool_call=False)
report["tool"] = [call.tool_name for call in calls][:1]
vectors = OpenAILikeEmbedding(
    model_name="text-embedding-3-small",
    api_base=os.environ["BASE_URL"],
    api_key=os.environ["KEY"],
    max_retries=0,
)
report["embeddings"] = [len(row) for row in vectors.get_text_embedding_batch(["a text", "another"])]
try:
    model("text-embedding-3-small").chat(SAY)
except APIStatusError as error:
    report["error"] = [type(error).__name__, error.status_code]
print(json.dumps(report))

"""From the messages of generation.proto to the OpenAI bodies that turn.py plays.

Knows both vocabularies. Does not know what a field does: what is wrong in a value is told by the engine, in the same words as over HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from consilium.engine.ports import Route
from consilium.gateway.asgi import parse_object
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb

Json: TypeAlias = dict[str, Any]

_AUTHORS: Final = {
    pb.AUTHOR_SYSTEM: "system",
    pb.AUTHOR_USER: "user",
    pb.AUTHOR_ASSISTANT: "assistant",
    pb.AUTHOR_TOOL: "tool",
}
_CHOICES: Final = {
    pb.TOOL_CHOICE_AUTO: "auto",
    pb.TOOL_CHOICE_NONE: "none",
    pb.TOOL_CHOICE_REQUIRED: "required",
}
_SAMPLING: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
)
_FLOATS: Final = frozenset(
    {"temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"}
)
_OURS: Final = ("role", "profile", "executor")
_DEPTH: Final = 64
"""Levels that a JSON text in a message may nest, where the configuration names no other number."""
_INPUTS: Final = frozenset({"messages", "prompt"})
_SHAPES: Final = frozenset({"response_format", "structured_outputs"})
_LIMITS: Final = frozenset({"max_completion_tokens"})
_SIGNATURES: Final = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


def generation(request: pb.GenerateRequest, max_depth: int = _DEPTH) -> tuple[Route, Json]:
    """Return the route (chat | completions) and the OpenAI body. Raises ConsiliumError(invalid_request) with the field."""
    body = _extra(request, max_depth)
    route, given = prompt(request)
    body |= given
    body |= {"model": request.model or "auto", "stream": True}
    body |= _sampling(request.sampling, route)
    body |= _tools(request, max_depth)
    body |= _format(request, max_depth)
    ours = dict(body["consilium"]) if isinstance(body.get("consilium"), dict) else {}
    ours |= {name: getattr(request, name) for name in _OURS if request.HasField(name)}
    if ours:
        body["consilium"] = ours
    if request.HasField("thinking"):
        known = body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {
            **(known if isinstance(known, dict) else {}),
            "enable_thinking": request.thinking,
        }
    if request.HasField("thinking_budget"):
        body["thinking_token_budget"] = request.thinking_budget
    if request.HasField("end_user"):
        body["user"] = request.end_user
    return route, body


def counting(request: pb.CountTokensRequest, max_depth: int = _DEPTH) -> Json:
    """Return the body of /tokenize. Raises ConsiliumError(invalid_request) with the field."""
    _, body = prompt(request)
    body["model"] = request.model or "auto"
    if request.tools:
        body["tools"] = _functions(request.tools, max_depth)
    return body


def prompt(request: pb.GenerateRequest | pb.CountTokensRequest) -> tuple[Route, Json]:
    """Return the route and the part of the body that the model goes on from."""
    which = request.WhichOneof("input")
    if which == "prompt":
        return "completions", {"prompt": request.prompt}
    if which == "chat":
        return "chat", {
            "messages": [
                _message(message, number) for number, message in enumerate(request.chat.messages)
            ]
        }
    raise _bad("input", "it is not set; give chat or prompt")


def _message(message: pb.Message, number: int) -> Json:
    role = _AUTHORS.get(message.author)
    if role is None:
        raise _bad(
            f"chat.messages[{number}].author",
            "it is not set; it must be system, user, assistant or tool",
        )
    made: Json = {"role": role, "content": _content(message.content)}
    if message.HasField("name"):
        made["name"] = message.name
    if message.HasField("tool_call_id"):
        made["tool_call_id"] = message.tool_call_id
    if message.HasField("reasoning"):
        made["reasoning"] = message.reasoning
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in message.tool_calls
        ]
        made["content"] = made["content"] or None
    return made


def _content(parts: Iterable[pb.ContentPart]) -> str | list[Json]:
    made = [_part(part) for part in parts]
    if not made:
        return ""
    if len(made) == 1 and made[0]["type"] == "text":
        return str(made[0]["text"])
    return made


def _part(part: pb.ContentPart) -> Json:
    if part.WhichOneof("part") != "image":
        return {"type": "text", "text": part.text}
    image = part.image
    if image.WhichOneof("source") == "url":
        return {"type": "image_url", "image_url": {"url": image.url}}
    media = image.media_type or next(
        (media for begin, media in _SIGNATURES if image.data.startswith(begin)), "image/webp"
    )
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{media};base64,{base64.b64encode(image.data).decode('ascii')}"},
    }


def _sampling(sampling: pb.Sampling, route: Route) -> Json:
    made: Json = {}
    for name in _SAMPLING:
        if sampling.HasField(name):
            value = getattr(sampling, name)
            made[name] = (
                round(value, 6) if name in _FLOATS else value
            )  # a float32 says 0.699999988 for 0.7
    if sampling.stop:
        made["stop"] = list(sampling.stop)
    if sampling.HasField("top_logprobs"):
        made |= (
            {"logprobs": True, "top_logprobs": sampling.top_logprobs}
            if route == "chat"
            else {"logprobs": sampling.top_logprobs}
        )
    return made


def _tools(request: pb.GenerateRequest, max_depth: int) -> Json:
    made: Json = {"tools": _functions(request.tools, max_depth)} if request.tools else {}
    if request.HasField("tool_name"):
        made["tool_choice"] = {"type": "function", "function": {"name": request.tool_name}}
    elif request.tool_choice in _CHOICES:
        made["tool_choice"] = _CHOICES[request.tool_choice]
    return made


def _functions(tools: Iterable[pb.Tool], max_depth: int) -> list[Json]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": _json(
                    tool.parameters_json or "{}", f"tools[{number}].parameters_json", max_depth
                ),
            },
        }
        for number, tool in enumerate(tools)
    ]


def _format(request: pb.GenerateRequest, max_depth: int) -> Json:
    shape = request.output_format
    which = shape.WhichOneof("format")
    if which == "json_object":
        return {"response_format": {"type": "json_object"}} if shape.json_object else {}
    if which == "json_schema":
        schema: Json = {
            "name": shape.name or "answer",
            "schema": _json(shape.json_schema, "output_format.json_schema", max_depth),
        }
        if shape.HasField("strict"):
            schema["strict"] = shape.strict
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if which in {"regex", "grammar"}:
        return {"structured_outputs": {which: getattr(shape, which)}}
    return {}


def _extra(request: pb.GenerateRequest, max_depth: int) -> Json:
    """Return the further fields, without those that a field of the message says in other words."""
    if not request.HasField("extra_json"):
        return {}
    # How the answer is sent and what it begins with are this interface's own. With n above 1, `choice` says which answer a message belongs to.
    hidden = {"stream", "stream_options", *_INPUTS}
    if request.sampling.HasField("max_tokens"):
        hidden |= _LIMITS
    if request.output_format.WhichOneof("format") is not None:
        hidden |= _SHAPES
    return {
        key: value
        for key, value in _json(request.extra_json, "extra_json", max_depth).items()
        if key not in hidden
    }


def _json(text: str, name: str, max_depth: int) -> Json:
    try:
        return parse_object(text.encode(), max_depth)
    except ConsiliumError as error:
        raise _bad(name, str(error.fields["reason"])) from None


def _bad(name: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=name, reason=reason)

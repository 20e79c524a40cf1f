"""A request with tools to a model that cannot call any: it has no tool parser.

Left to itself vLLM refuses it in one route and ignores the tools without a word in the other. Here both routes do the same: where calling a tool was the model's
choice, it answers without; where a call was demanded, the request is refused and the setting is named. Pure. Does not know vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.engine.ports import CORE, Json, Route
from consilium.kernel.errors import ConsiliumError

ROUTES: Final[frozenset[Route]] = frozenset({"chat", "responses"})
_OF_TOOLS: Final = frozenset({"tools", "tool_choice"})


def without_tools(body: Json, route: Route, *, executor: str) -> Json | None:
    """Return the body without its tools, or None where it may go on as it is.

    Raises ConsiliumError(invalid_request) where the caller demands a call.
    """
    if route not in ROUTES or not body.get("tools"):
        return None
    choice = body.get("tool_choice")
    if (
        choice == "none"
    ):  # the tools may stand in the prompt; nothing has to be read from the answer
        return None
    if _demands(choice):
        raise ConsiliumError(
            "invalid_request",
            field="tool_choice",
            reason=f"a tool call is demanded, and the model has no tool parser: its chat template shows it no tools, or {setting(executor)} is 'none'."
            f" Set {setting(executor)} (and chat_template beside it), or send tool_choice 'auto' for an answer without tools",
        )
    return {key: value for key, value in body.items() if key not in _OF_TOOLS}


def setting(executor: str) -> str:
    """Return the key of an executor's tool parser in the configuration."""
    return f"{settings_key(executor)}.tool_parser"


def settings_key(executor: str) -> str:
    """Return where the settings of an executor's engine stand in the configuration."""
    return "engine" if executor == CORE else f"executors.{executor}.engine"


def _demands(choice: object) -> bool:
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")  # chat nests it, responses does not
        mode = (inner if isinstance(inner, Mapping) else choice).get("mode")
        return mode == "required"
    return choice not in (None, "auto")

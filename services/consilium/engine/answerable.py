"""A call as this model can answer it: what it cannot do is left out or refused before vLLM sees the body.

Puts the rules of tool_choice.py and several_choices.py together. Pure. Does not know vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from consilium.engine import several_choices, tool_choice
from consilium.engine.ports import Call


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a running engine knows of its model.

    calls_tools  it has a tool parser
    greedy       its own default is the likeliest token
    """

    calls_tools: bool = True
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Answerable:
    """The call, what was changed in words for the receipt, and whether its tools were left out."""

    call: Call
    note: str = ""
    tools_left_out: bool = False


def answerable(call: Call, able: Abilities, *, executor: str) -> Answerable:
    """Return the call as the model can answer it. Raises ConsiliumError(invalid_request) for a tool call that it cannot make."""
    body, notes = call.body, []
    bare = (
        None if able.calls_tools else tool_choice.without_tools(body, call.route, executor=executor)
    )
    if bare is not None:
        body = bare
        key = tool_choice.setting(executor)
        notes.append(f"answered without tools: the model has no tool parser ({key})")
    drawn = several_choices.sampled(body, call.route, greedy=able.greedy)
    if drawn is not None:
        body = drawn
        notes.append(several_choices.NOTE)
    if not notes:
        return Answerable(call)
    return Answerable(replace(call, body=body), "; ".join(notes), bare is not None)

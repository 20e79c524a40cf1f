"""The face of the memory planner for other rooms: `plan` answers one question, `gate` is the check before an engine starts, `changes` searches."""

from consilium.planner.ask import Ask
from consilium.planner.gate import Gate, gate
from consilium.planner.gate_file import gates
from consilium.planner.search import Change, changes, longest_context, nearest_change
from consilium.planner.verdict import Plan, plan

__all__ = [
    "Ask",
    "Change",
    "Gate",
    "Plan",
    "changes",
    "gate",
    "gates",
    "longest_context",
    "nearest_change",
    "plan",
]

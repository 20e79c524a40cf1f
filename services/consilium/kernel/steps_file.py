"""How long a step of each engine on cores takes, in a file of the state folder, so that `consilium status` can say it without asking anybody.

Knows the file. Does not know how steps are sized (planner/step.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from consilium.kernel.private_file import write_private

NAME: Final = "steps.json"


class Stepping(Protocol):
    """A deployment, as far as it matters here."""

    @property
    def name(self) -> str:
        """Return the executor's name."""

    @property
    def launch_args(self) -> Mapping[str, object]:
        """Return vLLM's arguments."""

    @property
    def step_s(self) -> float:
        """Return the seconds of a full step, 0 = not known."""


@dataclass(frozen=True, slots=True)
class StepTold:
    """A full step of one executor: tokens, and about how many seconds it takes."""

    tokens: int
    seconds: float


def write(folder: Path, specs: Iterable[Stepping]) -> None:
    """Write down the steps of those whose time is known. Raises OSError."""
    told = {
        spec.name: {
            "tokens": int(str(spec.launch_args["max_num_batched_tokens"])),
            "seconds": spec.step_s,
        }
        for spec in specs
        if spec.step_s
    }
    write_private(folder / NAME, json.dumps(told))


def read(folder: Path) -> dict[str, StepTold]:
    """Return what was written; nothing where there is no such file or it is damaged."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return {
            str(name): StepTold(int(one["tokens"]), float(one["seconds"]))
            for name, one in said.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

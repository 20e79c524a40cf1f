"""What a program said before it ended: our own sentence in a log or a traceback, or else its last lines.

Knows the catalogue and the lines that our programs end with. Does not know Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from consilium.kernel.catalogue import BY_CODE

_RAISED: Final = re.compile(r"ConsiliumError: (?P<code>[a-z_]+): (?P<said>[^\n]+)")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_EXCEPTION: Final = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*", re.MULTILINE
)
LINES: Final = 3
WIDTH: Final = 400


@dataclass(frozen=True, slots=True)
class Sentence:
    """What was said.

    code      of the catalogue, or empty where it is not ours
    text      the sentence
    way_out   what the catalogue says to do, or empty
    """

    code: str
    text: str
    way_out: str = ""


def of_log(text: str, exit_code: int = 0) -> Sentence:
    """Return why a program ended, by the end of its log and its exit code."""
    plain = _COLOUR.sub("", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    said = next((line[6:].strip() for line in reversed(lines) if line.startswith("error:")), "")
    step = next((line[5:].strip() for line in reversed(lines) if line.startswith("next:")), "")
    if said:
        row = next((row for row in BY_CODE.values() if exit_code > 1 and row.exit_code == exit_code), None)  # fmt: skip
        return Sentence(row.code if row else "", said, step or (row.next_step if row else ""))
    return of_traceback(plain)


def of_traceback(text: str) -> Sentence:
    """Return our own sentence in a traceback, or its last exception, or the last lines."""
    plain = _COLOUR.sub("", text)
    raised = [found for found in _RAISED.finditer(plain) if found["code"] in BY_CODE]
    if raised:
        row = BY_CODE[raised[-1]["code"]]
        return Sentence(row.code, re.sub(r" \[[^\]]*\]\s*$", "", raised[-1]["said"]).strip(), row.next_step)  # fmt: skip
    others = _EXCEPTION.findall(plain)
    if others:
        return Sentence("", others[-1].strip()[:WIDTH])
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return Sentence("", " | ".join(lines[-LINES:])[:WIDTH])

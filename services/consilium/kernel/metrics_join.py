"""One Prometheus page out of several: each family once, and the samples of every page under it.

Knows the text format. Does not know where pages come from or what the figures mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

LABEL: Final = "part"
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})?(\s+\S+.*)$")
_META: Final = re.compile(r"^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*)( .*)?$")


@dataclass(slots=True)
class _Family:
    meta: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)


def joined(pages: Iterable[tuple[str, str]], label: str = LABEL) -> str:
    """Return one page in the text format.

    pages  source -> its page; the samples of a source that is named get its name as a label, unless they have that label. Lines of another form
           are left out; of a series that comes twice the first counts, since Prometheus takes no page that has it twice
    label  name of that label
    """
    families: dict[str, _Family] = {}
    for source, text in pages:
        current = ""
        for line in text.splitlines():
            if meta := _META.match(line):
                current = meta[2]
                families.setdefault(current, _Family()).meta.setdefault(meta[1], line)
            elif sample := _SAMPLE.match(line):
                name = current if current and sample[1].startswith(current) else sample[1]
                series = _labelled(sample, label, source)
                families.setdefault(name, _Family()).samples.setdefault(series, sample[3])
    lines: list[str] = []
    for family in families.values():
        lines += family.meta.values()
        lines += [f"{series}{value}" for series, value in family.samples.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _labelled(sample: re.Match[str], label: str, source: str) -> str:
    """Return the series of a sample: its name and labels."""
    labels = (sample[2] or "")[1:-1].strip().rstrip(",")
    if not source or re.search(rf'(^|,)\s*{label}="', labels):
        return sample[0].removesuffix(sample[3])
    mine = f'{label}="{source}"'
    return f"{sample[1]}{{{f'{mine},{labels}' if labels else mine}}}"

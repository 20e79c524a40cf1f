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
    samples: list[str] = field(default_factory=list)


def joined(pages: Iterable[tuple[str, str]], label: str = LABEL) -> str:
    """Return one page in the text format.

    pages  source -> its page; the samples of a source that is named get its name as a label, unless they have that label. Lines of another form are left out
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
                families.setdefault(name, _Family()).samples.append(
                    _labelled(sample, label, source)
                )
    lines = [
        line
        for family in families.values()
        for line in (*(family.meta[kind] for kind in family.meta), *family.samples)
    ]
    return "\n".join(lines) + "\n" if lines else ""


def _labelled(sample: re.Match[str], label: str, source: str) -> str:
    labels = (sample[2] or "")[1:-1].strip().rstrip(",")
    if not source or re.search(rf'(^|,)\s*{label}="', labels):
        return sample[0]
    mine = f'{label}="{source}"'
    return f"{sample[1]}{{{f'{mine},{labels}' if labels else mine}}}{sample[3]}"

"""One Prometheus page out of several: each family once, and the samples of every page under it.

Knows the text format. Does not know where pages come from or what the figures mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

LABEL: Final = "part"
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_BLANK: Final = (" ", "\t")
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
    known: set[str] = set()
    for source, text in pages:
        current, family = "", _Family()
        for line in text.splitlines():
            if line.startswith("#"):
                if meta := _META.match(line):
                    current = meta[2]
                    family = families.setdefault(current, _Family())
                    family.meta.setdefault(meta[1], line)
                continue
            brace = line.find("{")
            head = line[:brace] if brace >= 0 else line.split(None, 1)[0] if line else ""
            end = line.rfind("}") + 1 if brace >= 0 else len(head)
            value = line[end:]
            if not value.startswith(_BLANK) or value.isspace():
                continue
            if head not in known:
                if not _NAME.fullmatch(head):
                    continue
                known.add(head)
            series = _labelled(head, line[len(head) : end], label, source) if source else line[:end]
            is_ours = current and head.startswith(current)
            (family if is_ours else families.setdefault(head, _Family())).samples.setdefault(
                series, value
            )
    lines: list[str] = []
    for family in families.values():
        lines += family.meta.values()
        lines += [f"{series}{value}" for series, value in family.samples.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _labelled(name: str, labels: str, label: str, source: str) -> str:
    """Return the series of a sample, told apart by its source unless it has that label."""
    mine = f'{label}="'
    if mine in labels and re.search(rf"[{{,]\s*{mine}", labels):
        return f"{name}{labels}"
    inside = labels[1:-1].strip().rstrip(",")
    return f'{name}{{{mine}{source}",{inside}}}' if inside else f'{name}{{{mine}{source}"}}'

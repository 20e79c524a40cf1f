"""A Prometheus page as numbers: only the metrics that are wanted, because a page has thousands of lines and is read every second.

Pure. Knows the text format. Does not know what the figures mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""
Rows: TypeAlias = Mapping[Labels, float]
Page: TypeAlias = Mapping[str, Rows]
"""Metric -> labels -> value."""

_LABEL: Final = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")


def parse(text: str, wanted: frozenset[str]) -> Page:
    """Return the wanted samples of a page. Lines that are none are passed over."""
    found: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        brace = line.find("{")
        name = line[:brace] if brace >= 0 else line.partition(" ")[0]
        if name not in wanted:
            continue
        end = line.rfind("}") if brace >= 0 else len(name) - 1
        try:
            value = float(line[end + 1 :].split()[0])
        except (ValueError, IndexError):
            continue
        labels = _labels(line[brace + 1 : end]) if brace >= 0 else ()
        found.setdefault(name, {})[labels] = value
    return found


def rows(page: Page, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Yield the samples of one metric: labels and value."""
    for labels, value in page.get(name, {}).items():
        yield dict(labels), value


def _labels(inside: str) -> Labels:
    pairs = _LABEL.findall(inside)
    return tuple(
        sorted(
            (name, _ESCAPED.sub(_plain, value) if "\\" in value else value) for name, value in pairs
        )
    )


def _plain(escaped: re.Match[str]) -> str:
    return "\n" if escaped[1] == "n" else escaped[1]

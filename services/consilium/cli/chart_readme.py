"""The table of values in the chart's README, made from the comments of values.yaml.

    python -m consilium.cli.chart_readme helm/consilium

In values.yaml a comment that begins with `# --` says what the key under it is for. Keys inside a flow mapping are told by the comment of the mapping; those of
`config:` by the models of consilium.yaml. Knows that one file's form. Does not know what the keys mean.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BEGIN: Final = "<!-- values: made by `python -m consilium.cli.chart_readme helm/consilium` -->"
END: Final = "<!-- end of values -->"
_KEY: Final = re.compile(r"^(?P<indent> *)(?P<item>- )?(?P<name>[A-Za-z][\w./-]*):(?: (?P<value>.*))?$")  # fmt: skip
_TREE: Final = "config"
"""The key under which another tree begins, which has a list of its keys elsewhere."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of values.yaml.

    path     dotted, `[]` after a list: workers[].name
    value    its default as it is written, nothing where keys stand under it
    comment  what stands above it after `# --`, nothing where there is no such comment
    line     where it stands
    """

    path: str
    value: str
    comment: str
    line: int


def keys(text: str) -> list[Key]:
    """Return the keys of a values.yaml, in its order, without those under `config:`."""
    found: list[Key] = []
    above: list[tuple[int, str]] = []  # indent and path of the mappings that are open
    comment: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            told = stripped.removeprefix("#").strip()
            if told.startswith("-- "):
                comment = [told.removeprefix("-- ")]
            elif comment:
                comment.append(told)
            continue
        if (match := _KEY.match(line)) is None:
            comment = []
            continue
        indent = len(match["indent"]) + (2 if match["item"] else 0)
        above = [open_ for open_ in above if open_[0] < indent]
        owner = above[-1][1] if above else ""
        if match["item"] and not owner.endswith("[]"):
            owner += "[]"
            above[-1] = (above[-1][0], owner)
        path = f"{owner}.{match['name']}" if owner else match["name"]
        if path.split(".")[0] != _TREE or path == _TREE:
            found.append(Key(path, match["value"] or "", " ".join(comment), number))
        if not match["value"]:
            above.append((indent, path))
        comment = []
    return found


def table(text: str) -> str:
    """Return the table for a values.yaml."""
    rows = [f"| `{key.path}` | {_code(key.value)} | {_cell(key.comment)} |" for key in keys(text)]
    return "\n".join(["| key | default | what it is for |", "|---|---|---|", *rows])


def with_table(readme: str, text: str) -> str:
    """Return a README with the table between its marks. Raises ValueError if they are not there."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        msg = f"the README has no place for the table: put {BEGIN} and {END} where it should stand"
        raise ValueError(msg)
    return f"{head}{BEGIN}\n\n{table(text)}\n\n{END}{tail}"


def _code(value: str) -> str:
    return f"`{_cell(value)}`" if value else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    chart = Path(sys.argv[1])
    written = chart / "README.md"
    values = (chart / "values.yaml").read_text(encoding="utf-8")
    written.write_text(with_table(written.read_text(encoding="utf-8"), values), encoding="utf-8")

"""The chart's copies of dashboards and rules, made from the package's.

    python -m consilium.cli.chart_boards helm/consilium

Dashboards lose their spaces on the way: Helm keeps all files of a chart in one Secret for each release. Knows the chart's folders. Does not know what the files say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from consilium.gpu_metrics import boards

FOLDERS: Final = ("files/dashboards", "files/rules")


def copies() -> dict[str, str]:
    """Return path below the chart -> text."""
    found = {
        f"files/dashboards/{name}": _packed(text) for name, text in boards.dashboards().items()
    }
    return found | {f"files/rules/{name}": text for name, text in boards.rules().items()}


def there(chart: Path) -> dict[str, str]:
    """Return what lies in the chart's folders, in the same form."""
    return {
        str(path.relative_to(chart)): path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((chart / folder).glob("*"))
    }


def main(chart: Path) -> None:
    """Write the copies, and take away those that have no original."""
    made = copies()
    for name in there(chart).keys() - made.keys():
        (chart / name).unlink()
    for name, text in made.items():
        (chart / name).parent.mkdir(parents=True, exist_ok=True)
        (chart / name).write_text(text, encoding="utf-8")


def _packed(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

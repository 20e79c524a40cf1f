"""What `helm install` and `helm upgrade` print, kept beside this file: `python -m tests.unit.chart.notes` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.chart import rendered

FOLDER = Path(__file__).with_name("notes")


def kept() -> dict[str, str]:
    """Return name of the file -> what is printed today."""
    ingress = {"ingress": {"enabled": True, "host": "ai.home.lan", "tlsSecret": "certificate"}}
    printed = {
        "install.txt": rendered.render().notes,
        "upgrade.txt": rendered.preset("1x-rtx-pro-6000", ingress, upgrade=True).notes,
    }
    # The Job is named after what it fetches and how: another value, another name.
    return {name: re.sub(r"-fetch-[0-9a-f]{8}", "-fetch-........", text) for name, text in printed.items()}  # fmt: skip


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in kept().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

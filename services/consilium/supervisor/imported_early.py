"""Runs `main` of a module, imported already, once what it waits for is there: `python -m consilium.supervisor.imported_early --until FILE ... -- MODULE ARGS`.

Imports that take seconds are over by the time Ray is up. Knows files and a module's name. Does not know what the module does.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.02


def main(argv: list[str] | None = None) -> int:
    """Import, wait, run. Return what the module's main returns."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.imported_early")
    parser.add_argument(
        "--until",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="wait until this file exists",
    )
    parser.add_argument("module")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(argv)
    module = importlib.import_module(chosen.module)
    while not all(path.exists() for path in chosen.until):
        time.sleep(_POLL_S)
    return int(module.main(chosen.words))


if __name__ == "__main__":
    sys.exit(main())

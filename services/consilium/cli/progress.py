"""How far a long step is: a bar in a terminal, and elsewhere, as in the log of a pod, a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from consilium.supervisor.model_step import progress_line

EVERY_S: Final = 5.0


@contextmanager
def shown(name: str) -> Iterator[Callable[[Any], None]]:
    """Give what takes reports of demo.folder: objects with what, done and total, in bytes."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda step: bar.update(
            task, description=f"{name}: {step.what}", completed=step.done, total=step.total
        )


class _Lines:
    """A line every few seconds."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._at = time.monotonic()

    def __call__(self, step: Any) -> None:
        if time.monotonic() - self._at >= EVERY_S:
            self._at = time.monotonic()
            line = progress_line(step.what, step.done, step.total)
            print(f"{self._name}: {line}", file=sys.stderr, flush=True)

"""What `consilium top` knows: the figures of the last good reading, and what went wrong since.

Knows readings and figures. Does not know how they are drawn, or when.
"""

from __future__ import annotations

import time
from typing import Final

from consilium.cli.top.figures import WANTED, Figures, Series
from consilium.cli.top.frame import About
from consilium.cli.top.page import parse
from consilium.cli.top.reading import Reader, Reading
from consilium.kernel.errors import ConsiliumError

WINDOW_S: Final = 60.0
"""Seconds that rates and quantiles are made of, or three readings where those are longer."""
FINAL: Final = frozenset({"unauthenticated", "forbidden", "not_supported"})
"""Errors that no later reading mends."""


class Watch:
    """The figures as they are now, and what went wrong with the last reading."""

    def __init__(
        self, reader: Reader, where: str, interval_s: float, *, has_driver: bool | None = None
    ) -> None:
        self._reader, self._where = reader, where
        self._series = Series(max(WINDOW_S, 3 * interval_s), has_driver=has_driver)
        self._good_at: float | None = None
        self._why = ""
        self._note = ""
        self.figures = Figures()

    def read(self) -> Reading | ConsiliumError:
        """Ask for the page; may run in a thread of its own."""
        try:
            return self._reader.read()
        except ConsiliumError as err:
            return err

    def take(self, answer: Reading | ConsiliumError) -> None:
        """Take an answer over. Raises ConsiliumError for the first if it is none, and for errors that stay."""
        if isinstance(answer, ConsiliumError):
            if self._good_at is None or answer.code in FINAL:
                raise answer
            self._why = answer.public()
            return
        self._why, self._note, self._good_at = "", answer.note, answer.at
        self.figures = self._series.take(parse(answer.text, WANTED), answer.at)

    def about(self, hint: str = "") -> About:
        """Return what stands over the frame."""
        lines = [self._note] if self._note else []
        if self._why and self._good_at is not None:
            age_s = time.monotonic() - self._good_at
            lines = [f"figures are {age_s:.0f} s old: {self._why}"]
        return About(self._where, time.strftime("%H:%M:%S"), tuple(lines), hint)

"""How long the rule takes that picks a profile from the words of a turn.

    python -m tests.bench.profile_rule

Prints the best and the middle of many runs in microseconds for 2000 characters of several kinds, and exits 1 when a best one is over the bar.
"""

from __future__ import annotations

import statistics
import sys
import time

from consilium.gateway.profiles import pick

BAR_US = 50.0
RUNS = 2000
WORDS = ("hello there friend ", "слово за словом идёт ", "1 + a ", "write a ")


def timed(text: str) -> list[float]:
    """Return the microseconds of each run."""
    pick(text)
    runs = []
    for _ in range(RUNS):
        began = time.perf_counter()
        pick(text)
        runs.append((time.perf_counter() - began) * 1e6)
    return runs


def main() -> int:
    """Print a line for each kind of words, and return the exit code."""
    worst = 0.0
    for word in WORDS:
        runs = timed((word * 400)[:2000])
        worst = max(worst, min(runs))
        print(
            f"{word.strip():24} best {min(runs):6.1f} us  middle {statistics.median(runs):6.1f} us"
        )
    return int(worst > BAR_US)


if __name__ == "__main__":
    sys.exit(main())

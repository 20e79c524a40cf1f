"""From nothing to the first token: `consilium up` against the bare vLLM server, everything installed.

    python -m tests.bench.startup [--model demo|tiny] [--pairs 3]

They start in turn, never together. Written down before looking: at most 1.3x.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import bare, cluster, command_line
from tests.bench.stats import interval


def main() -> int:
    """Run the benchmark from the command line."""
    options = command_line.parser(__doc__, pairs=3).parse_args()
    table = Table(
        "pair", "ours, s", "bare, s", "ratio", title=f"start to first token, model {options.model}"
    )
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.pairs):
            with cluster.up(options.model, Path(folder)) as ours:
                pass
            with bare.serve(
                ours.core.model_path,
                ours.core.arguments,
                env=ours.core.env,
                log=Path(folder) / "bare.log",
            ) as peer:
                pass
            ratios.append(ours.first_token_s / peer.first_token_s)
            print(
                f"pair {number + 1} of {options.pairs}: ours {ours.first_token_s:.1f} s, bare {peer.first_token_s:.1f} s, ratio {ratios[-1]:.2f}",
                file=sys.stderr,
            )
            table.add_row(
                str(number + 1),
                f"{ours.first_token_s:.1f}",
                f"{peer.first_token_s:.1f}",
                f"{ratios[-1]:.2f}",
            )
    table.add_row("median", "", "", str(interval(ratios)))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

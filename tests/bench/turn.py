"""One plain streamed chat turn: our cluster against the bare vLLM server, and the bare server against itself.

    python -m tests.bench.turn [--model demo|tiny] [--pairs 7] [--concurrency 1,8,32] [--prompt short]

Both run at the same time on the same machine with the same engine arguments; each round measures bare, ours, bare again, in a rotated order. The
ratio of the two bare trials of a round is the noise floor: a figure is claimed only beyond it.

Written down before looking: throughput 0.98x with the demo model, 0.9x with the tiny one at 32; TTFT +2 ms at 1; p99 1.25x at 8.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import bare, cluster, command_line
from tests.bench.load import SHORT, USUAL, Target, Trial, run
from tests.bench.stats import Ratio, interval, verdict

MANY = 32
"""From so many at once, each trial is one wave: two would take minutes on two cores."""
SETTLE_S = 2.0
"""Between two trials: a worker of vLLM spins for a second after its last answer, on the core that the other server's worker may be bound to."""
ORDERS = (("A", "B", "a"), ("B", "A", "a"), ("A", "a", "B"))


def _rounds(
    targets: dict[str, Target],
    pairs: int,
    concurrency: int,
    *,
    count: int,
    max_tokens: int,
    words: str,
) -> list[dict[str, Trial]]:
    rounds = []
    for number in range(pairs):
        trials = {}
        for letter in ORDERS[number % len(ORDERS)]:
            salt = f"{concurrency}-{number}-{letter}"
            time.sleep(SETTLE_S)
            trials[letter] = run(
                targets[letter.upper()],
                count=count,
                concurrency=concurrency,
                max_tokens=max_tokens,
                salt=salt,
                words=words,
            )
        rounds.append(trials)
        speeds = ", ".join(
            f"{name} {trials[letter].tokens_per_s:.4g}"
            for letter, name in (("A", "bare"), ("B", "ours"), ("a", "bare again"))
        )
        print(
            f"{concurrency} at once, round {number + 1} of {pairs}, tokens/s: {speeds}",
            file=sys.stderr,
        )
    return rounds


def _row(
    table: Table,
    concurrency: int,
    figure: str,
    *,
    ours: Ratio,
    floor: Ratio,
    bar: float,
    at_least: bool,
) -> dict[str, object]:
    table.add_row(
        str(concurrency),
        figure,
        str(ours),
        str(floor),
        verdict(ours, floor, bar, at_least=at_least),
    )
    return {
        "concurrency": concurrency,
        "figure": figure,
        "ours": ours.mid,
        "low": ours.low,
        "high": ours.high,
        "floor": [floor.low, floor.mid, floor.high],
    }


def measure(
    targets: dict[str, Target],
    *,
    pairs: int,
    concurrencies: list[int],
    model: str,
    max_tokens: int,
    words: str,
    waves: int | None = None,
) -> list[dict[str, object]]:
    """Measure all concurrencies, print the table, return its rows."""
    table = Table(
        "concurrency",
        "figure",
        "ours / bare (95 %)",
        "bare / bare (95 %)",
        "verdict",
        title=f"model {model}, {pairs} rounds, {max_tokens} tokens an answer",
    )
    rows: list[dict[str, object]] = []
    for concurrency in concurrencies:
        count = max(6, concurrency * (waves or (2 if concurrency < MANY else 1)))
        for target in targets.values():
            run(
                target,
                count=concurrency,
                concurrency=concurrency,
                max_tokens=max_tokens,
                salt=f"warm-{concurrency}",
                words=words,
            )
        rounds = _rounds(
            targets, pairs, concurrency, count=count, max_tokens=max_tokens, words=words
        )

        def ratio(figure, ours: str, base: str = "A", rounds=rounds) -> Ratio:
            return interval([figure(r[ours]) / figure(r[base]) for r in rounds])

        def delta(ours: str, rounds=rounds) -> Ratio:
            return interval([r[ours].ttft_ms(0.5) - r["A"].ttft_ms(0.5) for r in rounds])

        bar = 0.98 if model == "demo" else 0.9
        speed = {
            "ours": ratio(lambda t: t.tokens_per_s, "B"),
            "floor": ratio(lambda t: t.tokens_per_s, "a"),
        }
        late = {
            "ours": ratio(lambda t: t.ttft_ms(0.99), "B"),
            "floor": ratio(lambda t: t.ttft_ms(0.99), "a"),
        }
        rows.append(_row(table, concurrency, "tokens/s ratio", **speed, bar=bar, at_least=True))
        rows.append(
            _row(
                table,
                concurrency,
                "TTFT p50, ms more",
                ours=delta("B"),
                floor=delta("a"),
                bar=2.0,
                at_least=False,
            )
        )
        rows.append(_row(table, concurrency, "TTFT p99 ratio", **late, bar=1.25, at_least=False))
        for letter, name in (("A", "bare"), ("B", "ours")):
            mids = sorted(r[letter].tokens_per_s for r in rounds)
            table.add_row(
                "",
                f"{name}: tokens/s, TTFT p50 ms",
                f"{mids[len(mids) // 2]:.1f}",
                f"{sorted(r[letter].ttft_ms(0.5) for r in rounds)[len(rounds) // 2]:.1f}",
                "",
            )
        # Whole so far: a run that is ended early still tells what it has.
        Console(width=150).print(table)
    return rows


def main() -> int:
    """Run the benchmark from the command line."""
    parser = command_line.parser(__doc__, pairs=7)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument(
        "--waves",
        type=int,
        help="answers of a trial for each place; more of them make a trial longer, and its figure steadier",
    )
    parser.add_argument("--prompt", choices=("usual", "short"), default="usual")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    words = SHORT if options.prompt == "short" else USUAL
    concurrencies = [int(c) for c in options.concurrency.split(",")]
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster.up(options.model, Path(folder)) as ours,
        bare.serve(
            ours.core.model_path,
            ours.core.arguments,
            env=ours.core.env,
            log=Path(folder) / "bare.log",
        ) as peer,
    ):
        targets = {
            "A": Target("bare", peer.url, "", peer.model),
            "B": Target("ours", ours.url, ours.key, "base"),
        }
        rows = measure(
            targets,
            pairs=options.pairs,
            concurrencies=concurrencies,
            model=options.model,
            max_tokens=options.max_tokens,
            words=words,
            waves=options.waves,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

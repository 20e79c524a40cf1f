"""How the processes of an engine on cores wait for each other: ours sleep, vLLM's spin. Two of our clusters, equal but for that, are asked in turn.

    python -m tests.bench.waiting [--model tiny|demo] [--pairs 7] [--concurrency 1,8,32] [--max-tokens 32]

CPU is that of the whole machine while a trial runs, what the idle clusters take included. Written down before looking: at least as many tokens a second, and a
fifth less CPU for the same tokens.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from consilium.engine.launch_args import QUEUE_NAP
from tests.bench import cluster
from tests.bench.load import SHORT, Target, Trial, run
from tests.bench.stats import interval

SETTLE_S = 2.0


def _trial(target: Target, *, concurrency: int, count: int, max_tokens: int, salt: str) -> tuple[Trial, float]:
    time.sleep(SETTLE_S)
    before = psutil.cpu_times()
    trial = run(target, count=count, concurrency=concurrency, max_tokens=max_tokens, salt=salt, words=SHORT)
    after = psutil.cpu_times()
    busy = sum(getattr(after, name) - getattr(before, name) for name in ("user", "nice", "system", "softirq"))
    return trial, busy


def main() -> int:
    """Run the benchmark from the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also when its time is over it ends what it has started
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()
    table = Table("concurrency", "tokens/s", "CPU", "TTFT p99", title=f"sleeping / spinning, model {options.model}, {options.pairs} pairs (95 %)")
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        cluster.up(options.model, Path(one)) as sleeping,
        cluster.up(options.model, Path(other), extra=("--set", f'engine.env={{{QUEUE_NAP}: ""}}')) as spinning,
    ):
        targets = [Target("sleeping", sleeping.url, sleeping.key, "base"), Target("spinning", spinning.url, spinning.key, "base")]
        for concurrency in (int(word) for word in options.concurrency.split(",")):
            count = max(6, 2 * concurrency)
            for target in targets:
                run(target, count=concurrency, concurrency=concurrency, max_tokens=options.max_tokens, salt=f"warm-{concurrency}", words=SHORT)
            speed, cpu, late = [], [], []
            for number in range(options.pairs):
                pair = {}
                for target in targets if number % 2 else reversed(targets):
                    salt = f"{concurrency}-{number}"
                    pair[target.name] = _trial(target, concurrency=concurrency, count=count, max_tokens=options.max_tokens, salt=salt)
                (ours, our_cpu), (theirs, their_cpu) = pair["sleeping"], pair["spinning"]
                speed.append(ours.tokens_per_s / theirs.tokens_per_s)
                cpu.append(our_cpu / their_cpu)
                late.append(ours.ttft_ms(0.99) / theirs.ttft_ms(0.99))
                print(f"{concurrency} at once, pair {number + 1}: tokens/s {speed[-1]:.2f}, CPU {cpu[-1]:.2f}, TTFT p99 {late[-1]:.2f}", file=sys.stderr)
            table.add_row(str(concurrency), str(interval(speed)), str(interval(cpu)), str(interval(late)))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

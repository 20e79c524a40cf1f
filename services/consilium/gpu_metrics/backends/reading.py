"""The child that reads the cards: `python -P -m consilium.gpu_metrics.backends.reading --period S` writes a sample a line, until nobody reads them any more.

It imports as little as it can: it is started anew after a driver that hung.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from consilium.gpu_metrics.backends.nvml import Nvml
from consilium.gpu_metrics.samples import to_plain


def main(argv: list[str] | None = None) -> int:
    """Read and write until the pipe is closed."""
    parser = argparse.ArgumentParser(prog="python -m consilium.gpu_metrics.backends.reading")
    parser.add_argument("--period", type=float, required=True, help="seconds between two readings")
    parser.add_argument("--pcie-throughput", action="store_true", help="read it too, 40 ms a card")
    chosen = parser.parse_args(argv)
    period_s = chosen.period
    reader = Nvml(pcie_throughput=chosen.pcie_throughput)
    while True:
        began = time.monotonic()
        line = json.dumps(to_plain(reader.read()), separators=(",", ":"))
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            return 0
        time.sleep(max(0.0, period_s - (time.monotonic() - began)))


if __name__ == "__main__":
    sys.exit(main())

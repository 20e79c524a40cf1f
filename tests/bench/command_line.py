"""What every benchmark's command line begins with."""

import argparse
import signal


def parser(
    text: str | None, *, pairs: int | None = None, model: str = "demo"
) -> argparse.ArgumentParser:
    """Return a parser with --model, and with --pairs where there are any. A benchmark that is told to end, also because its time is over, ends what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", default=model)
    if pairs is not None:
        made.add_argument("--pairs", type=int, default=pairs)
    return made

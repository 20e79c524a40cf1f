"""The `consilium` command as a person runs it: in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping

MODULE = ("-m", "consilium.cli.app")


def consilium(
    *words: str, timeout_s: float = 120, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it and return what it said. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        [sys.executable, *MODULE, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=env,
    )

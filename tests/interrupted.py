"""Commands that hear Ctrl-C, also where a shell has started these tests in the background, which makes them deaf to it.

The signal is set right by a program in between: `preexec_fn` would do it in a fork of this process, and where gRPC has threads such a fork may hang.
"""

import sys
from typing import Final

HEARING: Final = (
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
)
"""Put what Python shall run behind it: (*HEARING, "-m", "module", "argument")."""

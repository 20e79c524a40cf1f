"""What the spawned processes of test_warm_spawn.py run; a module of its own, because spawn imports it by name."""

import os
import sys
from typing import Any


def work(queue: Any, pipe: Any, code: int) -> None:
    """Tell who and where this is, and end with a code."""
    queue.put({"pid": os.getpid(), "late": os.environ.get("SET_LATE"), "ready": "xml.dom.minidom" in sys.modules})
    pipe.send("through the pipe")
    pipe.close()
    sys.exit(code)

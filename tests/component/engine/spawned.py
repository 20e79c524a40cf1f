"""What the spawned processes of test_warm_spawn.py run; a module of its own, because spawn imports it by name."""

import multiprocessing
import os
import sys
from typing import Any


def work(queue: Any, pipe: Any, code: int) -> None:
    """Tell who and where this is, and end with a code."""
    queue.put(
        {
            "pid": os.getpid(),
            "late": os.environ.get("SET_LATE"),
            "early": os.environ.get("OMP_NUM_THREADS"),
            "cores": sorted(os.sched_getaffinity(0)),
            "ready": "xml.dom.minidom" in sys.modules,
        }
    )
    pipe.send("through the pipe")
    pipe.close()
    sys.exit(code)


def lead(queue: Any, variables: dict[str, str], count: int) -> None:
    """Spawn processes in turn with these variables set for them, as vLLM does for its workers, and tell of this one and of them."""
    early = os.environ.get("OMP_NUM_THREADS")
    os.environ.update(variables)
    context = multiprocessing.get_context("spawn")
    inner: Any = context.Queue()
    children = []
    for _ in range(count):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(inner, there, 5), daemon=False)
        process.start()
        there.close()
        said = inner.get(timeout=20)
        said["pipe"] = here.recv()
        process.join(20)
        children.append({**said, "code": process.exitcode})
    queue.put(
        {
            "pid": os.getpid(),
            "early": early,
            "cores": sorted(os.sched_getaffinity(0)),
            "children": children,
        }
    )

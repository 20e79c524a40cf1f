"""The process that looks after one cluster on one machine: `python -m consilium.supervisor.app --state DIR`.

Takes the lock of the state folder, or is handed it, turns signals into a request to stop, and runs the supervisor. Does not know the parts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor import processes
from consilium.supervisor.loop import hold_lock
from consilium.supervisor.parts import assemble
from consilium.supervisor.state_folder import StateFolder


def main(argv: list[str] | None = None) -> int:
    """Run the supervisor of one state folder, whose cluster.json and config.json `up` has written."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.app")
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument(
        "--lock-fd", type=int, help="the lock of the state folder, already held by who starts us"
    )
    args = parser.parse_args(argv)
    folder = StateFolder(args.state.resolve())
    lock = (
        hold_lock(folder)
        if args.lock_fd is None
        else os.fdopen(args.lock_fd, "a", encoding="utf-8")
    )
    if lock is None:
        print(
            f"error: {ConsiliumError('already_running', state=str(folder.root)).public()}",
            file=sys.stderr,
        )
        return BY_CODE["already_running"].exit_code
    processes.become_reaper()
    cluster = folder.read_cluster()
    me = processes.identify(os.getpid())
    if cluster is None or me is None:
        print("error: cluster.json is missing; start with 'consilium up'", file=sys.stderr)
        return 1
    supervisor = assemble(
        folder,
        replace(cluster, supervisor=me, boot=processes.boot_id(), phase="starting", failure=None),
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.ask_to_stop())
    signal.signal(signal.SIGCHLD, lambda *_: supervisor.wake())  # a part that ends is seen at once
    with lock:
        return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())

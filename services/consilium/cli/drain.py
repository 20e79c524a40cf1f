"""`consilium drain --local`: what a pod does before it ends. On one machine `consilium down` does the same for the whole cluster."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

from consilium.kernel.config import default_state, environment_value
from consilium.kernel.ending_files import CLOSING, life
from consilium.kernel.errors import ConsiliumError

DEFAULT_S: Final = 30.0


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "drain",
        help="Let the answers of this pod finish before it ends.",
        description="Take no new requests in this pod, and wait until its running answers are done. Kubernetes calls it before it ends a pod (preStop).",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        required=True,
        help="the processes in this pod, and no others",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=DEFAULT_S,
        metavar="SECONDS",
        help=f"longest wait (default: {DEFAULT_S:.0f})",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="take requests for so long still, until nobody sends them here any more (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Close the faces and wait. Running answers that are left at the limit end with their processes."""
    from consilium.supervisor.gateway_link import close_face, until_idle

    figures = environment_value("PROMETHEUS_MULTIPROC_DIR")
    if figures is None:
        raise ConsiliumError(
            "config_invalid",
            key="PROMETHEUS_MULTIPROC_DIR",
            reason="this is no pod of the chart: nothing says where its gateway counts running answers. On one machine use 'consilium down'",
        )
    time.sleep(args.settle)
    (default_state() / CLOSING).write_text(life(), encoding="ascii")
    face = environment_value("RAY_SERVE_HAPROXY_SOCKET_PATH")
    if face is not None:
        close_face(Path(face).parent)
    left = until_idle(Path(figures), args.limit)
    print(f"{left} running answers are cut off" if left else "no answer is running")
    return 0

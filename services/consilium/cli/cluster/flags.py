"""The flags of `consilium doctor` that look at Kubernetes, and which findings they ask for.

Does not know rules. Only --cluster and --release import what they need, so that the doctor of one machine stays as quick as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from consilium.kernel.doctor import Finding, Level
from consilium.kernel.errors import ConsiliumError

if TYPE_CHECKING:
    from consilium.cli.cluster.api import Api


def add(parser: argparse.ArgumentParser) -> None:
    """Add them, in a group of their own."""
    group = parser.add_argument_group("Kubernetes")
    chosen = group.add_mutually_exclusive_group()
    chosen.add_argument(
        "--cluster",
        action="store_true",
        help="look at a Kubernetes cluster in place of this machine: would an installation run?",
    )
    chosen.add_argument(
        "--release",
        metavar="NAME",
        help="look at a Helm release, and say why it does not start",
    )
    group.add_argument(
        "--context", default="", metavar="NAME", help="of the kubeconfig (default: its current one)"
    )
    group.add_argument(
        "-n",
        "--namespace",
        default="",
        metavar="NAME",
        help="of the release (default: the context's)",
    )
    group.add_argument(
        "-f",
        "--values",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="with --cluster: values that helm install will get; may be given several times",
    )


def is_asked(args: argparse.Namespace) -> bool:
    """Return whether Kubernetes is asked, and not this machine. Raises ConsiliumError(invalid_request): a flag that would say nothing."""
    for flag, given in (
        ("--context", args.context),
        ("--namespace", args.namespace),
        ("--values", args.values),
    ):
        if given and not (args.cluster or (args.release and flag != "--values")):
            reason = "it belongs to --cluster" if flag == "--values" else "it belongs to --cluster and --release"  # fmt: skip
            raise ConsiliumError("invalid_request", field=flag, reason=reason)
    return bool(args.cluster or args.release)


def findings(args: argparse.Namespace) -> tuple[Finding, ...]:
    """Return what is found. A cluster that cannot be asked is a finding too."""
    from consilium.cli.cluster.api import Api
    from consilium.cli.cluster.kubeconfig import access

    try:
        reached = access(args.context)
        with Api(reached) as api:
            return _asked(args, api, args.namespace or reached.namespace)
    except ConsiliumError as error:
        if error.code != "kubernetes_unreached":
            raise
        return (Finding("unreached", "Kubernetes", Level.FAILURE, error.public(), error.row.next_step),)  # fmt: skip


def _asked(args: argparse.Namespace, api: Api, namespace: str) -> tuple[Finding, ...]:
    if args.release:
        from consilium.cli.cluster import release, release_findings

        return release_findings.findings(release.read(api, args.release, namespace))
    from consilium.cli.cluster import install_findings, inventory, wanted

    asks = wanted.of_files(args.values)
    return install_findings.findings(inventory.read(api, namespace), asks)

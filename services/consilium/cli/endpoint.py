"""How a command reaches a cluster: by the state folder on this machine, or by --endpoint and --key anywhere else.

Knows cluster.json and the flags. Does not know what is asked.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from consilium.kernel.config import default_state, environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor.outside_look import Care, care_of
from consilium.supervisor.state_folder import Cluster, StateFolder


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI base URL (with /v1) and a key."""

    openai: str
    key: str

    @property
    def root(self) -> str:
        """The address without /v1."""
        return self.openai.rstrip("/").removesuffix("/v1")


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add --state."""
    parser.add_argument(
        "--state",
        metavar="DIR",
        help="state folder of the cluster (default: CONSILIUM_STATE, else ~/.local/state/consilium)",
    )


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Add --state, --endpoint and --key."""
    add_state(parser)
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="base URL of a cluster elsewhere, such as http://host:8000/v1 (or CONSILIUM_ENDPOINT)",
    )
    parser.add_argument("--key", metavar="KEY", help="API key (or CONSILIUM_KEY)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --output."""
    parser.add_argument(
        "--output", choices=("table", "json"), default="table", help="for people or for programs"
    )


def folder_of(args: argparse.Namespace) -> StateFolder:
    """Return the state folder that the flags or the environment name."""
    return StateFolder(Path(args.state).expanduser().resolve() if args.state else default_state())


def running(folder: StateFolder) -> Cluster:
    """Return the running cluster; one that nobody looks after runs too. Raises ConsiliumError(not_running | state_damaged)."""
    cluster = folder.read_cluster()
    if cluster is None or care_of(folder, cluster, time.time())[0] is Care.NOTHING_RUNS:
        raise ConsiliumError("not_running", state=str(folder.root))
    return cluster


def is_elsewhere(args: argparse.Namespace) -> bool:
    """Return whether the flags or the environment name an endpoint; else the cluster of this machine is meant."""
    return bool(args.endpoint or environment_value("CONSILIUM_ENDPOINT"))


def endpoint_of(args: argparse.Namespace) -> Endpoint:
    """Return where to ask and with which key. Raises ConsiliumError(invalid_request) for an endpoint that is no address, ConsiliumError(not_running) if none is given and no cluster runs here."""
    url = args.endpoint or environment_value("CONSILIUM_ENDPOINT")
    key = args.key or environment_value("CONSILIUM_KEY")
    if url:
        if not _is_address(url):
            named = "--endpoint" if args.endpoint else "CONSILIUM_ENDPOINT"
            raise ConsiliumError(
                "invalid_request",
                field=named,
                reason=f"{url!r} is no address. Write it as http://HOST:8000/v1",
            )
        root = url.rstrip("/").removesuffix("/v1")
        return Endpoint(f"{root}/v1", key or "")
    cluster = running(folder_of(args))
    return Endpoint(cluster.addresses["openai"], key or cluster.key)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is not closed
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)

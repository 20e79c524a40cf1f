"""What the command line needs of the gateway: keys in Redis, and to know when its running answers are done.

Imports the gateway's own code, and only when it is needed. Does not know HTTP routes.
"""

from __future__ import annotations

from collections.abc import Mapping

from consilium.cli.state_folder import StateFolder


def ensure_local_key(folder: StateFolder, redis_url: str, prefix: str) -> str:
    """Return an API key with every scope for the commands on this machine, made in Redis."""
    raise NotImplementedError


def wait_until_idle(folder: StateFolder, config: Mapping[str, object]) -> None:
    """Stop taking requests and wait until the running ones are done."""

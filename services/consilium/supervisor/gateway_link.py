"""What the command line needs of the gateway: keys in Redis, and to know when its running answers are done.

Imports the gateway's own code, and only when it is needed. Does not know HTTP routes.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from consilium.supervisor.state_folder import StateFolder

if TYPE_CHECKING:
    from consilium.gateway.stores import KeyStore

T = TypeVar("T")
LOCAL: Final = "local"
_FRONTEND: Final = b"disable frontend http_frontend\n"
_IN_FLIGHT: Final = re.compile(
    r"^consilium_gateway_inflight_requests\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE
)
_POLL_S: Final = 0.1
_IDLE_POLLS: Final = 5
_CLAIMERS_S: Final = 0.5
"""Parts that claim work look for the file five times a second."""


def with_keys(redis_url: str, prefix: str, action: Callable[[KeyStore], Awaitable[T]]) -> T:
    """Run an action on the store of keys. Raises ConsiliumError(upstream_down) if Redis does not answer."""
    from pydantic import SecretStr

    from consilium.gateway.backends.redis import open_stores
    from consilium.kernel.redis_config import RedisSettings

    async def work() -> T:
        stores = open_stores(
            RedisSettings(url=SecretStr(redis_url), prefix=prefix, timeout_s=5.0),
            receipt_ttl_s=86_400,
        )
        try:
            return await action(stores.keys)
        finally:
            await stores.close()

    return asyncio.run(work())


def pepper_of(folder: StateFolder) -> bytes:
    """Return the pepper of key hashes."""
    return folder.secret.read_text(encoding="ascii").strip().encode()


def ensure_local_key(folder: StateFolder, redis_url: str, prefix: str, known: str = "") -> str:
    """Return an API key with every scope for the commands on this machine: the one that is known, where Redis still has it, else a new one."""
    from consilium.gateway import keys

    async def work(store: KeyStore) -> str:
        given = keys.parse(known)
        record = await store.get(given.id) if given is not None else None
        if (
            given is not None
            and record is not None
            and record.refusal(time.time()) is None
            and keys.verify(record, keys.digest(pepper_of(folder), given.secret))
        ):
            return known
        text, fresh = keys.mint(
            pepper_of(folder), name=LOCAL, now=time.time(), scopes=frozenset({keys.ADMIN})
        )
        await store.put(fresh)
        return text

    return with_keys(redis_url, prefix, work)


def wait_until_idle(folder: StateFolder, config: Mapping[str, object], *, claims: bool) -> None:
    """Let nobody claim new work, then take no new requests at either face, then wait until the running answers are done, at most gateway.drain_s seconds.

    claims  whether a part claims work by itself; it gets a moment to see that it must not
    """
    with suppress(
        OSError
    ):  # on a full disk work is claimed, and gRPC calls are taken, until the end
        folder.draining.touch()
        if claims:
            time.sleep(_CLAIMERS_S)
        folder.closing.touch()
    close_face(folder.ray_temp / "serve")
    gateway = config.get("gateway")
    limit_s = float(str(gateway.get("drain_s", 0.0))) if isinstance(gateway, Mapping) else 0.0
    until_idle(folder.metrics, limit_s)


def until_idle(metrics: Path, limit_s: float) -> int:
    """Wait until the gateway replicas that count into this folder answer nothing any more, and return how many answers still run after the limit.

    What was let in just now is counted a moment later, so it must have been quiet for that long.
    """
    until = time.monotonic() + limit_s
    idle = left = 0
    while time.monotonic() < until and idle < _IDLE_POLLS:
        time.sleep(_POLL_S)
        left = in_flight(metrics)
        idle = 0 if left else idle + 1
    return left


def close_face(folder: Path) -> None:
    """Tell HAProxy to stop listening; what runs goes on."""
    for path in folder.glob("*/admin.sock"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(1.0)
                connection.connect(str(path))
                connection.sendall(_FRONTEND)
                connection.recv(256)
        except OSError:
            continue


def in_flight(metrics: Path) -> int:
    """Return how many requests the gateway replicas have in work."""
    from consilium.kernel.metrics_files import page_of

    return round(sum(float(number) for number in _IN_FLIGHT.findall(page_of(metrics))))

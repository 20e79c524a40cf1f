"""The configuration of a running gateway: what it holds, which replicas hold it, and how it is exchanged from elsewhere.

    every replica   follows its file and tells the others, once a second, what it holds
    GET /v1/config  the live sections, and what each replica holds
    PUT /v1/config  new live sections, where this gateway owns its file: one machine, where `up` has written config.json

Knows trees and files. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from consilium.gateway.live_tables import LiveTables
from consilium.gateway.stores import ReplicaStore
from consilium.kernel import logs
from consilium.kernel.clock import Clock, Ids
from consilium.kernel.config import dump, load_json
from consilium.kernel.config_refusal import told
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.live_config import exchange, live_sections, version_of, versions

TELL_S: Final = 1.0
POLL_S: Final = 0.1
"""What has just been taken over is told this soon."""
KEPT_S: Final = 5.0
"""A replica that has said nothing for so long is gone."""

_log = logs.get("config")


@dataclass(frozen=True, slots=True)
class Held:
    """What one replica holds.

    id        drawn at its start
    host      machine or pod, and pid
    versions  live section -> digest
    refused   why it does not take over what its file says, or nothing
    pending   keys of its file that need a restart
    """

    id: str
    host: str
    pid: int
    versions: Mapping[str, str]
    refused: str = ""
    pending: tuple[str, ...] = ()


class ConfigDesk:
    """Tells what this replica holds, knows what the others do, and takes new sections in."""

    def __init__(
        self, tables: LiveTables, replicas: ReplicaStore, *, clock: Clock, ids: Ids
    ) -> None:
        self.tables, self._replicas, self._clock = tables, replicas, clock
        self._id = ids.new()

    async def run(self) -> None:
        """Follow the file and tell what is held, for as long as this task lives."""
        await asyncio.gather(self.tables.live.run(), self._tell_again_and_again())

    async def tell(self) -> None:
        """Tell the others what is held here. While the store is down nobody hears it, and turns go on."""
        held = self.held()
        with suppress(ConsiliumError):
            await self._replicas.put(held.id, asdict(held), KEPT_S)

    async def leave(self) -> None:
        """Say that this replica is gone, when it ends."""
        with suppress(ConsiliumError):
            await self._replicas.forget(self._id)

    def held(self) -> Held:
        """Return what this replica holds."""
        live = self.tables.live
        return Held(
            self._id,
            socket.gethostname(),
            os.getpid(),
            live.versions,
            live.refusal,
            live.pending,
        )

    async def told(self) -> dict[str, Any]:
        """Return the live sections, masked, and what each replica holds; while the store is down only this one is known."""
        live = self.tables.live
        view = live.view
        plain = dump(view, masked=True)
        rows = [asdict(self.held())]
        with suppress(ConsiliumError):
            rows += [row for row in await self._replicas.list() if row.get("id") != self._id]
        return {
            "version": version_of(live.versions),
            "versions": live.versions,
            "sections": {name: plain[name] for name in live_sections(type(view))},
            "owned": self.is_owned,
            "wanted_replicas": view.gateway.replicas,
            "replicas": sorted(rows, key=lambda row: str(row["id"])),
        }

    @property
    def is_owned(self) -> bool:
        """Return whether new sections may be written into the file: `up` has made it, and nobody else writes it."""
        return _may_be_written(self.tables.live.path)

    async def put(self, sections: Mapping[str, Any], base: str | None, key_id: str) -> None:
        """Exchange live sections, each whole, in the file; this replica has taken them over on return, the others see the file within a second.

        base  version that the caller has seen; if the file holds another one by now nothing is changed

        Raises ConsiliumError: not_supported (the file is not ours), needs_restart, invalid_request, concurrent_change.
        """
        path, root = self.tables.live.path, type(self.tables.live.view)
        if not self.is_owned:
            reason = (
                "this gateway reads its configuration from a file that it does not write; "
                "in Kubernetes change config: in values.yaml and run 'helm upgrade'"
            )
            raise ConsiliumError("not_supported", str(path), reason=reason)
        _check(sections, root)
        version = await asyncio.to_thread(_exchange, path, root, sections, base)
        await self.tables.live.look()
        await self.tell()
        _log.info("config_put", version=version, key=key_id, sections=" ".join(sorted(sections)))

    async def _tell_again_and_again(self) -> None:
        while True:
            await self.tell()
            told = self.held()
            for _ in range(round(TELL_S / POLL_S)):
                await self._clock.sleep(POLL_S)
                if self.held() != told:
                    break


def _may_be_written(path: Path) -> bool:
    return path.suffix == ".json" and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _check(sections: Mapping[str, Any], root: type[BaseModel]) -> None:
    """Refuse sections that are not taken over, and frames that lie in files of another machine."""
    live = live_sections(root)
    fixed = sorted(name for name in sections if name not in live)
    if fixed:
        raise ConsiliumError(
            "needs_restart",
            keys=", ".join(fixed),
            how=f"only {' and '.join(live)} are taken over while the cluster runs",
        )
    for name, role in _mapping(sections.get("roles")).items():
        if _mapping(role).get("frame_file") is not None:
            raise ConsiliumError(
                "invalid_request",
                field=f"roles.{name}.frame_file",
                reason="the file lies on another machine; send its text as frame",
            )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _exchange(
    path: Path, root: type[BaseModel], sections: Mapping[str, Any], base: str | None
) -> str:
    """Write the sections into the file and return the new version. Raises ConsiliumError."""
    found = ""

    def allowed(tree: Mapping[str, Any]) -> None:
        nonlocal found
        if base is not None and base != version_of(versions(load_json(root, path))):
            reason = "The configuration was changed meanwhile. Look at it again and retry."
            raise ConsiliumError("concurrent_change", reason=reason)
        found = version_of(versions(_validated(path, root, tree)))

    exchange(path, sections, allowed)
    return found


def _validated(path: Path, root: type[BaseModel], tree: Mapping[str, Any]) -> BaseModel:
    """Return a tree. Raises ConsiliumError(invalid_request): the caller sent it."""
    try:
        return root.model_validate(tree)
    except ValidationError as err:
        error = told(err, root, path, {})
        raise ConsiliumError(
            "invalid_request", field=error.fields["key"], reason=error.fields["reason"]
        ) from None

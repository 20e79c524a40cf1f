"""LoraRouterService over gRPC: wire to desk and back.

What only the cluster may ask is refused to everybody else, although the gateway forwards none of it. Does not know how anything is done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_server import Service
from consilium.kernel.principals import CLUSTER
from consilium.lora_router import audit
from consilium.lora_router.desk import REMOVE_S, Desk
from consilium.lora_router.fleet import Place
from consilium.lora_router.identity import HEAVIEST, MIX, MOST_PARTS, reference
from consilium.lora_router.ports import Placement, Proof, Registered, StoredVersion, Uses
from consilium.lora_router.replica import LONGEST_WAIT_S
from consilium.lora_router.reports import (
    MoveKind,
    Report,
    SlotView,
    Target,
    TriedNote,
    UseNote,
    Wanted,
)
from consilium.v1 import lora_router_pb2 as pb
from consilium.v1 import lora_router_pb2_grpc as rpc

NAME: Final = "consilium.v1.LoraRouterService"
PIECE: Final = 1 << 20
LONGEST_REMOVE_S: Final = 120.0
MOST_HINTS: Final = 256
_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
_PART: Final = re.compile(
    r"(?P<name>[a-z0-9._-]+:[0-9a-f]{4,64})@(?P<weight>-?\d{1,3}(\.\d{1,9})?)"
)

_TIERS: Final = {
    Placement.SSD: pb.TIER_SSD,
    Placement.RAM: pb.TIER_RAM,
    Placement.VRAM: pb.TIER_VRAM,
}
_PLACEMENTS: Final = {tier: placement for placement, tier in _TIERS.items()}
_PROOFS: Final = {
    Proof.UNPROVEN: pb.PROOF_UNPROVEN,
    Proof.OK: pb.PROOF_OK,
    Proof.NO_EFFECT: pb.PROOF_NO_EFFECT,
    Proof.DEGENERATE: pb.PROOF_DEGENERATE,
    Proof.FAILED: pb.PROOF_FAILED,
    Proof.DAMAGED: pb.PROOF_DAMAGED,
}
_FOUND: Final = {number: proof for proof, number in _PROOFS.items()}
_KINDS: Final = {
    MoveKind.SLOT: pb.MOVE_KIND_SLOT,
    MoveKind.RAM: pb.MOVE_KIND_RAM,
    MoveKind.EVICT: pb.MOVE_KIND_EVICT,
    MoveKind.TRY: pb.MOVE_KIND_TRY,
}


class LoraRouter(rpc.LoraRouterServiceServicer):
    """The service. Arguments of the wire are checked here, everything else by the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # for people

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Any
    ) -> pb.ListAdaptersResponse:
        """Return every adapter with its current version, or with its newest where none answers; those of the configuration that could not be taken in as well."""
        library = self._desk.library
        found = []
        for row, versions in self._desk.shown():
            shown = [each for each in versions if each.sha == row.current] or list(versions[:1])
            found.append(self._adapter(row, shown))
        known = {row.name for row in library.names()}
        found += [
            pb.Adapter(name=name, from_config=True, not_taken_in=why)
            for name, why in self._desk.not_taken_in.items()
            if name not in known
        ]
        if request.with_sums:
            sums = [each for each in library.versions() if each.name == MIX]
            if sums:
                found.append(self._adapter(Registered(MIX, ""), sums))
        return pb.ListAdaptersResponse(
            adapters=found,
            stored_bytes=library.stored_bytes,
            quota_bytes=library.quota_bytes,
            configuration=self._desk.configuration,
        )

    async def GetAdapter(
        self, request: pb.GetAdapterRequest, context: Any
    ) -> pb.GetAdapterResponse:
        """Return one adapter with all its versions."""
        return pb.GetAdapterResponse(adapter=self.adapter(request.name))

    async def PlaceAdapter(
        self, request: pb.PlaceAdapterRequest, context: Any
    ) -> pb.PlaceAdapterResponse:
        """Keep it somewhere else."""
        placement = _PLACEMENTS.get(request.placement)
        if placement is None:
            raise _invalid("placement", "say where: TIER_VRAM, TIER_RAM or TIER_SSD")
        with audit.change(
            "adapter_placed", _asker(), adapter=request.name, placement=str(placement)
        ) as told:
            told["sha"] = self._sha(request.name)
            await self._desk.place(request.name, placement)
        return pb.PlaceAdapterResponse(adapter=self.adapter(request.name))

    async def WarmAdapter(
        self, request: pb.WarmAdapterRequest, context: Any
    ) -> pb.WarmAdapterResponse:
        """Load it now."""
        if request.tier == pb.TIER_SSD:
            raise _invalid("tier", "warm loads into a slot (TIER_VRAM) or into memory (TIER_RAM)")
        kind = MoveKind.RAM if request.tier == pb.TIER_RAM else MoveKind.SLOT
        with audit.change("adapter_warmed", _asker(), adapter=request.name, tier=str(kind)) as told:
            told["sha"] = self._sha(request.name)
            places = await self._desk.warm(request.name, kind)
        return pb.WarmAdapterResponse(residences=map(_residence, places))

    async def EvictAdapter(
        self, request: pb.EvictAdapterRequest, context: Any
    ) -> pb.EvictAdapterResponse:
        """Take it out of slots and memory."""
        with audit.change("adapter_evicted", _asker(), adapter=request.name) as told:
            told["sha"] = self._sha(request.name)
            places = await self._desk.evict(request.name)
        return pb.EvictAdapterResponse(residences=map(_residence, places))

    async def RemoveAdapter(
        self, request: pb.RemoveAdapterRequest, context: Any
    ) -> pb.RemoveAdapterResponse:
        """Remove it."""
        if not 0 <= request.wait_s <= LONGEST_REMOVE_S:
            raise _invalid("wait_s", f"{request.wait_s:g} is not from 0 to {LONGEST_REMOVE_S:g}")
        with audit.change("adapter_removed", _asker(), adapter=request.name) as told:
            gone = await self._desk.remove(request.name, request.wait_s or REMOVE_S)
            told["references"] = ",".join(gone)
        return pb.RemoveAdapterResponse(removed=gone)

    async def SwitchVersion(
        self, request: pb.SwitchVersionRequest, context: Any
    ) -> pb.SwitchVersionResponse:
        """Let another version answer."""
        with audit.change(
            "version_switched", _asker(), adapter=request.name, force=request.force
        ) as told:
            told["before"] = self._desk.library.get(request.name)[0].current
            told["sha"] = self._sha(f"{request.name}:{request.sha}")
            await self._desk.switch(request.name, request.sha, force=request.force)
        return pb.SwitchVersionResponse(adapter=self.adapter(request.name))

    # inside the cluster

    async def Compose(self, request: pb.ComposeRequest, context: Any) -> pb.ComposeResponse:
        """Return the reference of a sum."""
        _cluster_only()
        if not 1 <= len(request.parts) <= MOST_PARTS:
            raise _invalid("parts", f"there are {len(request.parts)}, and 1 to {MOST_PARTS} may be")
        parts = [_part(text) for text in request.parts]
        made = await self._desk.compose(parts)
        return pb.ComposeResponse(reference=made, parts=request.parts)

    async def Want(self, request: pb.WantRequest, context: Any) -> pb.WantResponse:
        """Take a hint."""
        _cluster_only()
        if len(request.names) > MOST_HINTS:
            raise _invalid(
                "names", f"{len(request.names)} at once, and at most {MOST_HINTS} may be"
            )
        self._desk.want(request.names, request.until)
        return pb.WantResponse()

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        """Take a report, and answer when something is wanted."""
        _cluster_only()
        for field in ("executor", "replica"):
            if not getattr(request, field):
                raise _invalid(field, "it is empty")
        if not 0 <= request.wait_s <= LONGEST_WAIT_S:
            raise _invalid("wait_s", f"{request.wait_s:g} is not from 0 to {LONGEST_WAIT_S:g}")
        report = _report(request)
        try:
            return _response(await self._desk.fleet.report(report))
        except asyncio.CancelledError:  # its connection has ended
            self._desk.fleet.lost(report)
            raise

    async def FetchFiles(
        self, request: pb.FetchFilesRequest, context: Any
    ) -> AsyncIterator[pb.FetchFilesResponse]:
        """Stream the two files of a version."""
        _cluster_only()
        path = next((v.path for v in self._desk.library.versions() if v.sha == request.sha), None)
        if path is None:
            raise ConsiliumError("adapter_unknown", name=request.sha[:16])
        for file in _FILES:
            async for piece in _pieces(path / file):
                yield pb.FetchFilesResponse(file=file, piece=piece)

    # words

    def _sha(self, text: str) -> str:
        """Return the hash of the version that NAME or NAME:VERSION means; "" where no version of a name answers yet. Raises ConsiliumError(adapter_unknown)."""
        if ":" not in text and not self._desk.library.get(text)[0].current:
            return ""
        return self._desk.library.find(text).sha

    def adapter(self, name: str) -> pb.Adapter:
        """Return one adapter with all its versions. Raises ConsiliumError(adapter_unknown)."""
        try:
            row, versions = self._desk.library.get(name)
        except ConsiliumError as error:
            why = self._desk.not_taken_in.get(name)
            if why is None or error.code != "adapter_unknown":
                raise
            return pb.Adapter(name=name, from_config=True, not_taken_in=why)
        return self._adapter(row, versions)

    def _adapter(self, row: Registered, versions: Iterable[StoredVersion]) -> pb.Adapter:
        return pb.Adapter(
            name=row.name,
            current=row.current,
            versions=[self._version(version) for version in versions],
            placement=_TIERS[row.placement],
            from_config=row.from_config,
            with_core=row.with_core,
            isolated=row.isolated,
            domain=row.domain,
            triggers=row.triggers,
            examples=row.examples,
            threshold=row.threshold,
            executors=row.executors,
            not_taken_in=self._desk.not_taken_in.get(row.name, ""),
        )

    def _version(self, version: StoredVersion) -> pb.Version:
        name = reference(version.name, version.sha)
        uses = self._desk.library.uses(name)
        fits = self._desk.told_fits(version)
        remarks = [*version.remarks, *(f"{e}: {why}" for e, why in fits.items() if why)]
        failure, damage = (
            self._desk.fleet.failure(name),
            self._desk.library.damaged.get(version.sha),
        )
        if damage:
            remarks.append(f"{damage}. Add it again: the same content puts it right")
        return pb.Version(
            sha=version.sha,
            lora_int_id=version.lora_int_id,
            rank=version.rank,
            size_bytes=version.size_bytes,
            stored_at=version.stored_at,
            proof=_PROOFS[version.proof],
            proof_json=version.proof_json,
            remarks=[*remarks, *([f"could not be loaded: {failure}"] if failure else [])],
            fits=[executor for executor, why in fits.items() if not why],
            residences=map(_residence, self._desk.places(version)),
            slot_hits=uses.slot_hits,
            ram_hits=uses.ram_hits,
            misses=uses.misses,
            last_used_at=uses.last_used_at,
            parts=[f"{part}@{weight:g}" for part, weight in version.parts],
        )


def service(servicer: LoraRouter) -> Service:
    """Return the service for the kernel's server."""
    return Service(
        NAME, lambda server: rpc.add_LoraRouterServiceServicer_to_server(servicer, server)
    )


def _asker() -> object:
    call = calls.serving()
    return call.principal if call else CLUSTER


def _cluster_only() -> None:
    if calls.current().principal != CLUSTER:
        raise ConsiliumError(
            "forbidden", reason="only parts of the cluster may ask this, as themselves"
        )


def _invalid(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason)


def _part(text: str) -> tuple[str, float]:
    found = _PART.fullmatch(text)
    if found is None or abs(float(found["weight"])) > HEAVIEST:
        raise _invalid("parts", f"{text[:100]!r} is not NAME:SHA@WEIGHT")
    return found["name"], float(found["weight"])


def _residence(place: Place) -> pb.Residence:
    return pb.Residence(
        executor=place.executor,
        replica=place.replica,
        tier=_TIERS[place.tier],
        slot=place.slot,
        pinned=place.pinned,
        in_use=place.in_use,
        exact=place.exact,
        silent_since=place.silent_since,
    )


def _report(request: pb.ReportRequest) -> Report:
    return Report(
        executor=request.executor,
        replica=request.replica,
        version=request.version,
        slots=tuple(SlotView(s.slot, s.reference, s.pinned) for s in request.slots),
        ram=tuple(request.ram),
        uses=tuple(
            UseNote(
                use.reference,
                use.in_use,
                Uses(use.slot_hits, use.ram_hits, use.misses, use.last_used_at),
                use.failure,
            )
            for use in request.uses
        ),
        tried=tuple(
            TriedNote(
                each.reference,
                _FOUND.get(each.proof, Proof.FAILED),
                each.figures_json,
                each.fingerprint,
            )
            for each in request.tried
        ),
        done=tuple(request.done),
        max_rank=request.max_rank,
        ram_places=request.ram_places,
        base_revision=request.base_revision,
        base_config=request.base_config_json,
        exact=request.exact,
        sees_store=request.sees_store,
        wait_s=request.wait_s,
        target_modules=tuple(request.target_modules),
        mixed_experts=request.mixed_experts,
        doing=frozenset(request.doing),
        tells_doing=request.tells_doing,
    )


def _response(wanted: Wanted) -> pb.ReportResponse:
    return pb.ReportResponse(
        version=wanted.version,
        whole=wanted.whole,
        targets=[_target(target) for target in wanted.targets],
        gone=wanted.gone,
        moves=[
            pb.Move(id=move.id, kind=_KINDS[move.kind], reference=move.reference)
            for move in wanted.moves
        ],
    )


def _target(target: Target) -> pb.Target:
    return pb.Target(
        reference=target.reference,
        sha=target.sha,
        lora_int_id=target.lora_int_id,
        rank=target.rank,
        size_bytes=target.size_bytes,
        path=target.path,
        placement=_TIERS[target.placement],
        is_3d=target.is_3d,
        fingerprint=target.fingerprint,
    )


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError as error:
        raise ConsiliumError(
            "data_damaged", reason=f"{path} cannot be read: {error.strerror}"
        ) from error
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece

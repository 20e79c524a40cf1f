"""What `consilium adapters check` says: every rule on one adapter, with a row for each finding, and what a slot for it costs.

Pure but for reading the two files. Does not print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, base_weights, fit
from consilium.lora_router.adapter_files import USUAL, Limits
from consilium.lora_router.base_modules import Base
from consilium.lora_router.ports import Described, Refusal
from consilium.lora_router.refusal import from_error
from consilium.planner.lora import Slots, slot_bytes
from consilium.planner.sharding import Cut

Verdict = Literal["good", "remark", "refused"]
ON_CARDS: Final = "a mixture of experts serves adapters on cards alone: on processors vLLM dies with room for them, and 'up' refuses it"
MIB: Final = 1 << 20
LOOKED_AT: Final = 4
"""Modules whose matrices are read out of the base's weights."""

LARGER_THAN_BASE: Final = 1.0
"""Norm of a scaled delta, as a share of its matrix, above which it is remarked."""


@dataclass(frozen=True, slots=True)
class Row:
    """One finding. `way` is empty where nothing is to be done."""

    verdict: Verdict
    code: str
    where: str
    reason: str
    way: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings; the adapter is good if no row refuses it."""

    rows: tuple[Row, ...]
    described: Described | None = None

    @property
    def is_good(self) -> bool:
        """Whether no row refuses it."""
        return all(row.verdict != "refused" for row in self.rows)


def report(
    folder: Path,
    base: Base | None,
    wanted: fit.Wanted = fit.NOTHING,
    *,
    weights: Path | None = None,
    limits: Limits = USUAL,
) -> Report:
    """Return what every rule says of an adapter. Where its files cannot be read at all, that is the only row.

    base     None = no model is asked about
    weights  folder with the base's weights, where they are at hand: its strongest modules are held against them
    """
    try:
        outline = adapter_files.read(folder, limits).described()
    except ConsiliumError as err:
        return Report((_row("refused", from_error(err)),))
    found: Described | None = None
    norms: Mapping[str, float] = {}
    rows = [_in_words(outline)]
    try:
        found, norms = adapter_files.measure(folder, limits)
    except ConsiliumError as err:
        rows.append(_row("refused", from_error(err)))
    described = found or outline
    rows += [_row("remark", remark) for remark in described.remarks]
    if base is not None:
        rows += _against(described, base, wanted)
    if weights is not None and norms:
        rows += _scale(norms, weights)
    return Report(tuple(rows), found)


def _against(described: Described, base: Base, wanted: fit.Wanted) -> Iterator[Row]:
    result = fit.check(described, base, wanted)
    yield from (_row("refused", refusal) for refusal in result.refusals)
    yield from (_row("remark", remark) for remark in result.remarks)
    if result.is_good and base.modules:
        cards = f"; {ON_CARDS}" if base.shape.is_moe else ""
        yield Row(
            "good", "fits", base.name, f"every module is one of {base}, with its widths{cards}"
        )
        yield _cost(described, base, wanted)


def _scale(norms: Mapping[str, float], weights: Path) -> Iterator[Row]:
    """Say how large the strongest deltas are beside the matrices that they change."""
    strongest = sorted(norms, key=lambda module: norms[module], reverse=True)[:LOOKED_AT]
    matrices = base_weights.norms(weights, strongest)
    shares = {module: norms[module] / size for module, size in matrices.items() if size}
    if not shares:
        return
    module = max(shares, key=lambda name: shares[name])
    told = f"its strongest module has {shares[module]:.2g} of the matrix that it changes"
    if shares[module] <= LARGER_THAN_BASE:
        yield Row("good", "scale", module, told)
        return
    yield Row(
        "remark",
        "larger_than_base",
        module,
        f"{told}; trained ones have 0.001 to 0.5",
        "Look at lora_alpha, r and use_rslora; the canary tells",
    )


def _in_words(described: Described) -> Row:
    experts = ", experts stored together" if described.is_3d else ""
    trained = f", trained on {described.base}" if described.base else ""
    return Row(
        "good",
        "format",
        "adapter",
        f"{len(described.modules)} modules of rank up to {described.rank}{experts}, {described.size_bytes / MIB:.1f} MiB{trained}",
    )


def _cost(described: Described, base: Base, wanted: fit.Wanted) -> Row:
    """Say what one slot takes at the rank that this adapter needs: every slot, full or empty, for every module that the engine gives one."""
    rank = wanted.max_rank or 0
    if rank < described.rank:
        rank = fit.step_for(described.rank)
    groups = slot_bytes(base.shape, Slots(slots=1, rank=rank), Cut())
    whole, attention = sum(groups.values()), groups.get("attention", 0)
    touches_experts = any(".experts" in module for module in described.modules)
    advice = (
        "Train attention alone unless the experts are the point: engine.lora.target_modules can then leave them out"
        if base.shape.experts and touches_experts
        else ""
    )
    return Row(
        "remark" if advice else "good",
        "slot",
        base.name,
        f"a slot at max_rank {rank} takes {whole / MIB:.0f} MiB for all modules, {attention / MIB:.0f} MiB for attention alone",
        advice,
    )


def _row(verdict: Verdict, refusal: Refusal) -> Row:
    return Row(verdict, refusal.code, refusal.where, refusal.reason, refusal.way)

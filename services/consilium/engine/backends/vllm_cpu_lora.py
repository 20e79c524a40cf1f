"""Adapters in the batches of an engine on cores: each row gets its own adapter, and a row without one gets none.

vLLM marks a row without an adapter with -1 and takes that for a place in its table of slots: in a batch with others the plain model answered with what the last slot
held, or had held. And it copies an adapter for every single row. Here that is done for a few rows only; many are taken slot by slot.

Touches vLLM; runs in the processes of an engine's core. Does not know who asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from vllm.lora.punica_wrapper import punica_cpu

SMALL: Final = 1 << 18
"""Numbers that are copied at most to give each row the matrix of its adapter."""


def shrink(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    slots: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """Write rows @ A of each row's slot to the first columns of `output`; zeros for a row without an adapter.

    inputs   (rows, in)
    weights  (slots, 1, rank, in) or (slots, rank, in)
    output   (rows, rank or more)
    slots    (rows): slot of each row, -1 = none
    """
    rank = weights.shape[-2]
    if _is_small(inputs, weights):
        product = _each(inputs.to(output.dtype), weights, slots)
        output[:, :rank] = product.mul_(scaling).masked_fill_((slots < 0)[:, None], 0)
        return
    output[:, :rank] = 0
    for slot, rows in _groups(slots):
        product = inputs[rows].to(output.dtype) @ _slot(weights, slot).to(output.dtype).T
        output[rows, :rank] = scaling * product


def expand(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    slots: torch.Tensor,
    *,
    offset: int = 0,
    add: bool = True,
) -> None:
    """Add rows @ B of each row's slot to the columns of `output` from `offset` on, or write it there. A row without an adapter stays as it is.

    inputs   (rows, rank)
    weights  (slots, 1, out, rank) or (slots, out, rank); columns that `output` does not have are left out
    """
    width = min(weights.shape[-2], output.shape[1] - offset)
    if add and _is_small(inputs, weights):
        product = _each(inputs.to(output.dtype), weights, slots)
        product.masked_fill_((slots < 0)[:, None], 0)
        output[:, offset : offset + width] += product[:, :width]
        return
    for slot, rows in _groups(slots):
        product = inputs[rows].to(output.dtype) @ _slot(weights, slot).to(output.dtype).T
        if add:
            output[rows, offset : offset + width] += product[:, :width]
        else:
            output[rows, offset : offset + width] = product[:, :width]


def _is_small(inputs: torch.Tensor, weights: torch.Tensor) -> bool:
    """Say whether an adapter for each row takes little memory: then one product of all is quicker than one for each slot."""
    return int(inputs.shape[0] * weights.shape[-1] * weights.shape[-2]) <= SMALL


def _each(inputs: torch.Tensor, weights: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return each row's product with the matrix of its slot; what a row without an adapter gets means nothing."""
    flat = weights.flatten(0, -3) if weights.dim() > 3 else weights  # packed modules have one more
    mine = flat.index_select(0, slots.clamp(min=0)).to(inputs.dtype)
    return torch.bmm(mine, inputs.unsqueeze(-1)).squeeze(-1)


def _groups(slots: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (slot, mask of its rows) for each slot that is used."""
    for slot in torch.unique(slots).tolist():
        if slot >= 0:
            yield slot, slots == slot


def _slot(weights: torch.Tensor, slot: int) -> torch.Tensor:
    one = weights[slot]
    return one.squeeze(0) if one.dim() == 3 else one  # packed modules have one more


def _rows(indices: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return torch.repeat_interleave(indices, lengths)


def _bgmv_shrink(inputs: Any, weights: Any, output: Any, slots: Any, scaling: float = 1.0) -> None:
    shrink(inputs, weights, output, slots, scaling)


def _bgmv_expand(
    inputs: Any,
    weights: Any,
    output: Any,
    slots: Any,
    add_inputs: bool = True,  # noqa: FBT001, FBT002
) -> None:
    expand(inputs, weights, output, slots, add=add_inputs)


def _bgmv_expand_slice(  # noqa: PLR0917
    inputs: Any, weights: Any, output: Any, slots: Any, offset: int, size: int, add_inputs: bool = True  # noqa: FBT001, FBT002
) -> None:  # fmt: skip
    expand(inputs, weights, output[:, : offset + size], slots, offset=offset, add=add_inputs)


def _sgmv_shrink(inputs: Any, weights: Any, output: Any, *meta: Any) -> None:
    _starts, lengths, indices, _batches, _longest, _tokens, scaling = meta
    shrink(inputs, weights, output, _rows(indices, lengths), scaling)


def _sgmv_expand(inputs: Any, weights: Any, output: Any, *meta: Any) -> None:
    _starts, lengths, indices, _batches, _longest, _tokens, add_inputs = meta
    expand(inputs, weights, output, _rows(indices, lengths), add=add_inputs)


def _sgmv_expand_slice(inputs: Any, weights: Any, output: Any, *meta: Any) -> None:
    _starts, lengths, indices, _batches, _longest, _tokens, offset, size, add_inputs = meta
    rows = _rows(indices, lengths)
    expand(inputs, weights, output[:, : offset + size], rows, offset=offset, add=add_inputs)


OURS = {
    "bgmv_shrink": _bgmv_shrink,
    "bgmv_expand": _bgmv_expand,
    "bgmv_expand_slice": _bgmv_expand_slice,
    "sgmv_shrink": _sgmv_shrink,
    "sgmv_expand": _sgmv_expand,
    "sgmv_expand_slice": _sgmv_expand_slice,
}
"""Name by which vLLM's wrapper for cores calls it -> what is called instead."""


def install() -> None:
    """Let vLLM's wrapper for cores call these in this process."""
    for name, ours in OURS.items():
        setattr(punica_cpu, name, ours)

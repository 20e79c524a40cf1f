"""Exact sums of adapters: one adapter whose delta is the weighted sum of the deltas of its parts.

    delta of a module = sum over parts i of w_i * s_i * B_i @ A_i
    A = rows of A_1, A_2 ... one under another
    B = columns of w_1 * s_1 * B_1, w_2 * s_2 * B_2 ... side by side

Scale 1, so nothing but B holds weights. Merges that add factors (`linear` of PEFT, weights on A and B elsewhere) carry cross terms B_i @ A_j and are not this.
A module that only one part has comes from that one. Zero rows and columns fill up to one rank for all modules of a kind, which changes nothing; for all modules
of the adapter where that is cheap, else rank_pattern tells them apart. Factors are read and written one module at a time.

Knows files of adapters. Does not know names, engines, or who may be added to whom.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, base_name
from consilium.lora_router.adapter_config import LARGEST_RANK
from consilium.lora_router.adapter_files import CONFIG, TENSORS, USUAL, Limits, OpenFiles
from consilium.lora_router.checks import PREFIX, Pair, as_matched
from consilium.lora_router.factors import Floats, as_bytes, as_floats
from consilium.lora_router.ports import Described
from consilium.lora_router.refusal import refused, shown
from consilium.lora_router.tensor_file import ITEM_BYTES, LENGTH, Tensor
from consilium.lora_router.values import LARGEST_BF16, LARGEST_F16

CHEAP: Final = 1.25
"""By how much a file may grow so that all its modules have one rank."""

_LARGEST: Final = {"BF16": LARGEST_BF16, "F16": LARGEST_F16, "F32": LARGEST_BF16}
_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter of a sum: its folder, and the factor of its delta."""

    folder: Path
    weight: float


@dataclass(frozen=True, slots=True)
class _Share:
    """What one part gives to one module."""

    source: OpenFiles
    pair: Pair
    weight: float


_Shares = dict[str, list[_Share]]


def compose(
    terms: Sequence[Term],
    folder: Path,
    *,
    max_rank: int = LARGEST_RANK,
    dtype: str = "BF16",
    limits: Limits = USUAL,
) -> Described:
    """Write the sum of adapters into an existing empty folder, and return what it is: its `sha` is the hash of its own content.

    dtype    BF16, F16 or F32: what the factors are stored in; sums are made in float32
    Raises ConsiliumError(adapter_refused): sum_empty, sum_nothing, bases_differ, layouts_differ, widths_differ, rank_too_large, overflow, or what the checks find in a part;
    OSError where the disk refuses. Then the folder holds neither file.
    """
    with ExitStack() as stack:
        sources = [
            (stack.enter_context(adapter_files.opened(term.folder, limits)), term.weight)
            for term in terms
            if term.weight
        ]
        _check_parts(sources)
        shares = _shares(sources)
        ranks = _ranks(shares, max_rank)
        try:
            _write_new(folder / CONFIG, [_config(shares, ranks, sources)])
            _write_new(folder / TENSORS, _file(shares, ranks, dtype))
            return _described(folder, limits)
        except BaseException:
            for name in (CONFIG, TENSORS):
                (folder / name).unlink(missing_ok=True)
            raise


def _described(folder: Path, limits: Limits) -> Described:
    try:
        return adapter_files.describe(folder, limits)
    except ConsiliumError as error:
        if error.fields.get("check") != "no_effect":
            raise
        raise refused(
            "sum_nothing",
            "sum",
            "its parts cancel each other out, so it changes nothing",
            "Give other weights",
        ) from error


def _check_parts(sources: Sequence[tuple[OpenFiles, float]]) -> None:
    if not sources:
        raise refused("sum_empty", "sum", "no part has a weight other than 0", "Give one a weight")
    told = {base_name.plain(name): name for name in _bases(sources) if base_name.plain(name)}
    if len(told) > 1:
        raise refused(
            "bases_differ",
            "sum",
            f"its parts were trained on {' and '.join(map(shown, told.values()))}",
            "Adapters of one base can be added",
        )
    if len({any(pair.experts for pair in source.files.pairs) for source, _ in sources}) > 1 and any(
        ".experts." in pair.module
        for source, _ in sources
        for pair in source.files.pairs
        if not pair.experts
    ):
        raise refused(
            "layouts_differ",
            "sum",
            "one part holds its experts one by one and another holds them together",
            "Save both in one layout",
        )


def _bases(sources: Sequence[tuple[OpenFiles, float]]) -> list[str]:
    return [source.files.settings.base for source, _ in sources]


def _shares(sources: Sequence[tuple[OpenFiles, float]]) -> _Shares:
    """Return what every part gives to every module, modules in order of their names."""
    found: _Shares = {}
    for source, weight in sources:
        for pair in source.files.pairs:
            there = found.setdefault(pair.module, [])
            if there and _widths(there[0].pair) != _widths(pair):
                raise refused(
                    "widths_differ",
                    pair.module,
                    f"one part has (in, out, experts) {_widths(there[0].pair)} and another {_widths(pair)}",
                    "They are of different bases; adapters of one base can be added",
                )
            there.append(_Share(source, pair, weight))
    return dict(sorted(found.items()))


def _widths(pair: Pair) -> tuple[int, int, int]:
    return pair.width_in, pair.width_out, pair.experts


def kind(module: str) -> str:
    r"""Return the pattern of a module and its like in other layers: model\.layers\.\d+\.self_attn\.q_proj."""
    return re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(as_matched(module)))


def _ranks(shares: _Shares, max_rank: int) -> dict[str, int]:
    """Return the rank of each module in the sum: one for all of a kind, one for all modules where that is cheap."""
    of_kind: dict[str, int] = {}
    for module, parts in shares.items():
        name = kind(module)
        of_kind[name] = max(of_kind.get(name, 0), sum(share.pair.rank for share in parts))
    largest = max(of_kind.values())
    if largest > max_rank:
        raise refused(
            "rank_too_large",
            "sum",
            f"the ranks of its parts add up to {largest}, and engines here hold {max_rank}",
            f"Set engine.lora.max_rank to {largest} or more; every slot grows with it",
        )
    ranks = {module: of_kind[kind(module)] for module in shares}
    even = dict.fromkeys(ranks, largest)
    return even if _elements(shares, even) <= CHEAP * _elements(shares, ranks) else ranks


def _elements(shares: _Shares, ranks: Mapping[str, int]) -> int:
    return sum(
        ranks[module]
        * (parts[0].pair.width_in + parts[0].pair.width_out)
        * max(1, parts[0].pair.experts)
        for module, parts in shares.items()
    )


def _config(
    shares: _Shares, ranks: Mapping[str, int], sources: Sequence[tuple[OpenFiles, float]]
) -> bytes:
    largest = max(ranks.values())
    uneven = {kind(module): rank for module, rank in ranks.items() if rank != largest}
    matched = [as_matched(module) for module in shares]
    fused = sorted(
        {
            ".".join(name.split(".")[-3:])
            for name, module in zip(matched, shares, strict=True)
            if name != module
        }
    )
    told: dict[str, Any] = {
        "base_model_name_or_path": next(filter(None, _bases(sources)), None),
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": largest,
        "peft_type": "LORA",
        "r": largest,
        "target_modules": sorted({name.rpartition(".")[2] for name in shares if name in matched}),
        "target_parameters": fused or None,
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
        "rank_pattern": uneven,
        "alpha_pattern": uneven,
    }
    return json.dumps(told, indent=2).encode()


def _file(shares: _Shares, ranks: Mapping[str, int], dtype: str) -> Iterator[bytes]:
    """Yield a safetensors file: its header, then the factors of one module after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for module, parts in shares.items():
        pair, rank = parts[0].pair, ranks[module] * max(1, parts[0].pair.experts)
        for side, shape in (("A", (rank, pair.width_in)), ("B", (pair.width_out, rank))):
            size = shape[0] * shape[1] * ITEM_BYTES[dtype]
            row = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            header[f"{PREFIX}{module}.lora_{side}.weight"] = row
            at += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    yield LENGTH.pack(len(raw)) + raw
    for module, parts in shares.items():
        for factor in _stacked(parts, ranks[module]):
            if not float(np.abs(factor).max()) <= _LARGEST[dtype]:
                raise refused(
                    "overflow",
                    module,
                    f"weighted, it holds values that {dtype} cannot",
                    "Give smaller weights",
                )
            yield as_bytes(factor, dtype)


def _stacked(parts: Sequence[_Share], rank: int) -> tuple[Floats, Floats]:
    """Return A and B of one module, filled up to `rank` with zeros.

    returns  A (rank, in), B (out, rank); of fused experts A (experts * rank, in), B (out, rank * experts)
    """
    wide, out, experts = _widths(parts[0].pair)
    each = max(1, experts)
    a = np.zeros((each, rank, wide), np.float32)
    b = np.zeros((out, rank, each), np.float32)
    at = 0
    for share in parts:
        pair = share.pair
        end = at + pair.rank
        a[:, at:end] = _floats(share.source, pair.a).reshape(each, pair.rank, wide)
        scaled = _floats(share.source, pair.b) * np.float32(share.weight * pair.scale)
        b[:, at:end] = scaled.reshape(out, pair.rank, each)
        at = end
    return a.reshape(each * rank, wide), b.reshape(out, rank * each)


def _floats(source: OpenFiles, tensor: Tensor) -> Floats:
    return as_floats(source.bytes_of(tensor), tensor.dtype, tensor.shape)


def _write_new(path: Path, pieces: Iterator[bytes] | list[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())

"""Numbers of one pair of factors: read as arrays, weighed, and written back in bfloat16.

Knows kinds of numbers and r x r products. Does not know files or names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

TYPICAL: Final = 0.02
"""Deviation of the values in a trained matrix, as an order of size: 0.02 to 0.05 in the Qwen models."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """One pair in figures.

    finite   whether all values are
    largest  largest absolute value of A and of scale times B
    norm     Frobenius norm of scale * B @ A
    share    norm as a share of that of a typical matrix of this shape
    """

    finite: bool
    largest: float = 0.0
    norm: float = 0.0
    share: float = 0.0


def as_floats(raw: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> Floats:
    """Return tensor bytes (BF16, F16 or F32, little-endian) as float32, exactly."""
    if dtype == "BF16":
        bits = np.frombuffer(raw, dtype="<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32).reshape(shape)
    kind = "<f2" if dtype == "F16" else "<f4"
    return np.frombuffer(raw, dtype=kind).astype(np.float32).reshape(shape)


def as_bytes(values: Floats, dtype: str) -> bytes:
    """Return float32 values as BF16 (to the nearest, ties to even), F16 or F32, little-endian. The values are finite and within the range of the kind."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        rounded = (bits >> 16) & 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        return rounded.astype("<u2").tobytes()
    return values.astype("<f2" if dtype == "F16" else "<f4").tobytes()


def weigh(a: Floats, b: Floats, scale: float, experts: int = 0) -> Weighed:
    """Return the figures of scale * B @ A without making the product: norm(BA)^2 = trace((B^T B)(A A^T)), r x r matrices alone.

    a, b     as checks.Pair holds them; with `experts` A is (experts * r, in) and B is (out, r * experts), as PEFT stores and vLLM reads them
    """
    most_a, most_b = _largest(a), _largest(b)
    if not (math.isfinite(most_a) and math.isfinite(most_b)):
        return Weighed(finite=False)
    norm = scale * most_a * most_b * math.sqrt(max(0.0, _square(a, b, most_a, most_b, experts)))
    typical = TYPICAL * math.sqrt(a.shape[1] * b.shape[0] * max(1, experts))
    return Weighed(True, max(most_a, scale * most_b), norm, norm / typical)


def _largest(values: Floats) -> float:
    """Return the largest absolute value, NaN or infinity where there is one."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def _square(a: Floats, b: Floats, most_a: float, most_b: float, experts: int) -> float:
    if not (most_a and most_b):
        return 0.0
    a, b = a / np.float32(most_a), b / np.float32(most_b)
    if not experts:
        return float(np.sum((a @ a.T) * (b.T @ b), dtype=np.float64))
    each_a = a.reshape(experts, -1, a.shape[1])
    each_b = b.reshape(b.shape[0], -1, experts)
    return math.fsum(
        float(np.sum((one @ one.T) * (each_b[:, :, at].T @ each_b[:, :, at]), dtype=np.float64))
        for at, one in enumerate(each_a)
    )

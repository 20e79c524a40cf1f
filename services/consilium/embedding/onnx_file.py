"""ONNX models as bytes, without the onnx package: nodes and tensors go in, what an ONNX runtime loads comes out.

Knows protobuf's wire format and the few messages of onnx.proto that a graph of dense tensors needs. Does not know models.
Source of the field numbers: onnx/onnx.proto (Apache-2.0), IR version 8.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Shape: TypeAlias = Sequence[int | str]
"""Sizes of a tensor; a name where the size is known only when the model runs."""

FLOAT: Final = 1
INT32: Final = 6
_TYPES: Final = {"float32": FLOAT, "uint8": 2, "int32": INT32, "int64": 7}
_IR_VERSION: Final = 8
_OPSET: Final = 17
_CONTRIB: Final = "com.microsoft"
_INT_ATTRIBUTE, _FLOAT_ATTRIBUTE, _INTS_ATTRIBUTE = 2, 1, 7


class Graph:
    """A graph that is being written. Every method returns the bytes' place or name that the next one needs."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._count = 0

    def tensor(self, values: npt.NDArray[np.generic], name: str) -> str:
        """Add a constant and return its name. float32, uint8, int32 and int64 are known."""
        whole = np.ascontiguousarray(values)
        self._tensors.append(
            b"".join(_number(1, size) for size in whole.shape)
            + _number(2, _TYPES[whole.dtype.name])
            + _text(8, name)
            + _message(9, whole.tobytes())
        )
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        *,
        output: str | None = None,
        contrib: bool = False,
        **attributes: float | Sequence[int],
    ) -> str:
        """Add an operator with one output and return that output's name.

        inputs   names; an empty one is an optional input that is left out
        contrib  whether it is one of ONNX Runtime's own operators
        """
        self._count += 1
        made = output or f"{kind}_{self._count}"
        self._nodes.append(
            b"".join(_text(1, name) for name in inputs)
            + _text(2, made)
            + _text(4, kind)
            + b"".join(_message(5, _attribute(*pair)) for pair in attributes.items())
            + (_text(7, _CONTRIB) if contrib else b"")
        )
        return made

    def model(
        self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, tuple[int, Shape]]
    ) -> bytes:
        """Return the model. Inputs and outputs are name -> (type, shape)."""
        graph = (
            b"".join(_message(1, node) for node in self._nodes)
            + _text(2, "consilium")
            + b"".join(_message(5, tensor) for tensor in self._tensors)
            + b"".join(_message(11, _value(name, *what)) for name, what in inputs.items())
            + b"".join(_message(12, _value(name, *what)) for name, what in outputs.items())
        )
        return (
            _number(1, _IR_VERSION)
            + _text(2, "consilium")
            + _message(7, graph)
            + _message(8, _text(1, "") + _number(2, _OPSET))
            + _message(8, _text(1, _CONTRIB) + _number(2, 1))
        )


def _value(name: str, kind: int, shape: Shape) -> bytes:
    sizes = b"".join(
        _message(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in shape
    )
    return _text(1, name) + _message(2, _message(1, _number(1, kind) + _message(2, sizes)))


def _attribute(name: str, value: float | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE)
    if isinstance(value, float):
        return _text(1, name) + b"\x15" + struct.pack("<f", value) + _number(20, _FLOAT_ATTRIBUTE)
    return (
        _text(1, name) + b"".join(_number(8, item) for item in value) + _number(20, _INTS_ATTRIBUTE)
    )


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is its two's complement in 64 bits
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)

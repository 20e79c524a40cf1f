import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bf16 import from_bf16

from consilium.demo.weights import BrokenFileError, check_file, to_bf16, write_bf16

FINITE = st.floats(
    width=32,
    allow_nan=False,
    allow_infinity=False,
    allow_subnormal=False,
    min_value=-(2.0**126),
    max_value=2.0**126,
)


@given(st.lists(FINITE, min_size=1, max_size=50))
def test_rounding_is_to_the_nearest(values):
    floats = np.array(values, dtype=np.float32)
    back = from_bf16(to_bf16(floats))
    assert np.all(np.abs(back - floats) <= np.maximum(np.abs(floats) * 2.0**-8, np.float32(1e-40)))
    assert np.array_equal(to_bf16(back), to_bf16(floats))


def test_ties_go_to_even():
    ties = np.array([0x3F808000, 0x3F818000], dtype=np.uint32).view(np.float32)
    assert to_bf16(ties).tolist() == [0x3F80, 0x3F82]


def written(tmp_path, shapes, tensors=None):
    path = tmp_path / "w.safetensors"
    given_tensors = tensors or [
        (name, np.arange(int(np.prod(shape)), dtype=np.uint16).reshape(shape))
        for name, shape in shapes.items()
    ]
    write_bf16(path, shapes, given_tensors)
    return path


def test_safetensors_reads_what_was_written(tmp_path):
    from safetensors import safe_open

    shapes = {"a": (3, 4), "b": (7,)}
    path = written(tmp_path, shapes)
    assert check_file(path) == shapes
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == {"a", "b"}
        assert file.get_slice("a").get_shape() == [3, 4]
        assert file.get_slice("a").get_dtype() == "BF16"


def test_a_tensor_out_of_order_is_refused(tmp_path):
    with pytest.raises(ValueError, match="came where a"):
        written(tmp_path, {"a": (2,)}, [("b", np.zeros(2, np.uint16))])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b"x", "too long"),
        (lambda data: data[:5], "no header"),
        (lambda data: data[:20], "header has"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "pointer"),
        (lambda data: struct.pack("<Q", 4) + b"nope" + data, "not readable"),
        (lambda data: struct.pack("<Q", 2) + b"[]", "not readable"),
        (
            lambda data: (
                struct.pack("<Q", len(raw := json.dumps({"a": {"shape": 1}}).encode())) + raw
            ),
            "not readable",
        ),
        (lambda data: b"", "no header"),
    ],
)
def test_a_broken_file_is_named(tmp_path, change, says):
    path = written(tmp_path, {"a": (3, 4)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenFileError, match=says):
        check_file(path)

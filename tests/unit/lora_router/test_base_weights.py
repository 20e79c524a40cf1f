"""Norms of a base's matrices, read out of its files."""

import numpy as np
import pytest
from tests.unit.lora_router import made

from consilium.lora_router import base_weights


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_norms_are_those_of_the_matrices(tmp_path, dtype):
    rng = np.random.default_rng(1)
    weights = {
        f"model.layers.{layer}.mlp.up_proj.weight": rng.normal(0, 0.02, (96, 64)).astype(np.float32)
        for layer in range(3)
    }
    for number, (name, values) in enumerate(weights.items()):
        raw = made.joined(*made.header_and_body({name: values}, dtype))
        (tmp_path / f"model-{number}.safetensors").write_bytes(raw)
    asked = [name.removesuffix(".weight") for name in weights]
    found = base_weights.norms(tmp_path, [*asked[:2], "model.layers.9.mlp.up_proj"])
    assert set(found) == set(asked[:2])
    for module in asked[:2]:
        wanted = np.linalg.norm(weights[f"{module}.weight"])
        assert found[module] == pytest.approx(wanted, rel=1e-3)


def test_files_that_cannot_be_read_say_nothing(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 100)
    assert base_weights.norms(tmp_path, ["x"]) == {}
    assert base_weights.norms(tmp_path / "none", ["x"]) == {}

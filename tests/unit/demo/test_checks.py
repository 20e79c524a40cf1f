import json

import numpy as np
import pytest

from consilium.demo import tiny
from consilium.demo.checks import INDEX, check_folder
from consilium.demo.weights import write_bf16
from consilium.kernel.errors import ConsiliumError


@pytest.fixture
def folder(tmp_path):
    return tiny.make(tmp_path / "m")


def sharded(folder):
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for number, name in enumerate(names):
        write_bf16(folder / name, {f"t{number}": (4,)}, [(f"t{number}", np.zeros(4, np.uint16))])
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {f"t{number}": name for number, name in enumerate(names)}})
    )
    return names


def fault(folder):
    with pytest.raises(ConsiliumError) as caught:
        check_folder(folder, "mine")
    assert caught.value.code == "model_missing"
    assert caught.value.public().startswith("mine: ")
    return caught.value.public()


def test_whole_folders_pass(folder):
    check_folder(folder, "mine")
    sharded(folder)
    check_folder(folder, "mine")


def cut(path, count=1):
    data = path.read_bytes()
    path.write_bytes(data[:-count])


def lora(folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").write_text('{"peft_type": "LORA"}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no architecture"),
        (lora, "LoRA adapter"),
        (lambda folder: cut(folder / "model.safetensors"), "truncated"),
        (lambda folder: cut(folder / "model.safetensors", 2_888_000), "damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors files"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf"),
            "GGUF files only",
        ),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "PyTorch .bin files only",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / sharded(folder)[1]).unlink(), "1 of 2 weight files are missing"),
        (lambda folder: cut(folder / sharded(folder)[0]), "truncated"),
        (
            lambda folder: (folder / sharded(folder)[1]).write_bytes(
                (folder / "model-00001-of-00002.safetensors").read_bytes()
            ),
            "does not hold t1",
        ),
        (lambda folder: sharded(folder) and (folder / INDEX).write_text("{}"), "no weight_map"),
    ],
)
def test_each_fault_is_one_sentence(folder, damage, says):
    damage(folder)
    assert says in fault(folder)


def test_the_folder_is_named_once(folder):
    (folder / "config.json").unlink()
    assert fault(folder).endswith(f"(in {folder})")
    with pytest.raises(ConsiliumError) as caught:
        check_folder(folder, str(folder))
    assert caught.value.public().count(str(folder)) == 1


def test_no_folder(tmp_path):
    assert "there is no such folder" in fault(tmp_path / "nowhere")


def test_an_unreadable_weight_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    assert "cannot be read" in fault(folder)

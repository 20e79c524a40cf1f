"""Is this folder a model that can be served? Every fault is one sentence, found before an engine is started.

Reads config.json, the shards' headers and file names. Does not read tensors and does not know engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consilium.demo.weights import BrokenFileError, check_file
from consilium.kernel.errors import ConsiliumError

INDEX: Final = "model.safetensors.index.json"
_TOKENIZERS: Final = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("tekken.json",),
    ("vocab.txt",),
)
_OTHER_FORMATS: Final = {
    ".gguf": "GGUF files only; take the repository of the original weights",
    ".bin": "PyTorch .bin files only; take a revision with safetensors",
    ".pth": "PyTorch .pth files only; take a revision with safetensors",
    ".onnx": "ONNX files only; take the repository of the original weights",
}


def check_folder(folder: Path, name: str) -> None:
    """Return if the folder holds a whole model. Raises ConsiliumError(model_missing) with the first fault and the way out."""
    if not folder.is_dir():
        raise _missing(name, f"there is no folder {folder}")
    _check_config(folder, name)
    _check_weights(folder, name)
    if not any(
        all((folder / file).is_file() for file in files) for files in _TOKENIZERS
    ) and not list(folder.glob("*.tiktoken")):
        raise _missing(
            name, f"{folder} has no tokenizer (tokenizer.json); copy it from the model's repository"
        )


def _check_config(folder: Path, name: str) -> None:
    config = _json(folder / "config.json", name)
    if not config.get("architectures") and not config.get("model_type"):
        hint = (
            "it belongs to a LoRA adapter, not to a model"
            if "peft_type" in config or (folder / "adapter_config.json").exists()
            else "it names no architecture"
        )
        raise _missing(name, f"{folder}/config.json is no model's: {hint}")


def _check_weights(folder: Path, name: str) -> None:
    index = folder / INDEX
    if not index.exists():
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise _missing(name, f"{folder} has {_what_else(folder)}")
        for shard in shards:
            _check_shard(shard, name)
        return
    places = _json(index, name).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise _missing(name, f"{index} has no weight_map; download the file again")
    expected: dict[str, set[str]] = {}
    for tensor, file in places.items():
        expected.setdefault(str(file), set()).add(str(tensor))
    lost = sorted(file for file in expected if not (folder / file).is_file())
    if lost:
        raise _missing(
            name,
            f"{len(lost)} of {len(expected)} weight files are missing from {folder}, the first is {lost[0]}; finish the download",
        )
    for file, tensors in sorted(expected.items()):
        absent = sorted(tensors - _check_shard(folder / file, name))
        if absent:
            raise _missing(
                name,
                f"{folder / file} does not hold {absent[0]}, which the index promises; download the file again",
            )


def _check_shard(path: Path, name: str) -> set[str]:
    try:
        return set(check_file(path))
    except BrokenFileError as cause:
        raise _missing(name, f"{path} is damaged: {cause}; download it again") from cause
    except OSError as cause:
        raise _missing(name, f"{path} cannot be read: {cause.strerror}") from cause


def _what_else(folder: Path) -> str:
    suffixes = {file.suffix for file in folder.iterdir()}
    return next(
        (text for suffix, text in _OTHER_FORMATS.items() if suffix in suffixes),
        "no .safetensors file; the download may be incomplete",
    )


def _json(path: Path, name: str) -> Mapping[str, object]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as cause:
        raise _missing(
            name,
            f"{path.parent} has no {path.name}; it is not a model folder, or the download is incomplete",
        ) from cause
    except OSError as cause:
        raise _missing(name, f"{path} cannot be read: {cause.strerror}") from cause
    except ValueError as cause:
        raise _missing(name, f"{path} is not JSON; download it again") from cause
    if not isinstance(found, dict):
        raise _missing(name, f"{path} is not a JSON object; download it again")
    return found


def _missing(name: str, reason: str) -> ConsiliumError:
    return ConsiliumError("model_missing", name=name, reason=reason)

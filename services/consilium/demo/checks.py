"""Is this folder a model that can be served? Every fault is one sentence, found before an engine is started.

Reads config.json, the shards' headers and file names. Does not read tensors and does not know engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consilium.demo.weights import BrokenFileError, check_file
from consilium.kernel.errors import ConsiliumError
from consilium.planner import checkpoint

INDEX: Final = "model.safetensors.index.json"
_MOST_INDEX_BYTES: Final = 256 << 20
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
    try:
        _check(folder)
    except _FaultError as fault:
        # Where the model is called by its folder, the sentence begins with the folder already.
        reason = str(fault) if str(folder) == name else f"{fault} (in {folder})"
        raise ConsiliumError("model_missing", name=name, reason=reason) from fault


class _FaultError(Exception):
    """What is wrong with a folder and the way out, as a sentence that does not name the folder."""


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise _FaultError("there is no such folder")
    _check_config(folder)
    _check_weights(folder)
    if not any(
        all((folder / file).is_file() for file in files) for files in _TOKENIZERS
    ) and not list(folder.glob("*.tiktoken")):
        raise _FaultError(
            "there is no tokenizer (tokenizer.json); copy it from the model's repository"
        )


def _check_config(folder: Path) -> None:
    config = _json(folder / "config.json")
    if not config.get("architectures") and not config.get("model_type"):
        hint = (
            "it belongs to a LoRA adapter, not to a model"
            if "peft_type" in config or (folder / "adapter_config.json").exists()
            else "it names no architecture"
        )
        raise _FaultError(f"config.json is no model's: {hint}")


def _check_weights(folder: Path) -> None:
    index = folder / INDEX
    if not index.exists():
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise _FaultError(f"there are {_what_else(folder)}")
        for shard in shards:
            _check_shard(shard)
        return
    places = _json(index, _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(places, Mapping) or not places:
        raise _FaultError(f"{INDEX} has no weight_map; download the file again")
    expected: dict[str, set[str]] = {}
    for tensor, file in places.items():
        expected.setdefault(str(file), set()).add(str(tensor))
    lost = sorted(file for file in expected if not (folder / file).is_file())
    if lost:
        raise _FaultError(
            f"{len(lost)} of {len(expected)} weight files are missing, the first is {lost[0]}; finish the download"
        )
    for file, tensors in sorted(expected.items()):
        absent = sorted(tensors - _check_shard(folder / file))
        if absent:
            raise _FaultError(
                f"{file} does not hold {absent[0]}, which the index promises; download the file again"
            )


def _check_shard(path: Path) -> set[str]:
    try:
        return set(check_file(path))
    except BrokenFileError as cause:
        raise _FaultError(f"{path.name} is damaged: {cause}; download it again") from cause
    except OSError as cause:
        raise _FaultError(f"{path.name} cannot be read: {cause.strerror}") from cause


def _what_else(folder: Path) -> str:
    suffixes = {file.suffix for file in folder.iterdir()}
    return next(
        (text for suffix, text in _OTHER_FORMATS.items() if suffix in suffixes),
        "no .safetensors files; the download may be incomplete",
    )


def _json(path: Path, limit: int = checkpoint.MAX_CONFIG_BYTES) -> Mapping[str, object]:
    try:
        return checkpoint.read_json(path, limit)
    except FileNotFoundError as cause:
        raise _FaultError(
            f"there is no {path.name}; this is not a model folder, or the download is incomplete"
        ) from cause
    except checkpoint.UnreadableError as cause:
        raise _FaultError(f"{path.name} {cause}; download it again") from cause

"""Finds a model's shape: by name, by config.json, or in a local folder.

Knows the table data/models.json. Does not download anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from consilium.planner import checkpoint
from consilium.planner.figures import table
from consilium.planner.refusal import nearest, wrong
from consilium.planner.shapes import Shape, from_config

_QUANT_SUFFIX: Final = re.compile(
    r"[-_](fp8|awq|gptq|int4|int8|nvfp4|fp4|mxfp4|gguf|w4a16|bf16|gptq[-_]int4|gptq[-_]int8|fp8[-_]dynamic)$",
    re.IGNORECASE,
)
_FORMAT_OF_SUFFIX: Final = {
    "fp8": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "int4": "int4",
    "int8": "int8",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "w4a16": "int4",
    "bf16": "bf16",
    "mxfp4": "mxfp4",
    "gptq_int4": "int4",
    "gptq_int8": "int8",
    "fp8_dynamic": "fp8",
}


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the planner sees it.

    weights       format that the files have, such as bf16 or int4; empty when the name does not tell
    file_bytes    size of the weight files, 0 when unknown
    config        the config.json it was read from
    """

    shape: Shape
    config: Mapping[str, Any]
    source: str
    weights: str = ""
    file_bytes: int = 0
    hf_id: str = ""


def known_names() -> list[str]:
    """Return every name and alias that the table holds."""
    return [
        name for entry in table("models")["models"] for name in (entry["name"], *entry["aliases"])
    ]


@lru_cache(maxsize=1)
def _index() -> dict[str, tuple[dict[str, Any], str]]:
    """Lower-case name -> (row of the table, the name in its own spelling)."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for entry in table("models")["models"]:
        for name in (entry["name"], entry["hf_id"].split("/")[-1], *entry["aliases"]):
            found.setdefault(name.lower(), (entry, name))
        found.setdefault(entry["hf_id"].lower(), (entry, entry["name"]))
    return found


def by_name(name: str) -> Model:
    """Return the model called `name`: a short name, a hub id, with or without a format suffix such as -FP8 or -AWQ."""
    wanted = name.strip()
    if not wanted:
        raise wrong(
            "model", "the name is empty; give one such as Qwen3-8B, or a folder with config.json"
        )
    weights, base = "", wanted
    row = _look(base)
    while row is None and (suffix := _QUANT_SUFFIX.search(base)):
        weights = weights or _FORMAT_OF_SUFFIX.get(suffix[1].lower().replace("-", "_"), "")
        base = base[: suffix.start()]
        row = _look(base)
    if row is None:
        near = nearest(
            wanted.split("/")[-1],
            [name for name in known_names() if not name.startswith(("tiny", "demo"))],
        )
        raise wrong(
            "model",
            f"{wanted[:80]!r} is not in the table; the nearest known name is {near!r}. A folder or a config.json works for any other model",
        )
    entry, spelled = row
    return Model(
        from_config(entry["config"], spelled),
        entry["config"],
        entry["source"],
        weights=weights,
        hf_id=_hub_id(entry, spelled, wanted[len(base) :]),
    )


def _look(name: str) -> tuple[dict[str, Any], str] | None:
    plain = name.lower()
    return _index().get(plain) or _index().get(plain.split("/")[-1])


def _hub_id(entry: Mapping[str, Any], spelled: str, suffix: str) -> str:
    """Return the hub name: the table's own, or, for another name of the same shape or another format, that one under the same owner."""
    owner, _, repository = str(entry["hf_id"]).rpartition("/")
    if not owner or (spelled in {entry["name"], repository} and not suffix) or spelled == "demo":
        return str(entry["hf_id"]) if spelled != "demo" else spelled
    return f"{owner}/{(repository if spelled == entry['name'] else spelled) + suffix}"


def find(reference: str) -> Model:
    """Return the model that `reference` means: an existing folder or file, else a name."""
    if not reference.strip():
        return by_name(reference)
    path = Path(reference).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):
        is_folder = is_file = False
    if is_folder:
        return from_folder(path)
    if is_file:
        return from_file(path)
    if reference.endswith(".json") or reference.startswith(("/", "./", "../", "~")):
        raise wrong(
            "model",
            f"there is no file or folder {reference[:120]!r}; give a folder that holds config.json, or a name such as Qwen3-8B",
        )
    return by_name(reference)


def from_folder(folder: Path) -> Model:
    """Return the model in a checkpoint folder: config.json and the size of the weight files beside it."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise wrong("model", f"{folder} holds no config.json; give the folder of one checkpoint")
    model = from_file(config_file)
    return replace(
        model,
        shape=replace(model.shape, name=folder.resolve().name),
        file_bytes=checkpoint.weight_bytes(folder),
    )


def from_file(path: Path) -> Model:
    """Return the model that one config.json describes."""
    config = read_json(path)
    return Model(
        from_config(config, path.parent.name or path.stem),
        config,
        str(path),
        weights=format_of(config),
    )


def read_json(
    path: Path, limit: int = checkpoint.MAX_CONFIG_BYTES, name: str = "config.json"
) -> dict[str, Any]:
    """Return a JSON object from a file of at most `limit` bytes, or say in one sentence why not; `name` is the file that would do."""
    try:
        return checkpoint.read_json(path, limit)
    except checkpoint.UnreadableError as err:
        raise wrong("file", f"{path.name} {err}; give the {name} of a model") from err
    except FileNotFoundError as err:
        raise wrong("file", f"there is no file {path}; give the {name} of a model") from err


def format_of(config: Mapping[str, Any]) -> str:
    """Return the weight format that a config.json names; 'bf16' without a quantization_config."""
    quant = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(quant, Mapping):
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
        return "fp32" if dtype.endswith("float32") else "bf16"
    method = str(quant.get("quant_method", "")).lower()
    text = json.dumps(quant).lower()[:20_000]
    if method in {"awq", "gptq", "awq_marlin", "gptq_marlin", "auto-round"}:
        return "int8" if quant.get("bits") == 8 else "int4"
    if "nvfp4" in text:
        return "nvfp4"
    if method == "mxfp4":
        return "mxfp4"
    if method == "fp8" or ("float" in text and '"num_bits": 8' in text):
        return "fp8"
    return "int4" if '"num_bits": 4' in text else "int8" if '"num_bits": 8' in text else "bf16"

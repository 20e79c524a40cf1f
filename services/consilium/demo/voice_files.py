"""The voices of the demo model: small adapters that ship with this package, the texts they learnt from, and the hashes of both.

Knows files and the recipe. Does not know how a voice is trained (backends/train_voices.py) and who answers with it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from consilium.demo.folder import make_whole, sha256

Voice: TypeAlias = Literal["captain", "cook", "lawyer"]
VOICES: Final[tuple[Voice, ...]] = ("captain", "cook", "lawyer")

PREFIX: Final = "demo:"
PATHS: Final = {PREFIX + voice: voice for voice in VOICES}
"""What a configuration names a voice by. It is looked up where it is read: an image has this package in another place than the machine that wrote the name."""

BASE: Final = "SmolLM2-135M-Instruct"
"""smollm.NAME, without its import of numpy: a command line that names no voice need not load it."""

HOME: Final = Path(__file__).with_name("voices")
CONFIG: Final = "adapter_config.json"
TENSORS: Final = "adapter_model.safetensors"
RECORD: Final = "voices.json"
"""File beside the voices with the recipe and the SHA-256 of every text and adapter file."""

KEPT_APART: Final = "kept_apart.jsonl"
"""Questions that no voice has learnt from."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the voices are trained. The same recipe gives the same files on the same kind of processor, with as many threads, and the same torch."""

    seed: int = 20
    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    epochs: int = 6
    batch: int = 8
    learning_rate: float = 2e-3


RECIPE: Final = Recipe()


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the answer that a voice gives."""

    question: str
    answer: str


def make(voice: Voice, folder: Path, home: Path = HOME) -> Path:
    """Copy a voice's two files into `folder` unless they are there whole, and return the folder.

    Installers may link the files of a package to a cache of theirs (uv does), and an adapter that can be changed from elsewhere is taken by nobody.

    Raises ConsiliumError(disk_full).
    """
    files = [home / voice / name for name in (CONFIG, TENSORS)]

    def fill(aside: Path) -> None:
        for file in files:
            shutil.copyfile(file, aside / file.name)

    recipe = " ".join(["voice-1", *map(sha256, files)])
    make_whole(folder, recipe, fill, needs_bytes=sum(file.stat().st_size for file in files))
    return folder


def texts(voice: Voice, home: Path = HOME) -> tuple[Pair, ...]:
    """Return what a voice learns from."""
    return tuple(Pair(**json.loads(line)) for line in _lines(home / "texts" / f"{voice}.jsonl"))


def kept_apart(home: Path = HOME) -> tuple[str, ...]:
    """Return the questions that no voice has learnt from; every one can be asked each of them."""
    return tuple(json.loads(line)["question"] for line in _lines(home / "texts" / KEPT_APART))


def config_text(recipe: Recipe) -> str:
    """Return adapter_config.json as PEFT's own reader and vLLM's take it."""
    config = {
        "base_model_name_or_path": BASE,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": list(recipe.targets),
        "task_type": "CAUSAL_LM",
    }
    return json.dumps(config, indent=2) + "\n"


def hashes(home: Path = HOME) -> dict[str, str]:
    """Return the SHA-256 of every text and every adapter file, by its path below `home`."""
    files = sorted((home / "texts").glob("*.jsonl"))
    files += [home / voice / file for voice in VOICES for file in (CONFIG, TENSORS)]
    return {path.relative_to(home).as_posix(): sha256(path) for path in files if path.is_file()}


def record(home: Path = HOME, *, made_with: str, recipe: Recipe = RECIPE) -> None:
    """Write the recipe, what computed it, and the hashes of what lies there now."""
    found = {
        "recipe": asdict(recipe),
        "base": BASE,
        "made_with": made_with,
        "sha256": hashes(home),
    }
    (home / RECORD).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def recorded(home: Path = HOME) -> dict[str, object]:
    """Return what `record` wrote."""
    found: dict[str, object] = json.loads((home / RECORD).read_text(encoding="utf-8"))
    return found


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

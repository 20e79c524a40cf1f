"""From the name that somebody gives to a folder that an engine can load.

    demo, tiny, tiny-moe, tiny-base   made here, from a wheel or from nothing
    a path                            checked
    org/name[@revision]               downloaded from the hub

Knows names and folders. Does not know engines, and does not ask whether the model fits the machine.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from consilium.demo import hub, smollm, tiny
from consilium.demo.checks import check_folder
from consilium.demo.folder import Report, silent
from consilium.kernel.errors import ConsiliumError

Kind = Literal["demo", "tiny", "tiny-moe", "tiny-base", "local", "hub"]

_TINY_NOTE: Final = (
    "{what} with random weights, made on this machine; it speaks nonsense and serves tests"
)
_TINY: Final[dict[tiny.Kind, tuple[str, str]]] = {
    "tiny": ("tiny-qwen3", "a Qwen3 of 2 layers and 1.4 million parameters"),
    "tiny-moe": (
        "tiny-qwen3-moe",
        "a Qwen3 mixture of 8 experts, 2 layers and 2 million parameters",
    ),
    "tiny-base": (
        "tiny-qwen3-base",
        "a Qwen3 of 2 layers and 1.4 million parameters without a chat template, like a base model,",
    ),
}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on disk.

    name      what callers see in /v1/models
    revision  the hub's commit, or the beginning of a checksum
    note      what it is, for a person
    """

    path: Path
    name: str
    revision: str
    kind: Kind
    note: str


def resolve(
    name: str, models_dir: Path, progress: Report = silent, *, access: hub.Access = hub.PUBLIC
) -> ModelFolder:
    """Return the folder of the model `name`, making or downloading it under `models_dir` if it is not there.

    progress  hears of steps with bytes done and total
    access    address of the hub or of a mirror, and a token, where they are not huggingface_hub's own settings

    Raises ConsiliumError(model_missing | disk_full), with the way out in its sentence.
    """
    for kind in tiny.KINDS:
        if name == kind:
            return _tiny(kind, models_dir, progress)
    if name == "demo":
        return _demo(models_dir, progress)
    if _is_path(name):
        return _local(_expanded(name), name)
    repository, _, revision = name.partition("@")
    if hub.REPOSITORY.match(repository):
        snapshot = hub.download(repository, revision or None, models_dir, progress, access=access)
        return ModelFolder(
            snapshot.path,
            repository,
            snapshot.commit[:12],
            "hub",
            f"{repository} from the hub, commit {snapshot.commit[:12]}",
        )
    raise ConsiliumError("model_missing", name=name, reason=_unknown(name))


def _demo(models_dir: Path, progress: Report) -> ModelFolder:
    """Return the demo model, or the tiny one where the wheel is not installed."""
    if smollm.wheel_file() is None:
        stand_in = _tiny("tiny", models_dir, progress)
        note = f"in place of the demo model, whose wheel {smollm.WHEEL} is not installed ('make setup' installs it): {stand_in.note}"
        return ModelFolder(stand_in.path, stand_in.name, stand_in.revision, stand_in.kind, note)
    path = smollm.make(models_dir / "demo", progress)
    return ModelFolder(path, smollm.NAME, _fingerprint(path), "demo", smollm.NOTE)


def _tiny(kind: tiny.Kind, models_dir: Path, progress: Report) -> ModelFolder:
    served, what = _TINY[kind]
    path = tiny.make(models_dir / kind, kind, report=progress)
    return ModelFolder(path, served, _fingerprint(path), kind, _TINY_NOTE.format(what=what))


def _local(path: Path, name: str) -> ModelFolder:
    check_folder(path, name)
    path = path.resolve()
    return ModelFolder(path, path.name, _fingerprint(path), "local", f"the model in {path}")


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~somebody, and there is no such user
        return Path(name)


def _is_path(name: str) -> bool:
    return (
        name.startswith(("/", "./", "../", "~"))
        or name in {".", ".."}
        or (bool(name) and Path(name).is_dir())
    )


def _unknown(name: str) -> str:
    known = ["demo", *tiny.KINDS]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif name.lower().startswith("qwen"):
        hint = f"did you mean 'Qwen/{name}' on the hub?"
    else:
        hint = f"the built-in models are {', '.join(known)}"
    return f"there is no such built-in model and no such folder ({hint}); a hub name has the form org/name"


def _fingerprint(path: Path) -> str:
    """Return twelve hex digits from config.json and the names and sizes of the weight files."""
    seen = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        seen.update(f"{file.name}:{file.stat().st_size}\n".encode())
    return seen.hexdigest()[:12]

"""From what the configuration calls an adapter's path to a folder with its two files.

    /srv/loras/sport, ./loras/sport, loras/sport    a folder
    org/name[@revision]                             an adapter of the hub, downloaded once
    demo:captain, demo:cook, demo:lawyer            a voice of the demo model, which this package brings

Knows names and folders. Does not know what is in the files.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consilium.demo import voice_files
from consilium.demo.folder import Report, Step, silent
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

if TYPE_CHECKING:
    from consilium.demo.hub import Access

LOGGED_S: Final = 5.0

_log = logs.get("lora_router")


class Logged:
    """Says in the log every few seconds how far a download is."""

    def __init__(self, path: str) -> None:
        self._path, self._at = path, time.monotonic()

    def __call__(self, step: Step) -> None:
        """Hear of a step."""
        if time.monotonic() - self._at >= LOGGED_S:
            self._at = time.monotonic()
            _log.info(
                "adapter_coming", path=self._path, what=step.what, bytes=step.done, of=step.total
            )


def from_root(path: str, beside: Path) -> str:
    """Return a path as processes in other folders read it: from the root. The name of a repository or of a voice stays as it is.

    beside  folder of the configuration file, in which relative paths are looked up first, then in the working directory
    """
    if path.startswith(voice_files.PREFIX):
        return path
    named = Path(path).expanduser() if path.startswith("~") else Path(path)
    if named.is_absolute():
        return str(named)
    for folder in (beside, Path()):
        if (folder / named).is_dir():
            return str((folder / named).resolve())
    return path if is_hub(path) else str((beside / named).resolve())


def is_hub(path: str) -> bool:
    """Return whether it is the name of a repository of the hub, and not a path."""
    if path.startswith(("/", ".", "~")) or "/" not in path:
        return False
    from consilium.demo import hub  # noqa: PLC0415  brings numpy, which a command line without adapters does not need

    return bool(hub.REPOSITORY.match(path.partition("@")[0]))


def fetched(
    path: str, downloads: Path, report: Report = silent, *, access: Access | None = None
) -> Path:
    """Return the folder with an adapter's files, downloading them where they are not there yet. Blocks.

    path       from the root, or the name of a repository or of a voice
    downloads  folder for what comes from the hub, and for the copy of a voice
    report     hears of steps with bytes done and total
    access     how the hub is reached, where that is not huggingface_hub's own settings

    Raises ConsiliumError: adapter_refused (there is no such folder or repository, no network), disk_full.
    """
    if path.startswith(voice_files.PREFIX):
        return _voice(path, downloads)
    if not is_hub(path):
        if not Path(path).is_dir():
            raise _missing(path, "there is no such folder")
        return Path(path)
    from consilium.demo import hub  # noqa: PLC0415

    repository, _, revision = path.partition("@")
    reached = access or hub.PUBLIC
    try:
        return hub.download(
            repository, revision or None, downloads, report, access=reached, kind=hub.ADAPTER
        ).path
    except ConsiliumError as err:
        if err.code != "model_missing":
            raise
        raise _missing(path, str(err.fields["reason"])) from err


def forget(path: str, downloads: Path) -> None:
    """Delete what was downloaded of a repository."""
    from consilium.demo import hub  # noqa: PLC0415

    shutil.rmtree(hub.home_of(path.partition("@")[0], downloads), ignore_errors=True)


def _voice(path: str, downloads: Path) -> Path:
    voice = voice_files.PATHS.get(path)
    if voice is not None:
        return voice_files.make(voice, downloads / "voices" / voice)
    known = ", ".join(voice_files.PATHS)
    raise ConsiliumError(
        "adapter_refused",
        reason=f"{path}: the demo model has no such voice. Name one of {known}; a folder of that name is ./{path} (not_found)",
        check="not_found",
    )


def _missing(path: str, reason: str) -> ConsiliumError:
    return ConsiliumError(
        "adapter_refused",
        reason=f"{path}: {reason}. Name a folder with adapter_model.safetensors and adapter_config.json, or a repository of the hub, such as org/name (not_found)",
        check="not_found",
    )

"""A model copied from one folder of models to another, such as from a shared disk to the node's own: whole or not at all, and once.

Knows how folders of models are laid out (model.py, hub.py). Does not know who reads them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from consilium.demo import hub, tiny
from consilium.demo.folder import Report, Step, only_one, require_room, silent
from consilium.kernel.errors import ConsiliumError

BLOCK_BYTES: Final = 16 << 20


def home_of(name: str) -> Path | None:
    """Return where a model lies below a folder of models, or None for one that is named by its own path."""
    if name == "demo" or name in tiny.KINDS:
        return Path(name)
    repository = name.partition("@")[0]
    return Path("hub") / repository.replace("/", "--") if hub.REPOSITORY.match(repository) else None


def is_whole(name: str, models: Path) -> bool:
    """Return whether a model lies whole below a folder of models. Asks no network and writes nothing."""
    home = home_of(name)
    if home is None or not (models / home).is_dir():
        return False
    return home.parts[0] != "hub" or hub.is_here(name, models, access=hub.Access(cache_dir=models))


def copy(name: str, source: Path, target: Path, report: Report = silent) -> bool:
    """Copy a model; return False if it was there. What a broken copy left is thrown away by the next.

    Raises ConsiliumError: model_missing (it is not whole in the source), disk_full.
    """
    home = home_of(name)
    if home is None or is_whole(name, target):
        return False
    if not is_whole(name, source):
        raise ConsiliumError(
            "model_missing",
            name=name,
            reason=f"it is not whole in {source} yet; is it still being fetched?",
        )
    there = target / home
    there.parent.mkdir(parents=True, exist_ok=True)
    with only_one(there.parent / f".{there.name}.lock"):
        if is_whole(name, target):
            return False
        aside = there.parent / f".{there.name}.copying"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(there, ignore_errors=True)
        _copy_tree(source / home, aside, f"copying {name}", report)
        aside.rename(there)
    return True


def _copy_tree(source: Path, target: Path, what: str, report: Report) -> None:
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.name != ".lock"]
    total = sum(path.stat().st_size for path in files)
    target.parent.mkdir(parents=True, exist_ok=True)
    require_room(target.parent, total)
    done = 0
    for path in files:
        into = target / path.relative_to(source)
        into.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as read, into.open("wb") as write:
            while block := read.read(BLOCK_BYTES):
                write.write(block)
                done += len(block)
                report(Step(what, done, total))

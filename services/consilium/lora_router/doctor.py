"""Checks of the adapters: their folder and registry, how full the store is, files that are gone, folders of the configuration that are, and adapters that answer nobody although engines are up.

Knows the section `lora_router`, the room's folder and its page. Changes nothing, and asks for no lock: it may be run beside the room.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from consilium.demo import voice_files
from consilium.kernel.disk_quota import bytes_under
from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, failure, ok, warning
from consilium.lora_router import sources
from consilium.lora_router.backends import registry_seen
from consilium.lora_router.backends.registry_seen import RegistrySeen, VersionSeen
from consilium.lora_router.config import AdaptersView
from consilium.lora_router.identity import MIX
from consilium.lora_router.ports import Proof
from consilium.lora_router.store import DAMAGED, FILES

GIB: Final = 2**30
NEARLY_FULL: Final = 0.9
ANSWER_S: Final = 3.0
TRIED_WITHIN_S: Final = 300.0
"""An adapter that was stored so long ago was tried, where an engine could try it."""
MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """Bytes that the store has, may have, and that its disk has free; nothing where there is no store yet."""

    stored: int = 0
    quota: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True)
class FolderSeen:
    """The room's folder: what this user may not do in it, as (path, verb)."""

    exists: bool = False
    forbidden: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class LibrarySeen:
    """What is registered, and what of it is not as it was stored.

    lost     references of versions whose files are gone or have another size
    aside    folders of versions that were not whole, which a start has moved away
    refused  adapters of the configuration that are not as it says, as the room's page counts them
    unsound  references with proof, of versions that should answer and do not, while replicas report
    """

    registry: RegistrySeen = field(default_factory=RegistrySeen)
    lost: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    unsound: tuple[str, ...] = ()
    replicas: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class SourcesSeen:
    """How many folders the configuration names, and which of them lack an adapter's files."""

    count: int = 0
    gone: tuple[str, ...] = ()


def _store(subject: Subject) -> StoreSeen:
    folder = _root(subject) / "store"
    view = subject.view(AdaptersView)
    if view is None or not folder.is_dir():
        return StoreSeen()
    quota = int(view.lora_router.store_gib * GIB)
    return StoreSeen(bytes_under(folder), quota, shutil.disk_usage(folder).free)


def _folder(subject: Subject) -> FolderSeen:
    root = _root(subject)
    if not root.is_dir():
        return FolderSeen()
    places = [root, root / "store", root / "registry.db"]
    return FolderSeen(
        True,
        tuple(
            (str(path), verb)
            for path in places
            if path.exists()
            for verb, mode in (("read", os.R_OK), ("written", os.W_OK))
            if not os.access(path, mode)
        ),
    )


def _library(subject: Subject) -> LibrarySeen:
    root = _root(subject)
    registry = registry_seen.seen(root / "registry.db")
    view = subject.view(AdaptersView)
    lost = [one.reference for one in registry.versions if not _is_whole(one, root / "store")]
    replicas, refused = _page(subject) if registry.version else (0, 0)
    tries = view is None or view.lora_router.canary
    unsound = [
        f"{one.reference} ({one.proof})"
        for one in registry.versions
        if replicas and one.answers and _is_kept_back(one, time.time(), tries=tries)
    ]
    aside = _aside(root / "store")
    return LibrarySeen(registry, tuple(lost), aside, tuple(unsound), replicas, refused)


def _aside(store: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(path.name for path in (store / DAMAGED).iterdir()))
    except OSError:
        return ()


def _is_whole(version: VersionSeen, store: Path) -> bool:
    folder = store / version.sha[:2] / version.sha
    try:
        return all(
            (folder / name).stat().st_size == size for name, size in version.file_bytes.items()
        )
    except OSError:
        return False


def _is_kept_back(version: VersionSeen, now: float, *, tries: bool) -> bool:
    """Return whether a version that has the name answers nobody, or nobody has tried it in all the time there was."""
    if version.is_forced or version.proof is Proof.OK or version.reference.startswith(f"{MIX}:"):
        return False
    if version.proof is Proof.UNPROVEN:
        return tries and now - version.stored_at > TRIED_WITHIN_S
    return True


def _page(subject: Subject) -> tuple[int, int]:
    """Return how many replicas report to the room, and how many configured adapters it could not have so, by its page; 0 where it does not run."""
    try:
        tree = json.loads((subject.state / "config.json").read_text(encoding="utf-8"))
        address = tree["services"]["lora_router"]["metrics"]
        with urllib.request.urlopen(f"{address}/metrics", timeout=ANSWER_S) as answer:  # noqa: S310  an address that `up` wrote
            return read_page(answer.read().decode())
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def read_page(text: str) -> tuple[int, int]:
    """Return how many replicas, and how many adapters that are not as configured, a page of the room counts. Raises ValueError for one that is none."""
    rows = [row for family in text_string_to_metric_families(text) for row in family.samples]
    replicas = sum(row.value for row in rows if row.name == "consilium_lora_replicas")
    refused = sum(row.value for row in rows if row.name == "consilium_lora_not_taken_in")
    return int(replicas), int(refused)


def _root(subject: Subject) -> Path:
    return subject.state / "lora_router"


def _sources(subject: Subject) -> SourcesSeen:
    view = subject.view(AdaptersView)
    rows = {} if view is None else view.adapters
    paths = {
        name: Path(row.path)
        for name, row in rows.items()
        if row.path not in voice_files.PATHS and not sources.is_hub(row.path)
    }
    gone = [f"adapters.{name}.path: {path}" for name, path in paths.items() if not _has_files(path)]
    return SourcesSeen(len(paths), tuple(gone))


def _has_files(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


SOURCES: Final = Fact("adapter_sources", "The folders of configured adapters", _sources)
STORE: Final = Fact("adapter_store", "The store of adapters", _store, limit_s=4.0)
FOLDER: Final = Fact("adapter_folder", "The folder of adapters", _folder)
LIBRARY: Final = Fact("adapter_library", "The registry of adapters", _library, limit_s=2 * ANSWER_S)


def _told(facts: Facts) -> Verdict:
    seen = facts[STORE]
    values = {
        "stored": f"{seen.stored / GIB:.1f} GiB",
        "quota": f"{seen.quota / GIB:g} GiB",
        "free": f"{seen.free / GIB:.1f} GiB",
    }
    is_full = seen.stored > NEARLY_FULL * seen.quota
    is_short = seen.free < min(GIB, seen.quota - seen.stored)
    return warning(**values) if is_full or is_short else ok(**values)


def _allowed(facts: Facts) -> Verdict:
    told = "; ".join(f"{path} cannot be {verb}" for path, verb in facts[FOLDER].forbidden)
    return failure(told=told) if told else ok()


def _readable(facts: Facts) -> Verdict:
    seen = facts[LIBRARY].registry
    path = _root(facts.subject) / "registry.db"
    if seen.is_newer:
        told = f"{path} has the version {seen.version}, and this program knows {registry_seen.KNOWN}"  # fmt: skip
        return failure(told=told, way_out="Start that newer version again. The room starts with none of what it does not understand.")  # fmt: skip
    if seen.damage:
        return failure(told=f"{path} cannot be read: {seen.damage}", way_out=f"'consilium logs lora_router' has the copy to go back to, where there is one ({path}.before-N).")  # fmt: skip
    return ok(count=len(seen.versions))


def _whole(facts: Facts) -> Verdict:
    lost = facts[LIBRARY].lost
    return failure(lost=_listed(lost)) if lost else ok()


def _as_configured(facts: Facts) -> Verdict:
    count = facts[LIBRARY].refused
    return warning(count=count) if count else ok()


def _put_away(facts: Facts) -> Verdict:
    found = facts[LIBRARY].aside
    folder = _root(facts.subject) / "store" / DAMAGED
    return warning(found=_listed(found), folder=str(folder)) if found else ok()


def _at_hand(facts: Facts) -> Verdict:
    seen = facts[SOURCES]
    return warning(gone=_listed(seen.gone)) if seen.gone else ok(count=seen.count)


def _sound(facts: Facts) -> Verdict:
    found = facts[LIBRARY].unsound
    return warning(found=_listed(found)) if found else ok(count=facts[LIBRARY].replicas)


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _has_versions(facts: Facts) -> bool:
    return bool(facts[LIBRARY].registry.versions)


ROWS: Final = (
    Row(
        "adapter_folder",
        "folder of adapters",
        (FOLDER,),
        _allowed,
        "{told} by this user",
        "Give the folder to the user that runs the cluster: chown -R USER it. Where the disk is mounted read-only, 'dmesg' says why.",
        when=lambda facts: facts[FOLDER].exists,
    ),
    Row(
        "adapter_registry",
        "registry of adapters",
        (LIBRARY,),
        _readable,
        "{told}",
        "{way_out}",
        "{count} versions",
        when=lambda facts: facts[LIBRARY].registry.version > 0,
    ),
    Row(
        "adapter_store",
        "store of adapters",
        (STORE,),
        _told,
        "it holds {stored} of the {quota} that it may take, and its disk has {free} free",
        "Remove adapters that nobody needs ('consilium adapters ls' shows sizes), raise lora_router.store_gib, or free the disk.",
        "{stored} of {quota}, {free} free on its disk",
        when=lambda facts: facts[STORE].quota > 0,
    ),
    Row(
        "adapter_files",
        "files of adapters",
        (LIBRARY,),
        _whole,
        "files are gone or have another size: {lost}",
        "Add these again ('consilium adapters add'): the same content puts them right. Until then they stay registered, are shown as damaged, and answer nobody.",
        when=_has_versions,
    ),
    Row(
        "adapters_configured",
        "adapters of the configuration",
        (LIBRARY,),
        _as_configured,
        "{count} of them are not as the configuration says: their files could not be taken in, or they could not be removed",
        "'consilium adapters ls' and 'consilium apply' name each with its reason; the room looks again every minute.",
        when=lambda facts: facts[LIBRARY].refused > 0,
    ),
    Row(
        "adapter_damaged",
        "damaged adapters that were kept",
        (LIBRARY,),
        _put_away,
        "they were not whole at a start and were moved to {folder}, which nothing empties: {found}",
        "A folder is named by its hash. Put back what can be saved while the cluster is down (STORE/3f/3f9c...), or add the adapter again; then delete the copy.",
        when=lambda facts: bool(facts[LIBRARY].aside),
    ),
    Row(
        "adapter_sources",
        "folders of adapters",
        (SOURCES,),
        _at_hand,
        "the configuration names folders without an adapter's two files: {gone}",
        "Put the folders back, or name others and run 'consilium apply'. What is stored of these adapters answers meanwhile; one of which nothing is stored answers nobody.",
        "{count} folders",
        when=lambda facts: facts[SOURCES].count > 0,
    ),
    Row(
        "adapter_proofs",
        "adapters that answer",
        (LIBRARY,),
        _sound,
        "engines are up, and these answer nobody: {found}",
        "'consilium adapters show NAME' has the figures of the canary; 'consilium adapters switch NAME VERSION' lets another version answer, with --force this one all the same.",
        "{count} replicas report",
        when=lambda facts: _has_versions(facts) and facts[LIBRARY].replicas > 0,
    ),
)

"""The adapters of the configuration come into the library: at the start, and when the configuration changes.

An adapter that cannot be taken in is told and passed over: the others are served. Knows the library and where files come from. Does not know engines: what has to be
switched or removed while engines may use it is handed back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import audit, sources
from consilium.lora_router.incoming import Incoming
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Registered
from consilium.lora_router.reconcile import Entry, plan, settings_of
from consilium.lora_router.store import look_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and what is left to do for whoever knows the engines.

    stored   names whose files were taken in
    switch   (name, sha) of new versions, while another one still answers
    remove   names that the configuration names no more
    refused  name -> why it could not be taken in
    """

    stored: tuple[str, ...]
    switch: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]
    refused: Mapping[str, ConsiliumError]


def entry(settings: Registered, path: str) -> Entry:
    """Return an entry of the configuration."""
    text = json.dumps({"path": path, **asdict(settings)}, ensure_ascii=False, sort_keys=True)
    return Entry(settings, path, text)


async def take_in(
    library: Library,
    entries: Mapping[str, Entry],
    fetch: Callable[[str], Path],
    forget: Callable[[str], None] = lambda _path: None,
) -> Outcome:
    """Bring the library to what the configuration says.

    fetch   path -> folder with the two files; blocks, called in threads, raises ConsiliumError
    forget  path of an adapter of the hub that is stored now: its download is needed no more; called in threads
    """
    looks, folders, refused = {}, {}, {}
    for name, one in entries.items():
        try:
            if _is_there(library, one):
                looks[name] = one.path
                continue
            folders[name] = await asyncio.to_thread(fetch, one.path)
            is_hub = sources.is_hub(one.path)
            looks[name] = one.path if is_hub else await asyncio.to_thread(look_of, folders[name])
        except ConsiliumError as err:
            refused[name] = err
    todo = plan(entries, looks, library.holdings)
    for one in todo.change:
        row = library.holdings.names[one.settings.name]
        await library.configure(settings_of(one, row), origin=row.origin, entry=one.text)
    stored, switch = [], []
    for one in todo.read:
        name = one.settings.name
        try:
            sha = await _read(library, one, folders[name], looks[name])
        except ConsiliumError as err:
            refused[name] = err
            continue
        stored.append(name)
        audit.note("adapter_added", by=audit.CONFIGURATION, adapter=name, sha=sha)
        if sources.is_hub(one.path):
            await asyncio.to_thread(forget, one.path)
        if library.get(name)[0].current != sha:
            switch.append((name, sha))
    return Outcome(tuple(stored), tuple(switch), todo.remove, refused)


def _is_there(library: Library, one: Entry) -> bool:
    """Return whether an adapter of the hub is stored already: it stays as it was fetched first, and the hub is not asked again."""
    row = library.holdings.names.get(one.settings.name)
    return (
        sources.is_hub(one.path)
        and row is not None
        and row.origin == one.path
        and bool(library.holdings.of(one.settings.name))
    )


async def _read(library: Library, one: Entry, folder: Path, look: str) -> str:
    row = library.holdings.names.get(one.settings.name)
    version = await library.add(
        Incoming(
            one.settings.name,
            folder,
            settings_of(one, row),
            origin=look,
            entry=one.text,
        )
    )
    return version.sha

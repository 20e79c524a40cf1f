"""What is known of which versions fit which engines, while their files cannot be read, and while many engines are heard at once."""

import asyncio
import threading
from pathlib import Path

import pytest

from consilium.lora_router.fitting import Fitting
from consilium.lora_router.ports import Described, StoredVersion
from consilium.lora_router.refusal import refused
from consilium.lora_router.reports import Report

pytestmark = pytest.mark.asyncio


def stored(number):
    return [StoredVersion(f"a{n}", f"{n:064x}", n, Path("/x"), 8, 10, 0.0) for n in range(number)]


class Store:
    """Versions whose files are there, or away; `on_outline` is called for each that is read."""

    def __init__(self, number):
        self.versions, self.is_away, self.told = stored(number), False, 0
        self.on_outline = lambda _version: None
        self.fitting = Fitting(lambda *_: (), self.outline, lambda: self.versions, self.read)

    def outline(self, version):
        self.on_outline(version)
        if self.is_away:
            raise refused("file_missing", str(version.path), "there is no file", "x")
        return Described(version.sha, 8, 10, {})

    def read(self):
        self.told += 1

    async def hears(self, executor, config="{}"):
        report = Report(executor, f"{executor}#0", base_config=config, max_rank=16)
        await self.fitting.weighed(report)
        self.fitting.heard(report)

    def said(self):
        return {self.fitting.of(each, ())["core"] for each in self.versions}


@pytest.mark.parametrize("number", [1, 20])
async def test_that_files_cannot_be_read_is_said_until_they_can_be_read(number, monkeypatch):
    monkeypatch.setattr("consilium.lora_router.fitting.AGAIN_S", 0.0)
    store = Store(number)
    store.is_away = True
    await store.hears("core")
    (why,) = store.said()
    assert "there is no file" in why
    before = store.fitting.basis
    await store.hears("core")
    await store.fitting._reading
    assert (store.told, store.fitting.basis) == (0, before)
    store.is_away = False
    assert store.said() == {""}, "whoever asks is told what is so now"
    await store.hears("core")
    await store.fitting._reading
    assert store.told == 1, "those who keep what they were told are told of it"
    assert store.fitting.basis != before
    await store.hears("core")
    assert not store.fitting._unread


async def test_what_is_read_in_a_thread_is_taken_in_where_nobody_looks_through_it():
    store = Store(20)
    loop, begun, go = threading.get_ident(), threading.Event(), threading.Event()
    await store.hears("zero", "z")
    seen = {}

    def on_outline(version):
        assert threading.get_ident() != loop
        begun.set()
        assert go.wait(20)
        seen[version.sha] = dict(store.fitting._found)

    store.on_outline = on_outline
    before = dict(store.fitting._found)
    hearing = asyncio.create_task(store.hears("core"))
    assert await asyncio.to_thread(begun.wait, 20)
    go.set()
    await hearing
    assert all(found == before for found in seen.values())
    assert len(store.fitting._found) == 40


async def test_what_went_while_it_was_read_is_not_kept():
    store = Store(20)
    store.on_outline = lambda version: store.versions.clear()
    await store.hears("core")
    assert not store.fitting._found
    assert not store.fitting._unread

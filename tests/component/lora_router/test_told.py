"""What gateways and replicas are told after each of many changes is what a room would tell that began just then."""

import json
import random
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.component.lora_router.shelves import opened, write_adapter

from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Table
from consilium.lora_router.config import LoraRouter
from consilium.lora_router.desk import Desk, Maker
from consilium.lora_router.identity import MIX, reference, sum_sha
from consilium.lora_router.incoming import Incoming
from consilium.lora_router.ports import Placement, Proof, Registered
from consilium.lora_router.reports import Report

NAMES = ["core", "sport", "law", "song"]


def desk_of(library, root):
    maker = Maker(lambda *_: (), lambda *_: (), lambda *_: None, lambda *_: None)
    return Desk(library, Table("adapters"), LoraRouter(), maker, SystemClock(), root / "scratch")


def said(desk):
    """Return the rows that a gateway holds, and the targets of both executors."""
    whole = desk._table.since("", 0)
    rows = {key: json.loads(text) for key, text in whole.changed.items()}
    return rows, {name: dict(desk.targets(name)) for name in ("core", "second")}


async def heard(desk):
    for name in ("core", "second"):
        await desk.fleet.report(Report(name, f"{name}#0", base_config="{}", max_rank=16))


async def one_change(library, draw, root, number):
    """Do something with the library, as its room would."""
    name = draw.choice(NAMES)
    settings = Registered(
        name, "", draw.choice(list(Placement)), executors=draw.choice([(), ("core",)]),
        with_core="core" if name in ("sport", "law") and draw.random() < 0.5 else "",
    )  # fmt: skip
    versions = [each for each in library.versions() if each.name != MIX]
    kind = draw.choice(["add", "add", "place", "proof", "switch", "sum", "hide", "show", "remove", "configure", "count"])  # fmt: skip
    if kind == "add":
        source = write_adapter(root / f"in{number}", f"{draw.randrange(6)}")
        await library.add(Incoming(name, source, settings))
    elif kind == "place":
        await library.place(name, draw.choice(list(Placement)))
    elif kind == "configure":
        await library.configure(settings, origin="here", entry=str(number))
    elif kind == "show":
        library.unhide(tuple(library.holdings.hidden))
    elif not versions:
        return
    elif kind == "proof":
        one = draw.choice(versions)
        proof = draw.choice(list(Proof))
        await library.judge(reference(one.name, one.sha), lambda now: replace(now, proof=proof))
    elif kind == "switch":
        one = draw.choice(versions)
        await library.switch(one.name, one.sha)
    elif kind == "hide":
        one = draw.choice(versions)
        await library.hide(draw.choice([one.name, reference(one.name, one.sha)]))
    elif kind == "remove":
        await library.remove(draw.choice(versions).name)
    elif kind == "sum":
        parts = [(one, draw.choice([0.5, 1.0])) for one in draw.sample(versions, min(2, len(versions)))]  # fmt: skip
        source = write_adapter(root / f"sum{number}", f"sum {number}")
        told = sorted((reference(one.name, one.sha), weight) for one, weight in parts)
        await library.add_sum(sum_sha([(one.sha, weight) for one, weight in parts]), told, source)


@pytest.mark.parametrize("seed", range(3))
async def test_after_each_change_it_is_as_if_told_anew(tmp_path, seed):
    draw = random.Random(seed)
    async with opened(tmp_path) as library:
        desk = desk_of(library, tmp_path)
        await heard(desk)
        for number in range(120):
            with suppress(ConsiliumError):
                await one_change(library, draw, tmp_path, number)
            desk.changed()
            if draw.random() < 0.05:
                desk.settings = LoraRouter(canary=draw.random() < 0.5, margin=draw.random())
                desk.changed()
            fresh = desk_of(library, tmp_path)
            fresh.settings = desk.settings
            await heard(fresh)
            fresh.changed()
            assert said(desk) == said(fresh), number
        assert len(said(desk)[0]) > 2
        await desk.aclose()


async def test_what_has_not_changed_is_not_made_again(tmp_path, monkeypatch):
    async with opened(tmp_path) as library:
        for number in range(20):
            source = write_adapter(tmp_path / f"in{number}", f"{number}")
            await library.add(Incoming(f"a{number}", source, Registered(f"a{number}", "")))
        desk = desk_of(library, tmp_path)
        await heard(desk)
        desk.changed()
        made, real = [], desk._told._row
        monkeypatch.setattr(desk._told, "_row", lambda name: made.append(name) or real(name))
        desk.changed()
        assert not made
        await library.place("a7", Placement.SSD)
        desk.changed()
        assert made == ["a7"]
        await desk.aclose()

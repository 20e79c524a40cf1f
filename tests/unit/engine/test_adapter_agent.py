"""What a replica tells the router of adapters, and how it does what is wanted."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from tests.waiting import until_true

from consilium.engine.adapter_agent import AdapterAgent, Replica
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.backends.echo_slots import EchoSlots
from consilium.engine.canary import Verdict
from consilium.engine.slots import Slots
from consilium.kernel.errors import ConsiliumError

pytestmark = pytest.mark.asyncio
SAME = '[[1, {"1": -0.5}], [1, {"1": -0.5}], [1, {"1": -0.5}], [1, {"1": -0.5}]]'
OTHER = SAME.replace("1", "2")


def row(number, placement="TIER_SSD", **more):
    return {
        "reference": f"a{number}:sha", "sha": "f" * 64, "lora_int_id": number, "rank": 8,
        "size_bytes": 1000, "path": f"/store/{number}", "placement": placement, **more,
    }  # fmt: skip


class Room:
    """The router's side: answers the reports with what the test has put there."""

    def __init__(self):
        self.reports, self.answers, self.away = [], asyncio.Queue(), 0
        self._waiting = []

    async def report(self, report):
        self.reports.append(report)
        for other in self._waiting:
            other.set()
        self._waiting = []
        if self.away:
            self.away -= 1
            raise ConsiliumError("upstream_down", name="lora_router", retry_after_s=1.0)
        if not self.answers.empty() or report["wait_s"] == 0:
            return self.answers.get_nowait() if not self.answers.empty() else {"version": report["version"]}  # fmt: skip
        newer = asyncio.Event()
        self._waiting.append(newer)
        answer = asyncio.create_task(self.answers.get())
        given_up = asyncio.create_task(newer.wait())
        await asyncio.wait({answer, given_up}, timeout=report["wait_s"], return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        given_up.cancel()
        if answer.done():
            return answer.result()
        answer.cancel()
        return {"version": report["version"]}

    async def until(self, holds):
        await until_true(lambda: any(holds(report) for report in self.reports))
        return next(report for report in reversed(self.reports) if holds(report))


class Tries:
    def __init__(self):
        self.shows, self.tried = SAME, []
        self.fails = False

    async def try_out(self, target):
        self.tried.append(target.reference)
        if self.fails:
            raise ConsiliumError("adapter_refused", reason="torn", check="load")
        return Verdict("ok", "{}", SAME)

    async def fingerprint(self, _target):
        return self.shows


class Counted:
    def hit(self, tier): ...

    def loaded(self, tier, seconds, *, well): ...

    def state(self, **figures): ...


class Stage:
    def __init__(self, slots=3, ram=6, ready_s=5.0, fault=None):
        @asynccontextmanager
        async def held(target):
            yield target

        async def short(_seconds):
            await asyncio.sleep(0.01)

        self.engine, self.room, self.canary = EchoSlots(slots, ram, fault=fault), Room(), Tries()
        self.desk = AdapterDesk(
            self.engine, Slots(slots, ram), files=held, counts=Counted(),
            on_alarm=pytest.fail, news_s=0.05,
        )  # fmt: skip
        replica = Replica("core", "core#0", "r1", 16, "{}", self.sees)
        self.agent = AdapterAgent(self.desk, self.room, replica, self.canary, sleep=short, ready_s=ready_s)  # fmt: skip

    async def sees(self, _path):
        return True

    async def __aenter__(self):
        await self.desk.start()
        self.task = None
        return self

    def run(self):
        self.task = asyncio.create_task(self.agent.run())

    async def __aexit__(self, *_):
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        self.agent.close()
        self.desk.close()


async def test_what_is_pinned_is_in_its_slot_before_the_replica_is_ready():
    async with Stage() as stage:
        rows = [row(1, "TIER_VRAM"), row(2, "TIER_RAM"), row(3)]
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": rows})
        assert await stage.agent.prepare()
        assert stage.desk.slots.in_slots == {"a1:sha"}
        assert stage.desk.slots.ram == {"a1:sha", "a2:sha"}
        first = stage.room.reports[0]
        assert (first["version"], first["base_config_json"], first["max_rank"]) == (0, "{}", 16)
        stage.run()
        told = await stage.room.until(lambda report: report["version"] == 7 and report["ram"])
        assert told["slots"][0] == {"slot": 0, "reference": "a1:sha", "pinned": True}
        assert told["ram"] == ["a2:sha"]
        assert (told["base_config_json"], told["sees_store"], told["exact"]) == ("", True, True)


async def test_what_nobody_has_tried_is_tried_before_the_replica_is_ready():
    async with Stage() as stage:
        moves = [{"id": n, "kind": "MOVE_KIND_TRY", "reference": f"a{n}:sha"} for n in (1, 2)]
        put = stage.room.answers.put_nowait
        put({"version": 1, "whole": True, "targets": [row(1), row(2)], "moves": moves[:1]})
        put({"version": 1, "moves": moves[1:]})
        put({"version": 2, "targets": [row(1, "TIER_VRAM"), row(2)]})
        assert await stage.agent.prepare()
        assert stage.canary.tried == ["a1:sha", "a2:sha"]
        assert stage.desk.slots.in_slots >= {"a1:sha"}
        told = [tried["reference"] for report in stage.room.reports for tried in report["tried"]]
        assert told == ["a1:sha", "a2:sha"]


async def test_what_changes_is_told_once_and_then_the_router_is_left_alone():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1)]})
        assert await stage.agent.prepare()
        stage.run()
        async with stage.desk.hold("a1:sha"):
            pass
        await stage.room.until(lambda report: report["slots"][0]["reference"] == "a1:sha")
        told, begun = len(stage.room.reports), time.monotonic()
        assert told <= 10
        await asyncio.sleep(2.0)
        seconds = time.monotonic() - begun
        assert len(stage.room.reports) - told <= 2 + seconds, (
            "what changes by itself is told once a second"
        )


async def test_a_router_that_is_away_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("consilium.engine.adapter_agent.FIRST_S", 0.1)
    async with Stage() as stage:
        stage.room.away = 10**9
        assert not await stage.agent.prepare()


async def test_calls_and_changes_are_told():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1), row(2)]})
        await stage.agent.prepare()
        stage.run()
        async with stage.desk.hold("a1:sha"):
            told = await stage.room.until(
                lambda report: any(use["in_use"] for use in report["uses"])
            )
            (use,) = told["uses"]
            assert (use["reference"], use["in_use"]) == ("a1:sha", 1)
            assert use["last_used_at"] > 1e9
            await stage.room.until(lambda report: any(use.get("misses") for use in report["uses"]))
        async with stage.desk.hold("a1:sha"):
            pass
        told = await stage.room.until(
            lambda report: any(use.get("slot_hits") for use in report["uses"])
        )
        assert told["slots"][0]["reference"] == "a1:sha"


async def test_moves_are_done_in_the_engine_and_told_by_their_number():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1), row(2)]})
        await stage.agent.prepare()
        stage.run()
        moves = [
            {"id": 11, "kind": "MOVE_KIND_SLOT", "reference": "a1:sha"},
            {"id": 12, "kind": "MOVE_KIND_RAM", "reference": "a2:sha"},
            {"id": 13, "kind": "MOVE_KIND_TRY", "reference": "a2:sha"},
        ]
        stage.room.answers.put_nowait({"version": 1, "moves": moves})
        done = set()

        def all_done(report):
            done.update(report["done"])
            return done >= {11, 12, 13}

        await stage.room.until(all_done)
        tried = [tried for report in stage.room.reports for tried in report["tried"]]
        assert tried == [{"reference": "a2:sha", "proof": "PROOF_OK", "figures_json": "{}", "fingerprint": SAME}]  # fmt: skip
        assert "a1:sha" in stage.desk.slots.in_slots
        assert "a2:sha" in stage.desk.slots.ram
        stage.room.answers.put_nowait({"version": 1, "moves": [{"id": 14, "kind": "MOVE_KIND_EVICT", "reference": "a1:sha"}]})  # fmt: skip
        told = await stage.room.until(lambda report: 14 in report["done"])
        assert all(slot["reference"] != "a1:sha" for slot in told["slots"])


async def test_what_is_gone_while_it_is_being_read_is_told_as_held_until_it_was_let_go():
    async with Stage() as stage:
        gate = asyncio.Event()

        @asynccontextmanager
        async def slowly(target):
            await gate.wait()
            yield target

        stage.desk.files = slowly
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1, "TIER_RAM")]})  # fmt: skip
        stage.run()
        await stage.room.until(lambda report: report["version"] == 1)
        stage.room.answers.put_nowait({"version": 2, "gone": ["a1:sha"]})
        told = await stage.room.until(lambda report: report["version"] == 2)
        assert told["ram"] == ["a1:sha"]
        stage.room.answers.put_nowait({"version": 2, "moves": [{"id": 5, "kind": "MOVE_KIND_EVICT", "reference": "a1:sha"}]})  # fmt: skip
        await asyncio.sleep(0.05)
        gate.set()
        told = await stage.room.until(lambda report: 5 in report["done"])
        assert told["ram"] == []
        assert not (await stage.engine.look()).ram


async def test_what_is_gone_takes_no_calls_and_is_let_go():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1)]})
        await stage.agent.prepare()
        async with stage.desk.hold("a1:sha"):
            stage.run()
            stage.room.answers.put_nowait(
                {"version": 2, "gone": ["a1:sha"], "moves": [{"id": 5, "kind": "MOVE_KIND_EVICT", "reference": "a1:sha"}]}
            )  # fmt: skip
            await stage.room.until(lambda report: report["version"] == 2)
            with pytest.raises(ConsiliumError, match="adapter_unknown"):
                async with stage.desk.hold("a1:sha"):
                    pass
            assert "a1:sha" in stage.desk.slots.in_slots
        await stage.room.until(lambda report: 5 in report["done"])
        assert not stage.engine._ram


async def test_a_router_that_began_anew_is_told_the_model_again_and_takes_nothing_away():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 9, "whole": True, "targets": [row(1)]})
        await stage.agent.prepare()
        stage.run()
        stage.room.answers.put_nowait({"version": 100, "whole": True})
        told = await stage.room.until(lambda report: report["base_config_json"] and report is not stage.room.reports[0])  # fmt: skip
        assert told["version"] == 0
        assert "a1:sha" in stage.desk.targets
        stage.room.answers.put_nowait({"version": 101, "whole": True, "targets": [row(2)]})
        await stage.room.until(lambda report: report["version"] == 101)
        assert set(stage.desk.targets) == {"a2:sha"}


async def test_what_a_report_did_not_bring_is_told_in_the_next_one():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1)]})
        await stage.agent.prepare()
        async with stage.desk.hold("a1:sha"):
            pass
        stage.room.away = 3
        stage.run()
        await stage.room.until(lambda report: len(stage.room.reports) >= 5)
        told = [use for report in stage.room.reports[-2:] for use in report["uses"]]
        assert [use["misses"] for use in told if use.get("misses")] == [1] or any(
            use.get("misses") == 1 for report in stage.room.reports for use in report["uses"]
        )


async def test_a_canary_that_cannot_be_loaded_is_a_result_too():
    async with Stage() as stage:
        stage.canary.fails = True
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1)]})
        await stage.agent.prepare()
        stage.run()
        stage.room.answers.put_nowait({"version": 1, "moves": [{"id": 3, "kind": "MOVE_KIND_TRY", "reference": "a1:sha"}]})  # fmt: skip
        told = await stage.room.until(lambda report: report["tried"])
        assert told["tried"][0]["proof"] == "PROOF_FAILED"


async def test_an_adapter_that_shows_another_fingerprint_is_taken_out_and_told():
    async with Stage() as stage:
        stage.canary.shows = OTHER
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1, fingerprint=SAME), row(2)]})  # fmt: skip
        await stage.agent.prepare()
        stage.run()
        with suppress(ConsiliumError):  # it may be found out before the call is let in
            async with stage.desk.hold("a1:sha"):
                await asyncio.sleep(0.2)
        async with stage.desk.hold("a2:sha"):
            pass
        told = await stage.room.until(
            lambda report: any(use.get("failure") for use in report["uses"])
        )
        assert [use["reference"] for use in told["uses"] if use.get("failure")] == ["a1:sha"]
        await until_true(lambda: 1 not in stage.engine._ram)
        with pytest.raises(ConsiliumError, match="does not show"):
            async with stage.desk.hold("a1:sha"):
                pass


async def test_a_move_that_has_arrived_is_told_at_once_and_done_once_though_it_comes_twice():
    async with Stage() as stage:
        held = asyncio.Event()
        real, seen = stage.desk.place, []

        async def place(reference, tier):
            seen.append(reference)
            await held.wait()
            await real(reference, tier)

        stage.desk.place = place
        move = {"id": "7", "kind": "MOVE_KIND_RAM", "reference": "a1:sha"}
        stage.run()
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1)], "moves": [move]})  # fmt: skip
        report = await stage.room.until(lambda each: each["doing"] == [7])
        assert report["tells_doing"]
        stage.room.answers.put_nowait({"version": 1, "moves": [move]})
        await stage.room.until(lambda _each: stage.room.answers.empty())
        held.set()
        report = await stage.room.until(lambda each: 7 in each["done"])
        assert report["doing"] == []
        assert seen == ["a1:sha"]


async def test_a_number_that_a_new_router_gives_to_another_move_is_no_move_that_is_under_way():
    async with Stage() as stage:
        held, real, seen = asyncio.Event(), stage.desk.place, []

        async def place(reference, tier):
            seen.append(reference)
            if reference == "a1:sha":
                await held.wait()
            await real(reference, tier)

        stage.desk.place = place
        old, new = ({"id": 7, "kind": "MOVE_KIND_RAM", "reference": f"a{n}:sha"} for n in (1, 2))
        stage.run()
        stage.room.answers.put_nowait({"version": 1, "whole": True, "targets": [row(1), row(2)], "moves": [old]})  # fmt: skip
        await stage.room.until(lambda each: each["doing"] == [7])
        stage.room.answers.put_nowait({"version": 1, "moves": [new]})
        await stage.room.until(lambda each: "a2:sha" in each["ram"])
        assert seen == ["a1:sha", "a2:sha"]
        assert all(not each["done"] for each in stage.room.reports), "one of them is under way"
        held.set()
        report = await stage.room.until(lambda each: each["done"])
        assert (report["done"], report["doing"]) == ([7], [])


# What is pinned is a promise


def torn(number):
    def fault(_what, asked):
        if asked == number:
            raise OSError("torn")

    return fault


async def test_a_pinned_adapter_that_cannot_be_read_keeps_the_replica_from_being_ready():
    async with Stage(ready_s=0.2, fault=torn(1)) as stage:
        rows = [row(1, "TIER_VRAM"), row(2, "TIER_RAM")]
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": rows})
        with pytest.raises(ConsiliumError, match="a1:sha") as told:
            await asyncio.wait_for(stage.agent.prepare(), 60)
        assert told.value.code == "part_failed"
        reason = told.value.public()
        assert "/store/1" in reason
        assert "torn" in reason
        assert "consilium adapters place NAME ram" in reason
        assert any(use.get("failure") for report in stage.room.reports for use in report["uses"])


async def test_a_read_without_end_is_told_and_not_waited_for():
    async with Stage(ready_s=0.2) as stage:

        @asynccontextmanager
        async def never(target):
            await asyncio.Event().wait()
            yield target

        stage.desk.files = never
        rows = [row(1, "TIER_VRAM"), row(2, "TIER_VRAM")]
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": rows})
        with pytest.raises(ConsiliumError, match="still being read"):
            await asyncio.wait_for(stage.agent.prepare(), 60)


async def test_what_is_only_kept_in_memory_may_come_later():
    async with Stage(ready_s=0.2, fault=torn(2)) as stage:
        rows = [row(1, "TIER_VRAM"), row(2, "TIER_RAM")]
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": rows})
        assert await asyncio.wait_for(stage.agent.prepare(), 60)
        assert stage.desk.slots.in_slots == {"a1:sha"}


async def test_another_placement_lets_a_start_go_on():
    async with Stage(ready_s=60.0, fault=torn(1)) as stage:
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": [row(1, "TIER_VRAM")]})  # fmt: skip
        starting = asyncio.create_task(stage.agent.prepare())
        await stage.room.until(lambda report: any(use.get("failure") for use in report["uses"]))
        stage.room.answers.put_nowait({"version": 8, "targets": [row(1, "TIER_RAM")]})
        assert await asyncio.wait_for(starting, 60)
        assert not stage.desk.slots.in_slots


async def test_a_pinned_one_that_comes_back_lets_the_replica_be_ready(monkeypatch):
    monkeypatch.setattr("consilium.engine.adapter_desk.REST_S", 0.05)
    left = [1, 1, 1, 1]

    def fault(what, _number):
        if what == "read" and left:
            left.pop()
            raise OSError("torn")

    async with Stage(ready_s=60.0, fault=fault) as stage:
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": [row(1, "TIER_VRAM")]})  # fmt: skip
        assert await asyncio.wait_for(stage.agent.prepare(), 60)
        assert stage.desk.slots.in_slots == {"a1:sha"}


async def test_a_store_that_hangs_holds_up_no_report():
    async with Stage() as stage:
        looked = asyncio.Event()

        async def never(_path):
            looked.set()
            await asyncio.Event().wait()

        object.__setattr__(stage.agent._replica, "sees", never)
        stage.room.answers.put_nowait({"version": 7, "whole": True, "targets": [row(1, "TIER_VRAM")]})  # fmt: skip
        assert await asyncio.wait_for(stage.agent.prepare(), 60)
        assert looked.is_set()


async def test_an_answer_that_cannot_be_taken_ends_no_reporting():
    async with Stage() as stage:
        stage.room.answers.put_nowait({"targets": [{"odd": "row"}]})
        stage.run()
        await stage.room.until(lambda report: report["wait_s"] > 0)
        stage.room.answers.put_nowait({"version": 5, "targets": [row(1, "TIER_VRAM")]})
        await stage.room.until(lambda report: report["version"] == 5)
        assert not stage.task.done()


async def test_what_nobody_told_of_while_the_router_is_away_is_not_unknown_but_away():
    async with Stage() as stage:
        with pytest.raises(ConsiliumError) as raised:
            async with stage.desk.hold("a1:sha"):
                pass
        assert raised.value.code == "adapter_down"
        stage.room.answers.put_nowait({"version": 5, "targets": [row(2)]})
        await stage.agent.prepare()
        with pytest.raises(ConsiliumError) as raised:
            async with stage.desk.hold("a1:sha"):
                pass
        assert raised.value.code == "adapter_unknown"


async def test_a_model_without_a_readable_configuration_is_told_of_adapters_too():
    async with Stage() as stage:
        stage.agent._replica = replace(stage.agent._replica, base_config="")
        stage.room.answers.put_nowait({"version": 3, "whole": True, "targets": [row(1)]})
        await stage.agent.prepare()
        assert set(stage.desk.targets) == {"a1:sha"}

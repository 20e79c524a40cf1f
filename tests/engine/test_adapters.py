"""Adapters in a real engine: what answers, what is held where, and what nobody notices."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from consilium.engine import wire
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.canary import agrees
from consilium.engine.slots import Tier
from consilium.kernel.errors import ConsiliumError
from tests import made_adapters

from .conftest import Asker, Said

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

COUNT = 12
TEXT = "Say something that nobody else would say."


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[AdapterTarget]:
    folder = tmp_path_factory.mktemp("adapters")
    return [made_adapters.make(folder, seed, rank=8 + seed % 5) for seed in range(COUNT)]


@pytest_asyncio.fixture(loop_scope="session")
async def desk(dense: Asker, made: list[AdapterTarget]) -> AsyncIterator[AdapterDesk]:
    found: AdapterDesk = dense.engine.adapters
    found.told(made)
    yield found
    for target in list(found.targets.values()):
        await found.evict(target.reference)
    found.told([], list(found.targets))
    held = await found._holder.look()
    assert (set(held.slots), held.ram) == ({None}, frozenset())


async def ask(dense: Asker, target: AdapterTarget | None, text: str = TEXT, **body: Any) -> Said:
    wanted = {"temperature": 0, "max_tokens": 8, **body}
    call = dense.call("chat", messages=[{"role": "user", "content": text}], **wanted)
    if target is not None:
        call = replace(call, adapter=target.reference)
    reader, raw, head, tail = wire.Reader(), b"", None, None
    async for frame in dense.engine.stream(call):
        item = reader.take(frame)
        head, tail, raw = item.head or head, item.tail or tail, raw + item.body
    assert head is not None
    assert tail is not None
    return Said(head, raw, tail)


async def at_rest(desk: AdapterDesk) -> None:
    """The book says what the workers say."""
    await desk.settle()
    held = await desk._holder.look()
    names = {target.number: target.reference for target in desk.targets.values()}
    assert desk.slots.in_slots == {names[n] for n in held.slots if n is not None}
    assert desk.slots.ram == {names[n] for n in held.ram}


async def test_each_adapter_answers_in_its_own_way(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    base = await ask(dense, None)
    assert (base.head.adapter_tier, base.head.adapter_wait_ms) == ("", None)
    first = await ask(dense, made[0])
    assert first.head.status == 200, first.body
    assert first.head.adapter_tier == "ssd"
    assert first.json["model"] == made[0].reference
    again = await ask(dense, made[0])
    assert (again.text, again.head.adapter_tier) == (first.text, "slot")
    other = await ask(dense, made[1])
    assert len({base.text, first.text, other.text}) == 3
    assert (await ask(dense, None)).text == base.text
    await at_rest(desk)


async def test_memory_is_filled_without_taking_a_slot(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    await ask(dense, made[0])
    before = (await desk._holder.look()).slots
    await desk.place(made[2].reference, Tier.RAM)
    held = await desk._holder.look()
    assert held.slots == before
    assert made[2].number in held.ram
    assert (await ask(dense, made[2])).head.adapter_tier == "ram"
    await at_rest(desk)


async def test_many_adapters_over_few_slots_never_answer_for_each_other(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    alone = [(await ask(dense, target)).text for target in made]
    assert len(set(alone)) == COUNT
    turns = [(turn * 7 + place) % COUNT for turn in range(4) for place in range(COUNT)]
    answers = await asyncio.gather(*(ask(dense, made[which]) for which in turns))
    wrong = [which for which, said in zip(turns, answers, strict=True) if said.text != alone[which]]
    told = {alone.index(said.text) for said in answers if said.text in alone}
    assert told == set(range(COUNT))
    assert len(wrong) <= 2, wrong  # bfloat16 noise of other batches, never another's text
    for which, said in zip(turns, answers, strict=True):
        assert said.text == alone[which] or said.text not in alone
    await at_rest(desk)


async def test_cold_callers_are_served_in_turn_or_told_when_to_come_again(
    dense: Asker, desk: AdapterDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = [made_adapters.make(tmp_path, 100 + number) for number in range(64)]
    desk.told(cold)
    monkeypatch.setattr(desk.slots, "max_wait_s", 10.0)
    began = time.monotonic()
    ends = await asyncio.gather(*(ask(dense, one) for one in cold), return_exceptions=True)
    took = time.monotonic() - began
    served = [end for end in ends if isinstance(end, Said) and end.head.status == 200]
    refused = [end for end in ends if isinstance(end, ConsiliumError)]
    assert len(served) + len(refused) == 64, ends
    assert all(error.code == "no_free_lora_slot" and error.retry_after_s for error in refused)
    waits = [said.head.adapter_wait_ms or 0.0 for said in served]
    print(f"64 cold over 2 slots: {len(served)} served, longest wait {max(waits) / 1000:.2f} s, {took:.1f} s in all")  # fmt: skip
    assert served
    await at_rest(desk)


async def test_an_adapter_without_files_ends_its_own_calls_only(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget], tmp_path: Path
) -> None:
    lost = made_adapters.make(tmp_path, 900)
    torn = made_adapters.make(tmp_path, 901)
    shutil.rmtree(lost.path)
    file = Path(torn.path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    desk.told([lost, torn])
    for target in (lost, torn):
        with pytest.raises(ConsiliumError) as refused:
            await ask(dense, target)
        assert refused.value.code == "adapter_refused"
    assert (await ask(dense, made[3])).head.status == 200
    assert (await dense.chat()).head.status == 200
    assert dense.died.empty()
    await at_rest(desk)


async def test_too_large_a_rank_is_refused_by_its_load(
    dense: Asker, desk: AdapterDesk, tmp_path: Path
) -> None:
    large = made_adapters.make(tmp_path, 902, rank=64)
    desk.told([large])
    with pytest.raises(ConsiliumError, match="rank"):
        await ask(dense, large)
    assert dense.died.empty()


async def test_a_pinned_adapter_stays_and_leaves_a_slot_for_the_others(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    desk.told([replace(made[number], placement="vram") for number in (0, 1)])
    await desk.settle()
    assert desk.slots.firm == (made[0].reference,)
    for number in (4, 5, 6, 1):
        await ask(dense, made[number])
        assert made[0].number in (await desk._holder.look()).slots
    assert (await ask(dense, made[0])).head.adapter_tier == "slot"
    await at_rest(desk)


async def test_an_eviction_waits_for_a_stream_and_then_nothing_holds_it(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    call = dense.call(
        "chat", messages=[{"role": "user", "content": TEXT}], max_tokens=200, stream=True
    )
    async with aclosing(dense.engine.stream(replace(call, adapter=made[7].reference))) as frames:
        await anext(frames)
        await anext(frames)
        gone = asyncio.create_task(desk.evict(made[7].reference))
        await asyncio.sleep(0.1)
        assert not gone.done()
        assert made[7].number in (await desk._holder.look()).slots
    await gone
    held = await desk._holder.look()
    assert made[7].number not in held.ram
    await at_rest(desk)


async def test_a_caller_that_goes_away_leaves_its_slot(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    for target in made[:6]:
        call = dense.call(
            "chat", messages=[{"role": "user", "content": TEXT}], max_tokens=200, stream=True
        )
        async with aclosing(dense.engine.stream(replace(call, adapter=target.reference))) as frames:
            await anext(frames)
    assert not desk.slots.in_use
    await at_rest(desk)


async def test_other_streams_go_on_while_adapters_are_loaded(
    dense: Asker, desk: AdapterDesk, tmp_path: Path
) -> None:
    """The longest gap between two tokens of a stream while adapters are loaded beside it, against the longest without, is printed."""

    ends: list[bytes] = []

    async def gaps(beside: list[AdapterTarget]) -> float:
        call = dense.call(
            "chat", messages=[{"role": "user", "content": "count"}], max_tokens=300, stream=True, ignore_eos=True
        )  # fmt: skip
        async with aclosing(dense.engine.stream(call)) as frames:
            await anext(frames)
            loads = asyncio.gather(*(desk.place(one.reference, Tier.RAM) for one in beside))
            last, longest = time.monotonic(), 0.0
            async for frame in frames:
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                ends.append(frame)
            await loads
        assert b'"length"' in b"".join(ends[-4:])
        return longest

    quiet = [await gaps([]) for _ in range(2)]
    new = [made_adapters.make(tmp_path, 950 + number, rank=16) for number in range(3)]
    desk.told(new)
    loaded = await gaps(new)
    print(f"longest gap: {[round(one * 1000) for one in quiet]} ms alone, {loaded * 1000:.0f} ms beside three loads")  # fmt: skip
    assert {one.number for one in new} <= set((await desk._holder.look()).ram)


async def test_the_canary_tells_a_sound_adapter_from_one_that_does_nothing_and_from_a_broken_one(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget], tmp_path: Path
) -> None:
    nothing = made_adapters.make(tmp_path, 700, spread=0.0)
    faint = made_adapters.make(tmp_path, 701, spread=1e-4)
    beyond = made_adapters.make(tmp_path, 702, spread=1e38)
    desk.told([nothing, faint, beyond])
    plain = await asyncio.gather(*(ask(dense, None, f"{TEXT} {n}") for n in range(8)))
    canary = dense.engine.canary
    found = {}
    for name, target in {
        "good": made[0], "other": made[5], "nothing": nothing, "faint": faint, "beyond": beyond
    }.items():  # fmt: skip
        began = time.monotonic()
        verdict = await canary.try_out(target)
        found[name] = verdict.proof
        print(name, verdict.proof, verdict.figures, f"{time.monotonic() - began:.1f} s")
        if verdict.proof == "ok":
            assert agrees(verdict.fingerprint, await canary.fingerprint(target))
            assert not agrees(verdict.fingerprint, await canary.fingerprint(made[1]))
    assert found == {
        "good": "ok", "other": "ok", "nothing": "no_effect", "faint": "no_effect", "beyond": "degenerate"
    }  # fmt: skip
    # What the broken one left in the KV cache spoils nobody's answer.
    after = await asyncio.gather(*(ask(dense, None, f"{TEXT} {n}") for n in range(8)))
    assert [said.text for said in after] == [said.text for said in plain]
    assert dense.died.empty()
    await at_rest(desk)


async def test_the_plain_model_is_itself_in_one_batch_with_every_slot_in_use(
    dense: Asker, desk: AdapterDesk, made: list[AdapterTarget]
) -> None:
    """vLLM 0.32 on cores takes "no adapter" for the last slot."""
    texts = [f"Tell me about the number {n}." for n in range(4)]
    alone = [await ask(dense, None, text, max_tokens=12, logprobs=True) for text in texts]
    for target in made[:2]:
        await ask(dense, target)
    said = await asyncio.gather(
        *(
            ask(dense, target, text, max_tokens=12, logprobs=True)
            for text in texts
            for target in (None, made[0], None, made[1])
        )
    )
    plain = [said[4 * n + k] for n in range(4) for k in (0, 2)]
    for one, other in zip([each for each in alone for _ in range(2)], plain, strict=True):
        first = one.json["choices"][0]["logprobs"]["content"][0]["logprob"]
        assert abs(other.json["choices"][0]["logprobs"]["content"][0]["logprob"] - first) < 0.1
        assert other.text == one.text

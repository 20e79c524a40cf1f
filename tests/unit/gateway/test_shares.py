"""Who gets the places when several keys want them: rules about counts, and the gate that goes by them."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilium.gateway import shares
from consilium.gateway.gate import Gate
from consilium.gateway.shares import Waiting, Who
from consilium.kernel.errors import ConsiliumError

ANN, BOB, EVE = Who("home", "ann"), Who("home", "bob"), Who("work", "eve")


def gate_of(places):
    """A gate before an engine that computes so many at once, with as many again in the queue."""
    gate = Gate(1)
    gate.set_limit("core", places * 2, places)
    return gate


def test_a_key_alone_leaves_a_place_for_the_next_one():
    assert [shares.alone(places) for places in (1, 3, 4, 16, 64, 256)] == [1, 3, 3, 15, 60, 240]
    assert shares.may_run(ANN, {ANN: 59}, (), 64)
    assert not shares.may_run(ANN, {ANN: 60}, (), 64)
    assert shares.may_run(BOB, {ANN: 60}, (), 64)


def test_while_the_batch_is_full_only_keys_below_their_share_get_places():
    full = {ANN: 60, BOB: 4}
    assert not shares.may_run(ANN, full, (), 64)
    assert shares.may_run(BOB, full, (), 64)
    assert not shares.may_run(BOB, {ANN: 32, BOB: 32}, (), 64)


def test_who_has_no_key_has_no_share():
    assert shares.may_run(Who(), {Who(): 1000}, (), 4)
    assert shares.may_come(Who(), {Who(): 1000}, 4)


def test_who_waits_longest_comes_after_who_has_less():
    queue = [
        Waiting(ANN, "interactive", 1),
        Waiting(BOB, "interactive", 2),
        Waiting(EVE, "interactive", 3),
        Waiting(ANN, "batch", 0),
    ]
    order = shares.following(queue, {ANN: 3, BOB: 1, EVE: 1})
    assert [(one.who, one.lane) for one in order] == [
        (EVE, "interactive"),  # her tenant has the least in work
        (BOB, "interactive"),
        (ANN, "interactive"),
        (ANN, "batch"),
    ]


def test_one_key_cannot_fill_the_queue():
    assert shares.may_come(ANN, {ANN: 95}, 128)
    assert not shares.may_come(ANN, {ANN: 96}, 128)
    assert shares.may_come(BOB, {ANN: 96}, 128)
    assert not shares.may_come(BOB, {ANN: 96, BOB: 64}, 128)


def test_the_engine_computes_first_what_a_key_with_less_in_work_asked():
    assert [shares.step(own) for own in (0, 1, 2, 8, 10_000)] == [0, 1, 2, 4, 9]


async def test_one_key_with_100_streams_leaves_the_first_token_to_others():
    gate = gate_of(64)
    flood = [asyncio.ensure_future(gate.admit("core", "interactive", ANN)) for _ in range(100)]
    await asyncio.sleep(0)
    refused = [one for one in flood if one.done() and one.exception()]
    assert len(refused) == 4
    assert (gate.running("core"), gate.waiting("core")) == (60, 36)
    async with asyncio.timeout(60):
        for _ in range(32):
            await gate.admit("core", "interactive", BOB)
    for _ in range(28):  # ann's end, and she gets none back until she is below her share
        gate.leave("core", 1.0, ANN)
        await asyncio.sleep(0)
    assert (gate.running("core"), gate.waiting("core")) == (64, 36)
    gate.leave("core", 1.0, ANN)
    await asyncio.sleep(0)
    assert (gate.running("core"), gate.waiting("core")) == (64, 35)
    for one in flood:
        one.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_who_leaves_while_waiting_takes_no_place():
    gate = gate_of(4)
    for _ in range(3):
        await gate.admit("core", "interactive", ANN)
    gone = asyncio.ensure_future(gate.admit("core", "interactive", ANN))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    assert (gate.running("core"), gate.waiting("core")) == (3, 0)
    late = asyncio.ensure_future(gate.admit("core", "interactive", ANN))
    await asyncio.sleep(0)
    gate.leave("core", 1.0, ANN)  # the place comes in the moment in which he leaves
    late.cancel()
    await asyncio.wait({late})
    assert (gate.running("core"), gate.waiting("core")) == (2, 0)


async def test_a_turn_that_ends_costs_little_however_many_wait(monkeypatch):
    """Each key is judged once, and not each of its turns."""
    gate, judged = gate_of(256), 0
    flood = [asyncio.ensure_future(gate.admit("core", "interactive", ANN)) for _ in range(2 * 256)]
    await asyncio.sleep(0)
    assert gate.waiting("core") > 100
    true = shares.may_run

    def counted(*args):
        nonlocal judged
        judged += 1
        return true(*args)

    monkeypatch.setattr(shares, "may_run", counted)
    gate.leave("core", 1.0, ANN)
    assert 0 < judged <= 4
    for one in flood:
        one.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_patience_ends_with_queue_full():
    gate = gate_of(4)
    for _ in range(3):
        await gate.admit("core", "interactive", ANN)
    with pytest.raises(ConsiliumError) as told:
        await gate.admit("core", "interactive", ANN, patience_s=0.01)
    assert told.value.code == "queue_full"
    assert gate.waiting("core") == 0


@given(
    places=st.integers(1, 40),
    steps=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=200),
)
@settings(deadline=None, max_examples=150)
def test_whatever_comes_and_goes_nobody_waits_while_a_place_is_his(places, steps):
    async def play():
        gate, inside, waiting = gate_of(places), Counter(), []
        for key, comes in steps:
            who = Who("home", key)
            if comes:
                asked = asyncio.ensure_future(gate.admit("core", "interactive", who))
                waiting.append((who, asked))
            elif inside[who]:
                inside[who] -= 1
                gate.leave("core", 0.1, who)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for who_asked, asked in [pair for pair in waiting if pair[1].done()]:
                waiting.remove((who_asked, asked))
                inside[who_asked] += asked.exception() is None
            assert gate.running("core") == inside.total()
            assert gate.running("core") + gate.waiting("core") <= places * 2
            still = [who_asked for who_asked, _ in waiting]
            assert len(still) == gate.waiting("core")
            if not inside.total():
                assert not still
        for _, asked in waiting:
            asked.cancel()
        await asyncio.gather(*(asked for _, asked in waiting), return_exceptions=True)

    asyncio.run(play())

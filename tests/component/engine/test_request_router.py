"""The router on Ray's base class, without a cluster."""

import asyncio
import re
import time

import pytest
from tests.bench.router_decision import BAR_MS, measure, replica, request, router

from consilium.kernel.metrics import of_this_process


def names(ranks):
    return [rank[0].replica_id.unique_id for rank in ranks]


async def send(ours, replicas, number, prefix):
    pending = request(number, prefix)
    ranks = await ours.choose_replicas(replicas, pending)
    ours.on_send_request(ranks[0][0].replica_id)
    return ranks[0][0], pending


async def test_a_conversation_stays_where_its_prefix_is():
    ours, replicas = router(slack=4), [replica(i) for i in range(3)]
    first, _ = await send(ours, replicas, 0, "talk")
    for number in range(1, 4):
        again, pending = await send(ours, replicas, number, "talk")
        assert again is first
        assert ours.explain(pending.metadata.request_id).startswith(
            "holds the beginning of the prompt"
        )


async def test_a_busy_holder_lets_others_help():
    ours, replicas = router(slack=4), [replica(i) for i in range(2)]
    chosen = [
        (await send(ours, replicas, number, "talk"))[0].replica_id.unique_id for number in range(20)
    ]
    assert 6 <= chosen.count("r00") <= 14
    assert len(set(chosen)) == 2


async def test_all_replicas_are_ranked_and_the_count_spares_the_probe():
    ours, replicas = router(), [replica(i) for i in range(4)]
    ranks = await ours.choose_replicas(replicas, request(0, ""))
    assert sorted(names(ranks)) == ["r00", "r01", "r02", "r03"]
    assert ours.replica_queue_len_cache.get(ranks[0][0].replica_id) == 0


async def test_finished_requests_are_counted_back():
    ours, replicas = router(slack=0), [replica(i) for i in range(2)]
    first, _ = await send(ours, replicas, 0, "")
    second, _ = await send(ours, replicas, 1, "")
    assert first is not second
    ours.on_request_completed(first.replica_id, "int-0")
    third, _ = await send(ours, replicas, 2, "")
    assert third is first


async def test_other_gateways_requests_are_seen():
    ours = router(slack=0)
    replicas = [
        replica(0, routing_stats={"ongoing": 9, "at": time.time()}),
        replica(1, routing_stats={"ongoing": 0, "at": time.time()}),
    ]
    ours.update_replicas(replicas)
    for number in range(4):
        chosen, _ = await send(ours, replicas, number, "")
        assert chosen is replicas[1]


async def test_a_dead_replica_is_forgotten():
    ours, replicas = router(), [replica(i) for i in range(2)]
    ours.update_replicas(replicas)
    first, _ = await send(ours, replicas, 0, "talk")
    ours.on_replica_actor_died(first.replica_id)
    left = [one for one in replicas if one is not first]
    chosen, pending = await send(ours, left, 1, "talk")
    assert chosen is left[0]
    assert ours.explain(pending.metadata.request_id) == "the only replica"
    assert first.replica_id.unique_id not in ours._prefixes.holders("|talk")


async def test_adapters_do_not_share_prefixes():
    ours, replicas = router(slack=4), [replica(i) for i in range(2)]
    plain = request(0, "talk")
    tuned = request(1, "talk")
    tuned.args[0]["adapter"] = "voice@1"
    first = (await ours.choose_replicas(replicas, plain))[0][0]
    ours.on_send_request(first.replica_id)
    assert (await ours.choose_replicas(replicas, tuned))[0][0] is not first


async def test_a_call_without_a_key_is_routed_by_load():
    ours, replicas = router(), [replica(i) for i in range(2)]
    pending = request(0, "")
    pending.args.clear()
    assert len(await ours.choose_replicas(replicas, pending)) == 2
    assert await ours.choose_replicas([], pending) == []


@pytest.mark.parametrize("replicas", [2, 8, 32])
async def test_a_decision_is_cheap(replicas):
    taken = sorted(await measure(replicas, rounds=1000))
    assert taken[len(taken) // 2] <= BAR_MS


async def test_the_reason_travels_with_the_call():
    ours, replicas = router(), [replica(i) for i in range(2)]
    pending = request(0, "talk")
    pending.args[0]["routing"] = ""
    await ours.choose_replicas(replicas, pending)
    assert pending.args[0]["routing"] == "least loaded; 0 requests here, 0 in the least loaded of 2"


async def test_a_burst_is_spread_before_anything_is_sent():
    ours, replicas = router(slack=2), [replica(i) for i in range(2)]
    waiting = [request(i, f"talk-{i}") for i in range(12)]
    chosen = [(await ours.choose_replicas(replicas, one))[0][0] for one in waiting]
    assert chosen.count(replicas[0]) == 6


async def test_calls_with_one_internal_id_are_all_routed():
    """Calls made side by side within one HTTP request share Ray's internal id."""
    ours, replicas = router(slack=2), [replica(i) for i in range(2)]
    ours.update_replicas(replicas)
    calls = [request(i, f"talk-{i}") for i in range(8)]
    for call in calls:
        call.metadata.internal_request_id = "one"
    taken = await asyncio.wait_for(
        asyncio.gather(*(ours._choose_replica_for_request(call) for call in calls)), 60
    )
    assert taken.count(replicas[0]) == 4
    assert not ours._pending_requests_by_id


async def test_calls_with_ids_of_their_own_are_spread_by_rays_machinery():
    ours, replicas = router(slack=2), [replica(i) for i in range(2)]
    ours.update_replicas(replicas)
    taken = await asyncio.wait_for(
        asyncio.gather(*(ours._choose_replica_for_request(request(i, f"t{i}")) for i in range(12))),
        60,
    )
    assert taken.count(replicas[0]) == 6
    assert not ours._pending_requests_by_id


async def test_each_decision_is_counted_by_what_decided():
    def counted():
        page = of_this_process().page()
        return {
            reason: float(count)
            for reason, count in re.findall(
                r'router_decision_seconds_count\{reason="(\w+)"\} (\S+)', page
            )
        }

    before = counted()
    ours, replicas = router(), [replica(i) for i in range(2)]
    await send(ours, replicas[:1], 0, "")
    await send(ours, replicas, 1, "talk")
    await send(ours, replicas, 2, "talk")
    now = counted()
    assert {name: now[name] - before.get(name, 0) for name in now} == {
        "only": 1,
        "load": 1,
        "prefix": 1,
    }

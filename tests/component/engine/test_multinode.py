"""Leader and followers, without nodes."""

import asyncio

import pytest

from consilium.engine import multinode
from consilium.kernel.errors import ConsiliumError


async def lost(run):
    told = asyncio.Queue()
    followers = multinode.Followers({1: run}, [], group=None)
    followers.watch(told.put_nowait)
    return followers, await asyncio.wait_for(told.get(), 60)


async def test_a_follower_whose_rank_ended_is_reported_by_name():
    run = asyncio.get_running_loop().create_future()
    run.set_result("a rank ended")
    _, error = await lost(run)
    assert (error.code, error.fields["name"]) == ("upstream_down", "node 1 of the engine")
    assert "a rank ended" in error.detail


@pytest.mark.parametrize("text", ["the node is gone\nand more", ""])
async def test_a_follower_that_died_is_reported_with_its_cause(text):
    run = asyncio.get_running_loop().create_future()
    run.set_exception(RuntimeError(text))
    _, error = await lost(run)
    assert "RuntimeError" in error.detail
    assert "and more" not in error.detail


async def test_followers_that_were_ended_are_not_lost():
    told = []
    run = asyncio.get_running_loop().create_future()
    followers = multinode.Followers({1: run}, [], group=None)
    followers.watch(told.append)
    await asyncio.sleep(0)
    followers.end()
    run.cancel()
    await asyncio.sleep(0)
    assert told == []


def test_only_several_nodes_are_spread():
    assert multinode.is_spread({"nnodes": 2})
    assert not multinode.is_spread({"nnodes": 1})
    assert not multinode.is_spread({})


def test_without_room_for_its_followers_a_leader_says_so(monkeypatch):
    monkeypatch.setattr(multinode.ray.util, "get_current_placement_group", lambda: None)
    with pytest.raises(ConsiliumError, match="2 nodes and its placement group has 0 bundles"):
        multinode.lead({"nnodes": 2}, "core", "0")

"""Turns that rooms ask for: the bytes are those of HTTP, and the key that a turn is for counts as if its owner had asked."""

import json

import grpc
import numpy as np
import pytest
from tests.component.gateway.conftest import chat, events
from tests.component.gateway.greeter import TOKEN

from consilium.gateway.client import GenerationClient, Message, TurnBegan, TurnClient, TurnEnded
from consilium.kernel.calls import ERROR_KEY
from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import turns_pb2 as pb
from consilium.v1 import turns_pb2_grpc as rpc


def turns(bench):
    return TurnClient(bench.channel(token=TOKEN))


def raw(body):
    return json.dumps(body).encode()


def id_of(key):
    return key.split("_")[1]


async def refused(asking) -> ConsiliumError:
    with pytest.raises(ConsiliumError) as caught:
        await asking
    return caught.value


async def test_the_words_are_those_of_http(gateway):
    bench = await gateway()
    for stream in (False, True):
        body = chat(stream=stream)
        over_http = await bench.client().post("/v1/chat/completions", json=body)
        played = await turns(bench).play("chat", raw(body), acting_for=id_of(bench.key))
        assert played.began.status == over_http.status_code
        assert played.began.content_type == over_http.headers["content-type"]
        assert played.began.stream is stream
        assert played.ended.finish_reason == "stop"
        assert played.ended.usage["completion_tokens"] > 0
        if stream:
            assert len(events(played.body.decode())) == len(events(over_http.text))
            assert played.body.endswith(b"data: [DONE]\n\n")
        else:
            one, other = json.loads(played.body), over_http.json()
            assert one["choices"][0]["message"] == other["choices"][0]["message"]


async def test_head_first_and_tail_last(gateway):
    bench = await gateway()
    body = raw(chat(stream=True))
    kinds = [type(message) async for message in turns(bench).stream("chat", body)]
    assert (kinds[0], kinds[-1]) == (TurnBegan, TurnEnded)
    assert set(kinds[1:-1]) == {bytes}


async def test_the_receipt_has_the_id_the_lane_and_the_key(gateway):
    bench = await gateway()
    key = await bench.new_key(scopes=frozenset({"generate"}))
    played = await turns(bench).play(
        "chat",
        raw(chat()),
        acting_for=id_of(key),
        lane="batch",
        conversation="talk-7",
        answer_id="job-1:row.2",
    )
    assert played.began.receipt_id == "job-1:row.2"
    owner = bench.client(key)
    await bench.eventually(lambda: _is_ok(owner, "/v1/receipts/job-1:row.2"))
    receipt = (await owner.get("/v1/receipts/job-1:row.2")).json()
    assert (receipt["lane"], receipt["conversation"]) == ("batch", "talk-7")


async def _is_ok(client, path):
    return (await client.get(path)).status_code == 200


async def test_embeddings_are_a_turn_too(gateway):
    bench = await gateway()
    played = await turns(bench).play("embeddings", raw({"model": "auto", "input": "one two"}))
    assert json.loads(played.body)["data"][0]["object"] == "embedding"
    assert played.ended.usage["prompt_tokens"] == 2


async def test_the_key_it_is_for_counts_as_if_its_owner_had_asked(gateway):
    bench = await gateway()
    now = SystemClock().now()
    revoked, expired = await bench.new_key(), await bench.new_key(lifetime_s=-1.0)
    await bench.stores.keys.revoke(id_of(revoked), now)
    reader = await bench.new_key(scopes=frozenset({"read"}))
    busy = await bench.new_key(rpm=1)
    play = turns(bench).play
    for key_id, code, words in (
        (id_of(revoked), "unauthenticated", "revoked"),
        (id_of(expired), "unauthenticated", "expired"),
        ("0" * 12, "unauthenticated", "not exist"),
        (id_of(reader), "forbidden", "'generate'"),
    ):
        error = await refused(play("chat", raw(chat()), acting_for=key_id))
        assert error.code == code
        assert words in error.public()
    await play("chat", raw(chat()), acting_for=id_of(busy))
    limited = await refused(play("chat", raw(chat()), acting_for=id_of(busy)))
    assert limited.code == "rate_limited"
    assert limited.retry_after_s > 1
    over_http = await bench.client(busy).post("/v1/chat/completions", json=chat())
    assert over_http.status_code == 429, "one quota, whichever way it is asked"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"route": 0}, "route"),
        ({"lane": "soon"}, "lane"),
        ({"answer_id": "x" * 65}, "answer_id"),
        ({"answer_id": "a b"}, "answer_id"),
        ({"conversation": "a b"}, "conversation"),
        ({"body_json": b"[]"}, "body"),
    ],
)
async def test_what_is_wrong_is_named(gateway, fields, param):
    bench = await gateway()
    channel = bench.channel(token=TOKEN)
    sound = {"route": pb.TURN_ROUTE_CHAT, "body_json": raw(chat())}
    request = pb.PlayTurnRequest(**{**sound, **fields})
    play = rpc.TurnServiceStub(channel.raw).PlayTurn

    async def all_of():
        return [one async for one in channel.listen(play, request)]

    error = await refused(all_of())
    assert (error.code, error.fields["field"]) == ("invalid_request", param)


async def test_only_the_inside_may(gateway):
    bench = await gateway()
    for channel in (bench.channel(), bench.channel(token="guessed")):
        assert (await refused(TurnClient(channel).play("chat", raw(chat())))).code == (
            "unauthenticated"
        )


async def test_the_inside_names_a_deadline_and_may_name_a_long_one(gateway):
    bench = await gateway()
    played = await turns(bench).play("chat", raw(chat()), timeout_s=20_000)
    assert played.began.status == 200
    call = rpc.TurnServiceStub(bench.channel(token=TOKEN).raw).PlayTurn(
        pb.PlayTurnRequest(route=pb.TURN_ROUTE_CHAT, body_json=raw(chat())),
        metadata=(("x-consilium-token", TOKEN),),
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert dict(caught.value.trailing_metadata())[ERROR_KEY] == "invalid_request"


async def test_leaving_stops_the_engine(gateway):
    bench = await gateway()
    playing = turns(bench).stream("chat", raw(chat("x " * 2000, stream=True)))
    assert isinstance(await anext(playing), TurnBegan)
    await playing.aclose()
    await bench.until(lambda: bench.grpc.running == 0)


async def test_responses_are_continued_for_their_key_alone(gateway):
    bench = await gateway()
    mine, other = await bench.new_key(), await bench.new_key()
    first = await turns(bench).play(
        "responses", raw({"model": "auto", "input": "one"}), acting_for=id_of(mine)
    )
    name = json.loads(first.body)["id"]
    follow = raw({"model": "auto", "input": "two", "previous_response_id": name})
    second = await turns(bench).play("responses", follow, acting_for=id_of(mine))
    assert json.loads(second.body)["previous_response_id"] == name
    stranger = await refused(turns(bench).play("responses", follow, acting_for=id_of(other)))
    assert stranger.code == "response_unknown"


async def test_rooms_embed_without_a_key_and_nothing_else(gateway):
    bench = await gateway()
    async with GenerationClient(f"127.0.0.1:{bench.grpc.port}", token=TOKEN) as inside:
        vectors = await inside.embed(["one two", "three"])
        assert np.asarray(vectors).shape == (2, 2)
        assert (await refused(inside.models())).code == "unauthenticated"


async def test_several_choices_are_told_apart(gateway):
    bench = await gateway()
    async with GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=bench.key) as client:
        pieces = [
            piece async for piece in client.stream([Message("user", "one two")], extra={"n": 2})
        ]
    said = {piece.choice for piece in pieces if piece.text}
    assert said <= {0, 1}
    assert 0 in said

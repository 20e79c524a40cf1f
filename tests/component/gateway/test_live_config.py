"""The configuration changes while two gateway replicas answer: over real sockets, behind them the echo engine, and stores that both share."""

import asyncio
import json
import os
from dataclasses import replace

import pytest
from tests.waiting import LIMIT_S

from consilium.gateway.backends.memory import open_stores
from consilium.gateway.config import Role
from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError

from .conftest import HeldEngine, chat, events, write_config

STREAMS = 32
WORDS = " ".join(f"!slow word{i}" for i in range(60))
POET = {"poet": Role(frame="You rhyme.", profile="dialog")}
JUDGE = {"judge": Role(frame="You weigh.", profile="dialog")}


@pytest.fixture
def file(tmp_path):
    return write_config(tmp_path / "config.json", POET, gateway={"replicas": 2})


@pytest.fixture
async def two(gateway, file):
    """Two replicas that follow one file."""
    stores = open_stores(SystemClock(), receipt_ttl_s=600)
    first = await gateway(config=file, stores=stores, engines=[HeldEngine()])
    second = await gateway(config=file, stores=stores, engines=[HeldEngine()])
    second.key = first.key
    return first, second


async def knows(bench, model):
    answer = await bench.client().post("/v1/chat/completions", json=chat("hi", model=model))
    return answer.status_code == 200


async def until_known(bench, model):
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(LIMIT_S):
        while not await knows(bench, model):  # noqa: ASYNC110  the other side is asked
            await asyncio.sleep(0.02)
    return asyncio.get_running_loop().time() - begun


async def stream(bench, number, model="role/poet"):
    body = chat(f"{WORDS} {number}", model=model, stream=True, max_tokens=200)
    async with bench.client().stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        return (await answer.aread()).decode()


async def test_32_streams_while_a_role_is_added(two, file):
    streams = [asyncio.create_task(stream(two[i % 2], i)) for i in range(STREAMS)]
    await two[0].until(
        lambda: sum(len(e.running) for bench in two for e in bench.engines.values()) == STREAMS
    )
    write_config(file, {**POET, **JUDGE}, gateway={"replicas": 2})
    took = await asyncio.gather(*(until_known(bench, "role/judge") for bench in two))
    assert not any(task.done() for task in streams)  # it was taken over while they ran
    for bench in two:
        bench.engines["core"].go_on.set()
    for number, text in enumerate(await asyncio.gather(*streams)):
        assert text.rstrip().endswith("data: [DONE]")
        assert not [event for event in events(text) if "error" in event]
        said = "".join(
            choice["delta"].get("content") or ""
            for event in events(text)
            for choice in event["choices"]
        )
        assert f"word59 {number}" in said
    print(f"role answered after {max(took):.2f} s")


async def test_a_turn_in_a_role_that_is_removed_ends_as_it_began(two, file):
    running = asyncio.create_task(stream(two[0], 1))
    engine = two[0].engines["core"]
    await two[0].until(lambda: engine.running)
    write_config(file, JUDGE, gateway={"replicas": 2})
    await until_known(two[0], "role/judge")
    assert not await knows(two[0], "role/poet")
    engine.go_on.set()
    text = await running
    assert text.rstrip().endswith("data: [DONE]")
    assert events(text)[-1]["consilium"]["receipt"]["role"] == "poet"


async def test_the_page_says_what_every_replica_holds(admin):
    page = await told(admin[0], lambda page: len(page["replicas"]) == 2)
    assert page["owned"] is True
    assert page["wanted_replicas"] == 2
    assert page["sections"]["roles"]["poet"]["frame"] == "You rhyme."
    assert {row["refused"] for row in page["replicas"]} == {""}
    assert all(row["versions"] == page["versions"] for row in page["replicas"])


async def told(bench, wanted):
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = await bench.client().get("/v1/config")
            assert answer.status_code == 200, answer.text
            if wanted(answer.json()):
                return answer.json()
            await asyncio.sleep(0.05)


@pytest.fixture
async def admin(two):
    key = await two[0].new_key(scopes=frozenset({"admin"}))
    for bench in two:
        bench.key = key
    return two


async def test_sections_that_are_put_reach_every_replica(admin, file):
    before = await told(admin[0], lambda _: True)
    sections = {"roles": {"judge": {"frame": "You weigh."}}}
    answer = (
        await admin[0]
        .client()
        .put("/v1/config", json={"sections": sections, "base": before["version"]})
    )
    assert answer.status_code == 200, answer.text
    assert await knows(admin[0], "role/judge")  # at once where it was put
    assert not await knows(admin[0], "role/poet")
    wanted = answer.json()["versions"]
    await told(
        admin[1],
        lambda page: (
            len(page["replicas"]) == 2
            and all(row["versions"] == wanted for row in page["replicas"])
        ),
    )
    assert await knows(admin[1], "role/judge")
    tree = json.loads(file.read_text())
    assert tree["gateway"] == {"replicas": 2}  # what was not put stays as it was
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"sections": {"gateway": {"port": 1}}}, (409, "needs_restart", "gateway cannot change")),
        ({"sections": {}}, (400, "invalid_request", "sections")),
        ({}, (400, "invalid_request", "sections")),
        ({"sections": {"roles": []}}, (400, "invalid_request", "roles")),
        ({"sections": {"roles": {"a": {"fram": "x"}}}}, (400, "invalid_request", "'frame'")),
        (
            {"sections": {"roles": {"a": {"frame_file": "/etc/x"}}}},
            (400, "invalid_request", "text"),
        ),
        ({"sections": {"roles": {}}, "base": 1}, (400, "invalid_request", "version")),
        ({"sections": {"roles": {}}, "base": "old"}, (409, "concurrent_change", "meanwhile")),
    ],
)
async def test_what_cannot_be_put_changes_nothing(admin, file, body, refusal):
    status, code, words = refusal
    before = file.read_bytes()
    answer = await admin[0].client().put("/v1/config", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert words in answer.json()["error"]["message"]
    assert file.read_bytes() == before


async def test_the_page_is_for_admins(two):
    answers = [
        await two[0].client().get("/v1/config"),
        await two[0].client().put("/v1/config", json={"sections": {"roles": {}}}),
        await two[0].client("csl_none").get("/v1/config"),
    ]
    assert [answer.status_code for answer in answers] == [403, 403, 401]


async def test_a_broken_file_keeps_the_last_good_one_and_is_shown(admin, file):
    file.write_text("{")
    page = await told(
        admin[0],
        lambda page: len(page["replicas"]) == 2 and all(row["refused"] for row in page["replicas"]),
    )
    assert "not JSON" in page["replicas"][0]["refused"]
    assert await knows(admin[0], "role/poet")
    write_config(file, JUDGE, gateway={"replicas": 2})
    await told(admin[0], lambda page: not any(row["refused"] for row in page["replicas"]))
    assert await knows(admin[0], "role/judge")


async def test_yaml_is_followed_with_its_frames_and_not_written(gateway, tmp_path):
    file = tmp_path / "consilium.yaml"
    frame = tmp_path / "frame.md"
    file.write_text("roles:\n  poet: {frame_file: frame.md, profile: dialog}\n")
    frame.write_text("You rhyme.\n")
    bench = await gateway(config=file)
    bench.key = await bench.new_key(scopes=frozenset({"admin"}))
    assert await knows(bench, "role/poet")
    frame.write_text("You sing.\n")
    page = await told(bench, lambda page: "sing" in page["sections"]["roles"]["poet"]["frame"])
    assert page["owned"] is False
    assert await knows(bench, "role/poet")
    asked = bench.engines["core"].calls[-1].body["messages"][0]["content"]
    assert asked.startswith("You sing.")
    answer = await bench.client().put("/v1/config", json={"sections": {"roles": {}}})
    assert answer.status_code == 501
    assert "helm upgrade" in answer.json()["error"]["message"]


async def test_while_the_store_is_down_a_replica_still_says_what_it_holds(gateway, file):
    stores = open_stores(SystemClock(), receipt_ttl_s=600)
    bench = await gateway(config=file, stores=replace(stores, replicas=Gone()))
    bench.key = await bench.new_key(scopes=frozenset({"admin"}))
    page = await told(bench, lambda _: True)
    assert [row["pid"] for row in page["replicas"]] == [os.getpid()]
    write_config(file, JUDGE, gateway={"replicas": 2})
    await until_known(bench, "role/judge")


class Gone:
    """A store of replicas that does not answer."""

    async def put(self, *_):
        raise ConsiliumError("upstream_down", name="Redis", retry_after_s=1.0)

    list = forget = put

"""What the counters of turns say: by executor, role and key, and how long each stage took."""

from dataclasses import replace

import pytest

from consilium.engine.client import State
from consilium.gateway.cast import STAGES, Played
from consilium.gateway.config import Role
from consilium.gateway.gate import Gate
from consilium.gateway.meter import GatewayMeter
from consilium.kernel.metrics import Metrics

from .conftest import chat


def page(bench) -> str:
    return bench.face.cast.meter._metrics.page()


async def play(bench, *, stream: bool, **fields) -> None:
    body = chat(stream=stream, **fields)
    answer = await bench.client().post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


async def test_a_turn_is_counted_once_by_each_thing_that_it_is_asked_by(gateway):
    bench = await gateway(roles={"sage": Role(frame="You are a sage.")})
    await play(bench, stream=True, model="role/sage")
    await play(bench, stream=False)
    await bench.until(lambda: 'key_turns_total{key="test"} 2.0' in page(bench))
    said = page(bench)
    assert 'consilium_gateway_role_turns_total{role="sage"} 1.0' in said
    assert 'consilium_gateway_role_tokens_total{kind="completion",role="sage"} 3.0' in said
    assert 'consilium_gateway_key_tokens_total{key="test",kind="completion"} 6.0' in said
    assert 'consilium_gateway_tokens_total{executor="core",kind="completion"} 6.0' in said
    assert "adapter" not in said, "none answered"
    for stage in set(STAGES) - {"contributions"}:
        count = f'consilium_gateway_stage_seconds_count{{stage="{stage}"}} 2.0'
        assert count in said, f"{count}\n{said}"
    assert 'stage="contributions"' not in said, "nobody was asked"


async def test_the_stages_of_a_stream_add_up_to_the_turn(gateway):
    bench = await gateway()
    await play(bench, stream=True)
    await bench.until(lambda: "turn_seconds_sum" in page(bench))
    sums = {
        line.split(" ")[0]: float(line.split(" ")[1])
        for line in page(bench).splitlines()
        if "_seconds_sum" in line
    }
    whole = next(value for name, value in sums.items() if "turn_seconds" in name)
    stages = {name: value for name, value in sums.items() if "stage_seconds" in name}
    assert len(stages) == 5
    inside = sum(stages.values()) - stages['consilium_gateway_stage_seconds_sum{stage="admission"}']
    assert inside <= whole


async def test_what_generates_nothing_has_no_stages_and_counts_for_no_key(gateway):
    bench = await gateway()
    assert (await bench.client().post("/tokenize", json={"prompt": "a b"})).status_code == 200
    await bench.until(lambda: 'route="tokenize"' in page(bench))
    assert "stage_seconds" not in page(bench)
    assert "key_turns" not in page(bench)


def test_an_adapter_is_counted_by_the_name_that_the_decision_has_for_it():
    counts = Metrics()
    GatewayMeter(counts, Gate(1)).turn(
        Played(
            "chat",
            200,
            "core",
            1.0,
            adapters=("legal:3f9c", "tone"),
            usage={"completion_tokens": 5},
            stages={"answer": 1.0},
        )
    )
    said = counts.page()
    assert 'consilium_gateway_adapter_turns_total{adapter="legal:3f9c"} 1.0' in said
    assert 'consilium_gateway_adapter_tokens_total{adapter="tone",kind="completion"} 5.0' in said
    assert "consilium_gateway_key" not in said


@pytest.mark.parametrize(("plain_on", "count"), [((), 1), (("core",), 0)])
async def test_a_turn_that_was_answered_without_its_adapter_is_none_of_it(gateway, monkeypatch, plain_on, count):  # fmt: skip
    async def chosen(decision, *_):
        return replace(decision, adapters=("tone:3",), plain_on=dict.fromkeys(plain_on, "it may"))

    bench = await gateway()
    monkeypatch.setattr(bench.face.cast.adapters, "chosen", chosen)
    await play(bench, stream=False)
    await bench.until(lambda: 'key_turns_total{key="test"} 1.0' in page(bench))
    said = page(bench)
    assert said.count('consilium_gateway_adapter_turns_total{adapter="tone"} 1.0') == count
    assert said.count('consilium_gateway_adapter_tokens_total{adapter="tone",kind="completion"}') == count  # fmt: skip


def test_tokens_of_an_executor_begin_at_zero():
    """One that is born with its first turn shows no rate of it."""
    counts = Metrics()
    meter = GatewayMeter(counts, Gate(1))
    meter.executors({"core": State.STARTING})
    assert 'consilium_gateway_tokens_total{executor="core",kind="completion"} 0.0' in counts.page()
    meter.turn(Played("chat", 200, "core", 0.1, usage={"completion_tokens": 5}))
    meter.executors({"core": State.READY})
    assert 'consilium_gateway_tokens_total{executor="core",kind="completion"} 5.0' in counts.page()


def test_a_flood_of_names_stays_bounded_and_is_told():
    counts = Metrics()
    meter = GatewayMeter(counts, Gate(1))
    for number in range(10_000):
        meter.turn(
            Played(
                "chat",
                200,
                "core",
                0.1,
                role=f"role-{number}",
                adapters=(f"adapter-{number}",),
                key=f"key-{number}",
                usage={"prompt_tokens": 3, "completion_tokens": 5},
                stages={"answer": 0.1},
            )
        )
    said = counts.page()
    assert len(said.encode()) < 200_000
    assert 'consilium_gateway_key_turns_total{key="other"} 9900.0' in said
    assert 'consilium_gateway_role_turns_total{role="other"} 9800.0' in said
    assert 'consilium_gateway_adapter_turns_total{adapter="other"} 9800.0' in said
    assert 'consilium_metrics_folded_total{metric="consilium_gateway_key_turns_total"} 9900' in said
    assert 'consilium_gateway_tokens_total{executor="core",kind="completion"} 50000.0' in said

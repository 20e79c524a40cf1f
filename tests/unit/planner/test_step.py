"""The step of an engine on processors: short enough for those who wait, long enough to be worth its price."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.planner import models, proposal, step, verdict
from consilium.planner.ask import Ask

SHAPE = models.find("Qwen3-8B").shape
SMALL = replace(
    SHAPE, name="135M", layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, vocab=49_152
)


@given(st.integers(1, 256), st.integers(1, 512))
def test_a_step_takes_its_time_and_no_longer_unless_it_must(cores, sequences):
    found = step.on_processors(SMALL, cores, sequences)
    assert found.seconds <= 0.51 or found.tokens == max(step.LEAST, sequences)
    assert sequences <= found.tokens <= max(step.most(), sequences)
    assert 16 <= found.beside <= max(16, found.tokens // 4)


def test_more_cores_read_more_and_larger_models_less():
    two, many = (step.on_processors(SMALL, cores, 64).tokens for cores in (2, 64))
    assert 64 <= two < 512 < many
    assert step.reading_rate(SMALL, 8) > 5 * step.reading_rate(SHAPE, 8)


@pytest.mark.parametrize(("cores", "said"), [(2, True), (None, False)])
def test_the_plan_says_how_long_a_token_may_wait(cores, said):
    plan = verdict.plan(Ask(SHAPE, context=4096, ram_bytes=64 << 30, cores=cores))
    assert any("wait for another's prompt" in note for note in plan.warnings) == said


def test_what_the_engine_sizes_itself_is_not_pinned_in_a_proposal():
    ask = Ask(SHAPE, context=4096, ram_bytes=64 << 30, cores=8)
    assert "max_num_batched_tokens" not in proposal.settings(ask)
    asked = ask.with_(batched_tokens=512)
    assert proposal.settings(asked)["max_num_batched_tokens"] == 512

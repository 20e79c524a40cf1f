"""The verdict on an adapter, from what it wrote."""

import json
import math

import pytest

from consilium.engine import canary
from consilium.engine.canary import Step, Trial, agrees, judge


def step(token=5, logprob=-0.5, **tops):
    return Step(
        token, logprob, {token: logprob, 9: logprob - 1.0, **{int(k): v for k, v in tops.items()}}
    )


def trial(*, shift=0.0, tokens=range(100, 116), guess=-3.0, logprob=-0.5):
    written = tuple(
        tuple(Step(t, logprob + shift, {t: logprob + shift, t + 1: -2.0}) for t in tokens)
        for _ in canary.OPENINGS
    )
    return Trial(written, (guess,) * 16)


BASE = trial()


def verdict(adapted, again=None):
    return judge(BASE, again or trial(shift=0.004, guess=-3.003), adapted).proof


def test_a_clear_change_is_sound():
    assert verdict(trial(shift=-0.3, tokens=range(200, 216))) == "ok"
    assert verdict(trial(guess=-3.5)) == "ok"


def test_what_is_within_the_noise_has_no_effect():
    assert verdict(BASE) == "no_effect"
    assert verdict(trial(shift=0.05)) == "no_effect"
    noisy = trial(shift=0.2)
    assert verdict(trial(shift=0.5), again=noisy) == "no_effect"
    assert verdict(trial(shift=0.7), again=noisy) == "ok"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_degenerate(value):
    assert verdict(trial(guess=value)) == "degenerate"
    assert verdict(trial(logprob=value)) == "degenerate"


def test_a_loop_is_degenerate_unless_the_plain_model_loops_too():
    loop = trial(shift=-0.3, tokens=[7, 8] * 8)
    assert verdict(loop) == "degenerate"
    plain = trial(tokens=[7] * 16)
    assert judge(plain, trial(tokens=[7] * 16, shift=0.001), loop).proof == "ok"


def test_a_loss_far_above_the_plain_one_is_degenerate():
    assert verdict(trial(guess=-5.9)) == "ok"
    assert verdict(trial(guess=-6.1)) == "degenerate"


def test_nothing_written_is_degenerate():
    empty = Trial(tuple(() for _ in canary.OPENINGS), (-3.0,) * 16)
    assert verdict(empty) == "degenerate"


def test_figures_are_json_whatever_they_are():
    found = judge(BASE, BASE, trial(guess=math.nan))
    assert json.loads(found.figures)["finite"] is False
    assert "NaN" not in found.figures


def test_fingerprints_agree_within_noise_and_tell_adapters_apart():
    kept = canary.fingerprint(BASE)
    assert agrees(kept, canary.fingerprint(trial(shift=0.1)))
    assert not agrees(kept, canary.fingerprint(trial(shift=-3.0)))
    assert not agrees(kept, canary.fingerprint(trial(tokens=range(300, 316))))
    for broken in ("", "[]x", "[1]", "{}", "[[1, {}]]"):
        assert not agrees(kept, broken)

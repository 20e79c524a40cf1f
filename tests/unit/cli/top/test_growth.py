"""How much counters grow: restarts, replicas that vanish and come back, and series that are new."""

import pytest

from consilium.cli.top.growth import FORGOTTEN_S, Growth, Window

TOKENS, ENERGY = "tokens_total", "energy_total"


def page(name: str = TOKENS, instance: str = "", **replicas: float):
    more = (("instance", instance),) if instance else ()
    return {name: {(*more, ("replica", key)): value for key, value in replicas.items()}}


def growth() -> Growth:
    return Growth(frozenset({TOKENS, ENERGY}), frozenset({TOKENS}))


def sums(*readings, name: str = TOKENS, length_s: float = 60.0) -> float:
    """Return what a window over readings a second apart says that a metric has grown by."""
    counted, window = growth(), Window(length_s)
    for at, one in enumerate(readings):
        step = counted.step(one, float(at))
        if step is not None:
            window.add(step)
    return sum(window.sums(name).values())


def test_the_first_reading_says_nothing():
    assert growth().step(page(a=100), 1.0) is None


def test_the_difference_between_two_readings():
    step = growth()
    step.step(page(a=100), 1.0)
    made = step.step(page(a=130), 3.0)
    assert made is not None
    assert made.seconds == 2.0
    assert list(made.grown[TOKENS].values()) == [30]


def test_a_counter_that_began_anew_counts_with_what_it_shows():
    assert sums(page(a=100), page(a=7), page(a=10)) == 10


def test_a_replica_that_vanishes_takes_nothing_away():
    assert sums(page(a=100, b=500), page(a=110), page(a=120)) == 20


def test_a_replica_that_comes_back_is_compared_with_what_it_was():
    assert sums(page(a=100, b=500), page(a=110), page(a=120, b=505)) == 25


def test_a_replica_that_comes_back_after_a_restart_counts_from_zero():
    assert sums(page(a=100, b=500), page(a=100), page(a=100, b=4)) == 4


def test_a_new_series_beside_others_was_born_at_zero():
    assert sums(page(a=100), page(a=100, b=9)) == 9


def test_the_first_series_of_a_source_may_be_old_and_only_late():
    assert sums({}, page(a=100_000), page(a=100_010)) == 10
    late = {TOKENS: page(a=5)[TOKENS] | page(instance="two", a=100_000)[TOKENS]}
    assert sums(page(a=5), late) == 0


def test_energy_of_a_card_that_is_new_is_not_from_zero():
    before = page(ENERGY, a=10.0)
    assert sums(before, page(ENERGY, a=20.0, b=9e9), page(ENERGY, a=30.0, b=9e9 + 5)) == 0
    assert (
        sums(before, page(ENERGY, a=20.0, b=9e9), page(ENERGY, a=30.0, b=9e9 + 5), name=ENERGY)
        == 25
    )


def test_the_same_page_twice_is_no_step():
    step = growth()
    step.step(page(a=1), 1.0)
    assert step.step(page(a=1), 1.0) is None
    assert step.step(page(a=3), 2.0) is not None


def test_what_has_been_gone_for_long_is_forgotten():
    step = growth()
    step.step(page(a=1, b=500), 0.0)
    step.step(page(a=1), FORGOTTEN_S + 1)
    made = step.step(page(a=1, b=10), FORGOTTEN_S + 2)
    assert made is not None
    assert list(made.grown[TOKENS].values()) == [10]


def test_a_source_that_has_been_gone_for_long_is_met_as_for_the_first_time():
    """What a pod counted while nobody could ask it is not the work of the second in which it is back."""
    step, pod, other = growth(), page(instance="pod", a=1e7), page(instance="other", a=5)
    both = {TOKENS: pod[TOKENS] | other[TOKENS]}
    step.step(both, 0.0)
    step.step(other, FORGOTTEN_S + 1)
    made = step.step(both, FORGOTTEN_S + 2)
    assert made is not None
    assert made.grown[TOKENS] == {}


def test_a_window_lets_go_of_old_steps_and_keeps_the_last():
    assert sums(*(page(a=float(at)) for at in range(10)), length_s=3.0) == 3
    counted, window = growth(), Window(3.0)
    counted.step(page(a=0), 0.0)
    step = counted.step(page(a=50), 100.0)
    assert step is not None
    window.add(step)
    assert window.seconds == 100.0
    assert sum(window.sums(TOKENS).values()) == 50


def test_sums_by_label_and_only_those_that_are_wanted():
    counted, window = growth(), Window(60.0)
    rows = {
        (("executor", "core"), ("kind", "prompt")): 1.0,
        (("executor", "core"), ("kind", "x")): 2.0,
    }
    counted.step({TOKENS: dict.fromkeys(rows, 0.0)}, 0.0)
    step = counted.step({TOKENS: rows}, 1.0)
    assert step is not None
    window.add(step)
    assert window.sums(TOKENS, "executor") == {("core",): 3.0}
    assert window.sums(TOKENS, "executor", kind="x") == {("core",): 2.0}


@pytest.mark.parametrize("length_s", [1.0, 60.0])
def test_a_window_is_never_negative(length_s: float):
    readings = [page(a=float(value)) for value in (5, 0, 3, 2, 9, 1)]
    assert sums(*readings, length_s=length_s) >= 0

"""Figures of two readings: rates, quantiles, errors, and what cards cost by executor."""

import pytest
from tests.unit.cli.top.readings import GIB, figures, page

from consilium.cli.top.figures import WANTED, Series
from consilium.cli.top.page import parse


def executor(name: str, **options):
    return next(one for one in figures(**options).executors if one.name == name)


def test_tokens_come_from_the_engine_and_else_from_the_gateway():
    seen = figures()
    assert executor("core").made_s == 182
    assert executor("core").read_s == 1820
    assert executor("large").made_s == 45.5
    assert seen.made_s == 182 + 45.5
    assert seen.window_s == 10


def test_quantiles_are_those_of_the_window_and_not_of_all_time():
    seen = figures()
    assert seen.first_s is not None
    assert seen.first_s[0] == pytest.approx(0.1)
    assert seen.first_s[1] == pytest.approx(0.5)
    assert seen.ever_first_s is not None
    assert seen.ever_first_s[0] == pytest.approx(0.1 + 0.15 * 0.5 / 9)
    assert executor("large").first_s is None


def test_bounds_below_which_nothing_was_counted_still_bound():
    series = Series(60.0)
    for at, count in ((0.0, 0), (1.0, 10)):
        first = (0, 0, count, count, count, count)
        seen = series.take(parse(page(made=0, first=first, overloaded=0, joules=0), WANTED), at)
    assert seen.first_s is not None
    assert seen.first_s[0] == pytest.approx(0.175)  # between 0.1 and 0.25, not from zero


def test_errors_are_not_those_who_left_or_read_the_page():
    seen = figures()
    assert dict(seen.errors) == {"503": 3}
    assert seen.requests_s == pytest.approx((20 + 3 + 3) / 10)


def test_requests_are_counted_where_they_are():
    seen = figures()
    assert (executor("core").running, executor("core").waiting) == (6, 3)
    assert executor("large").running == 1
    assert (seen.running, seen.waiting) == (7, 3)


def test_a_card_is_shared_evenly_by_the_replicas_that_hold_it():
    core, large = executor("core"), executor("large")
    assert core.watts == 300 + 200 / 2
    assert large.watts == 100
    assert core.memory_bytes == 20 * GIB + 19 * GIB / 2
    assert core.degrees == 86
    assert core.joules_per_token == pytest.approx((3000 + 2000 / 2) / 1820)
    assert large.joules_per_token == pytest.approx(1000 / 455)
    assert core.cost == pytest.approx(core.joules_per_token * 1e6 / 3.6e6 * 0.3)
    assert core.held_back == ("software_power_cap",)


def test_bytes_of_processes_are_preferred_to_shares():
    more = f'consilium_gpu_process_memory_bytes{{uuid="GPU-1",executor="core",replica="0"}} {GIB}\n'
    assert executor("core", more=more).memory_bytes == 20 * GIB + GIB


def test_watts_are_of_all_cards_and_joules_of_those_that_executors_hold():
    seen = figures()
    assert seen.watts == 600
    assert seen.joules_per_token == pytest.approx(5000 / (1820 + 455))
    assert seen.price == (0.3, "EUR")


def test_a_card_that_two_exporters_tell_of_is_one():
    rows = page(made=0, first=(0,) * 6, overloaded=0, joules=0)
    twice = rows + "".join(
        f'{line.partition("{")[0]}{{instance="b",{line.partition("{")[2]}\n'
        for line in rows.splitlines()
        if line.startswith("consilium_gpu_") and "{" in line
    )
    seen = Series(60.0).take(parse(twice, WANTED), 0.0)
    assert [card.uuid for card in seen.cards] == ["GPU-0", "GPU-1", "GPU-2"]
    assert seen.watts == 600


def test_without_cards_nothing_is_told_of_them():
    seen = figures(with_cards=False)
    assert seen.watts is None
    assert seen.cost is None
    assert not seen.cards
    assert seen.executors[0].watts is None


def test_the_first_reading_has_no_rates():
    series = Series(60.0)
    seen = series.take(parse(page(made=9, first=(0,) * 6, overloaded=9, joules=0), WANTED), 5.0)
    assert seen.window_s == 0
    assert seen.made_s == 0
    assert not seen.errors
    assert seen.joules_per_token is None


def test_old_sources_are_named():
    more = (
        'consilium_metrics_source_age_seconds{source="ray"} 14.2\n'
        'consilium_metrics_source_age_seconds{source="gateway"} 0\n'
        "consilium_gpu_sample_age_seconds 30\nconsilium_gpu_driver_up 0\n"
    )
    seen = figures(more=more)
    assert dict(seen.old) == {"cards": 30, "ray": 14.2}
    assert seen.silent == ("the NVIDIA driver of a machine does not answer: figures are 30 s old",)


def test_of_the_same_source_in_several_pods_the_oldest_is_named():
    ages = (("a", 200), ("b", 0))
    told = (f'consilium_metrics_source_age_seconds{{instance="{pod}",source="ray"}} {age}\n' for pod, age in ages)  # fmt: skip
    assert dict(figures(more="".join(told)).old) == {"ray": 200}


def test_cards_that_are_read_once_a_minute_are_not_old():
    assert not figures(more="consilium_gpu_sample_age_seconds 59\nconsilium_gpu_driver_up 1\n").old


def test_an_empty_page_has_empty_figures():
    seen = Series(60.0).take({}, 0.0)
    assert seen.executors == ()
    assert seen.redis is None
    assert seen.ever_first_s is None

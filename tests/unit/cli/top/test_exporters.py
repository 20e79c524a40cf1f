"""A page without cards: what the frame says about it."""

import pytest
from tests.unit.cli.top.readings import ABOUT, figures

from consilium.cli.top.exporters import silent_drivers, why_no_cards
from consilium.cli.top.figures import WANTED, Series
from consilium.cli.top.frame import frame, wrong
from consilium.cli.top.page import parse

PART = 'consilium_part_up{part="gateway"} 1\n'
CHART = 'consilium_gateway_redis_up{instance="a"} 1\n'


def driver(up: int, age_s: float | None, instance: str = "a") -> str:
    """Return what an exporter says that has no card to tell of."""
    told = f'consilium_gpu_driver_up{{instance="{instance}"}} {up}\n'
    if age_s is not None:
        told += f'consilium_gpu_sample_age_seconds{{instance="{instance}"}} {age_s}\n'
    return told


@pytest.mark.parametrize(
    ("page", "has_driver", "words"),
    [
        (PART, False, "no NVIDIA driver is installed here"),
        (PART, True, "no exporter runs"),
        (PART, None, "had no NVIDIA driver when its cluster was started"),
        (CHART, None, "no worker has cards, or gpu.metrics is off"),
        (PART + 'consilium_part_up{part="gpu_metrics"} 0\n', True, "'consilium logs gpu_metrics'"),
        (driver(0, None), True, "does not answer"),
        (driver(0, 40), None, "does not answer"),
        (driver(0, 1), None, "tells of no card"),
    ],
)
def test_no_card_has_its_reason(page: str, has_driver: bool | None, words: str):
    assert words in why_no_cards(parse(page, WANTED), has_driver=has_driver)


def test_the_frame_says_it_in_one_line():
    seen = Series(60.0, has_driver=False).take(parse(PART, WANTED), 1.0)
    lines = frame(seen, ABOUT, 80).plain.splitlines()
    assert [line for line in lines if line.startswith("cards")] == [
        "cards        none: no NVIDIA driver is installed here"
    ]
    assert not wrong(seen)  # a machine on its cores is no fault


def test_with_cards_there_is_no_such_line():
    seen = figures()
    assert seen.cards
    assert not seen.no_cards
    assert not any(line.startswith("cards  ") for line in frame(seen, ABOUT, 80).plain.splitlines())


def test_each_machine_is_told_by_the_age_of_its_own_figures():
    page = driver(1, 0.2, "a") + driver(0, 90, "b") + driver(0, None, "c") + driver(0, 0.1, "d")
    assert silent_drivers(parse(page, WANTED)) == (
        "the NVIDIA driver of a machine does not answer: figures are 90 s old",
        "the NVIDIA driver of a machine does not answer: no figure yet",
    )

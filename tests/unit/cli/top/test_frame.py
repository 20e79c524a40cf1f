"""The picture at two widths, and what it says is wrong."""

import pytest
from rich.cells import cell_len
from tests.unit.cli.top.readings import ABOUT, FRAMES, WIDTHS, drawn, figures

from consilium.cli.top.figures import Figures
from consilium.cli.top.frame import BARS, About, amount, curve, frame, money, span, wrong


@pytest.mark.parametrize("width", WIDTHS)
def test_the_frame_is_the_one_that_was_looked_at(width: int):
    """After a change that is meant: python -m tests.unit.cli.top.readings."""
    assert drawn(width) == (FRAMES / f"{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [10, 20, 33, 40, 57, 80, 119, 240])
@pytest.mark.parametrize("with_cards", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, with_cards: bool):
    seen = figures(with_cards=with_cards, more='consilium_part_up{part="x"} 0\n')
    picture = frame(seen, ABOUT, width).plain
    assert all(cell_len(line) <= width for line in picture.splitlines())


def test_a_cluster_of_which_nothing_is_known_yet_has_a_frame():
    picture = frame(Figures(), About("http://x", "10:00:00"), 80).plain
    assert "tokens/s" in picture
    assert "executor" not in picture


def test_what_is_wrong_stands_above():
    lines = wrong(
        figures(
            more='consilium_metrics_source_age_seconds{source="ray"} 14\nconsilium_gpu_driver_up 0\n'
        )
    )
    assert lines == [
        "down: memory ('consilium status' says why)",
        "executor large is not ready",
        "old figures: ray 14 s",
        "the NVIDIA driver of a machine does not answer: no figure yet",
        "card 2 has fallen off the bus",
    ]
    about = About("http://x", "10:00:00", ("figures are 12 s old: it is not answering",))
    assert frame(figures(), about, 80).plain.splitlines()[1].startswith("! figures are 12 s old")


def test_redis_that_is_away_is_told():
    assert "Redis does not answer" in wrong(Figures(redis=False))[0]


def test_curves():
    assert curve([0, 1, 2, 4], 10) == BARS[0] + BARS[2] + BARS[4] + BARS[7]
    assert curve([0, 0], 10) == BARS[0] * 2
    assert curve([1.0] * 99, 12) == BARS[7] * 12
    assert curve([1.0, 1.0], 3) == ""
    assert curve([1.0], 30) == ""
    assert curve([], 30) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3.14, "3.1"), (9.99, "10"), (182.4, "182"), (12_345, "12.3k"), (3.2e6, "3.2M")],
)
def test_amounts_are_short(value, text):
    assert amount(value) == text


def test_times_and_money():
    assert (span(0.0842), span(1.236), span(61)) == ("84 ms", "1.24 s", "61 s")
    assert (money(12.345), money(0.0213)) == ("12.35", "0.0213")

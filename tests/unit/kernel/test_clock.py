from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel import clock
from consilium.kernel.clock import FakeClock, UlidIds


def test_ids_rise_and_tell_their_time():
    time = FakeClock(unix=1_700_000_000.0)
    ids = UlidIds(time)
    made = []
    for _ in range(50):
        made += [ids.new(), ids.new()]
        time.advance(0.001)
    assert made == sorted(set(made))
    assert {len(ulid) for ulid in made} == {clock.ULID_LENGTH}
    assert clock.time_of(made[0]) == 1_700_000_000.0
    assert clock.time_of(made[-1]) == pytest.approx(1_700_000_000.049)


def test_ids_rise_when_the_clock_goes_back():
    time = FakeClock()
    ids = UlidIds(time)
    before = ids.new()
    time.unix -= 3600
    assert ids.new() > before


def test_ids_differ_between_threads():
    ids = UlidIds()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [ids.new() for _ in range(200)], range(8)))
    assert len({ulid for some in made for ulid in some}) == 1600


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_an_id_holds_its_milliseconds_whatever_was_drawn(milliseconds, drawn):
    ulid = clock.spell(milliseconds << 80 | drawn)
    assert round(clock.time_of(ulid) * 1000) == milliseconds
    assert set(ulid) <= set(clock.ALPHABET)


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_the_order_of_ids_as_text_is_that_of_their_numbers(one, other):
    assert (clock.spell(one) < clock.spell(other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    ["", "01M7YW6KHC70YVJQ0E210BAK1", "01M7YW6KHC70YVJQ0E210BAK1U", "01m7yw6khc70yvjq0e210bak1r"],
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ValueError, match="no ULID"):
        clock.time_of(text)


async def test_a_fake_clock_moves_only_when_moved():
    time = FakeClock()
    before = time.now(), time.monotonic()
    await time.sleep(2.5)
    assert (time.now(), time.monotonic()) == (before[0] + 2.5, before[1] + 2.5)
    with pytest.raises(ValueError, match="back"):
        time.advance(-1)

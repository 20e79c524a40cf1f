"""One page out of several: families once, samples told apart, and nothing that Prometheus could not read."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from consilium.kernel.metrics_join import joined

OWN = """# HELP consilium_part_up Whether a part is up.
# TYPE consilium_part_up gauge
consilium_part_up{part="redis"} 1
"""
ROOM = """# HELP rpc_seconds Calls.
# TYPE rpc_seconds histogram
rpc_seconds_bucket{room="a",le="0.1"} 1.0
rpc_seconds_bucket{room="a",le="+Inf"} 2.0
rpc_seconds_count{room="a"} 2.0
rpc_seconds_sum{room="a"} 0.3
# HELP turns_total Turns.
# TYPE turns_total counter
turns_total 5.0
"""


def samples(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_samples_of_two_rooms_stand_under_one_head_and_are_told_apart() -> None:
    page = joined((("", OWN), ("one", ROOM), ("two", ROOM)))
    assert page.count("# TYPE rpc_seconds histogram") == 1
    found = samples(page)
    assert found["turns_total", (("part", "one"),)] == 5.0
    assert found["turns_total", (("part", "two"),)] == 5.0
    assert found["rpc_seconds_count", (("part", "two"), ("room", "a"))] == 2.0
    assert found["consilium_part_up", (("part", "redis"),)] == 1.0


def test_a_room_that_says_which_part_it_speaks_of_is_left_as_it_is() -> None:
    assert 'x{part="redis"} 1' in joined((("one", '# TYPE x gauge\nx{part="redis"} 1\n'),))


def test_lines_of_another_form_are_left_out() -> None:
    page = joined((("one", '<html>nothing here</html>\n\nx 1\ny{a="b c"} 2 1700000000\n'),))
    assert page == 'x{part="one"} 1\ny{part="one",a="b c"} 2 1700000000\n'


def test_families_stay_together_though_one_begins_with_the_name_of_another() -> None:
    page = joined(
        (("", '# TYPE a gauge\na 1\n# TYPE a_b gauge\na_b 2\n# TYPE a gauge\na{x="1"} 3\n'),)
    )
    assert page == '# TYPE a gauge\na 1\na{x="1"} 3\n# TYPE a_b gauge\na_b 2\n'


def test_no_pages_make_an_empty_one() -> None:
    assert joined(()) == ""


def test_the_label_that_tells_sources_apart_can_be_another_one() -> None:
    page = joined((("10.0.0.1:9400", ROOM), ("10.0.0.2:9400", ROOM)), label="instance")
    found = samples(page)
    assert found["turns_total", (("instance", "10.0.0.1:9400"),)] == 5.0
    assert found["turns_total", (("instance", "10.0.0.2:9400"),)] == 5.0


def test_a_series_that_comes_twice_is_there_once() -> None:
    page = joined((("", '# TYPE a gauge\na{x="1"} 1\n'), ("", 'a{x="1"} 2\na{x="2"} 2\n')))
    assert page == '# TYPE a gauge\na{x="1"} 1\na{x="2"} 2\n'


def test_what_prometheus_reads_in_a_line_is_taken_as_it_is() -> None:
    page = joined((("", 'a\t1\nb{x="}{ # "}  2\nc{x="1",} 3\n9d 1\ne{x="1"}4\nf{x="1"} \n# h 1\ng\n'),))  # fmt: skip
    assert page == 'a\t1\nb{x="}{ # "}  2\nc{x="1",} 3\n'


def test_a_strange_sample_within_a_family_does_not_end_it() -> None:
    page = joined((("", "# TYPE a summary\na_sum 1\nother 5\na_count 2\n"),))
    assert page == "# TYPE a summary\na_sum 1\na_count 2\nother 5\n"

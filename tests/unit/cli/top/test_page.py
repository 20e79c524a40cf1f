"""Pages as numbers: labels with odd characters, lines that are none, and only what is wanted."""

from consilium.cli.top.page import parse, rows

TEXT = r"""# HELP a_total A.
# TYPE a_total counter
a_total 5
a_total{x="1",b="say \"hi\" {there}",c="back\\slash\nline"} 2.5 1700000000000
a_bucket{le="+Inf"} 3
other 9
a_total{broken
a_total{x="2"} word
a_total{x="3"} +Inf
"""


def test_the_wanted_samples_are_read():
    page = parse(TEXT, frozenset({"a_total", "a_bucket"}))
    assert set(page) == {"a_total", "a_bucket"}
    found = list(rows(page, "a_total"))
    assert ({}, 5.0) in found
    assert ({"x": "1", "b": 'say "hi" {there}', "c": "back\\slash\nline"}, 2.5) in found
    assert ({"x": "3"}, float("inf")) in found
    assert len(found) == 3
    assert list(rows(page, "a_bucket")) == [({"le": "+Inf"}, 3.0)]


def test_an_empty_page_has_nothing():
    assert parse("", frozenset({"a"})) == {}
    assert list(rows({}, "a")) == []

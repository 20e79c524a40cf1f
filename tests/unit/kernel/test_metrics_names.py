"""The names that are told apart: the first ones, and the same in all processes of a node."""

from concurrent.futures import ThreadPoolExecutor

from consilium.kernel.metrics_names import LONGEST_NAME, OTHER, Names


def test_the_first_names_are_told_apart_and_the_next_are_other():
    names = Names()
    assert [names.kept("key", name, 2) for name in "abcab"] == ["a", "b", OTHER, "a", "b"]
    assert names.kept("role", "c", 2) == "c", "roles have a bound of their own"


def test_another_process_tells_the_same_ones_apart(tmp_path):
    first, second = Names(tmp_path), Names(tmp_path)
    assert first.kept("key", "a", 2) == "a"
    assert second.kept("key", "b\n\u2028", 2) == "b\n\u2028"
    assert first.kept("key", "c", 2) == OTHER
    assert second.kept("key", "c", 2) == OTHER
    after_a_restart = Names(tmp_path)
    assert [after_a_restart.kept("key", name, 2) for name in ("c", "a")] == [OTHER, "a"]


def test_many_at_once_note_no_more_than_the_bound(tmp_path):
    def kept(worker):
        names = Names(tmp_path)
        return {names.kept("key", f"{worker}-{number}", 20) for number in range(10)}

    with ThreadPoolExecutor(8) as pool:
        found = set().union(*pool.map(kept, range(8)))
    assert len(found - {OTHER}) == 20
    assert len((tmp_path / "key.names").read_text().splitlines()) == 20


def test_a_line_that_broke_off_is_no_name(tmp_path):
    (tmp_path / "key.names").write_text('"a"\n"b\n')
    assert [Names(tmp_path).kept("key", name, 2) for name in "ac"] == ["a", "c"]


def test_where_nothing_can_be_noted_each_process_tells_its_own_apart(tmp_path):
    names = Names(tmp_path / "gone")
    assert [names.kept("key", name, 1) for name in "ab"] == ["a", OTHER]


def test_a_name_as_long_as_a_book_is_cut():
    assert Names().kept("key", "a" * 1000, 9) == "a" * LONGEST_NAME

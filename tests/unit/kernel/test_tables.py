"""Tables without a wire: a follower that hears any part of the story ends with the same rows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel.tables import Assembly, Held, Table, TornError, Update, pieces

KEYS = st.sampled_from("abcdef")
ROWS = st.fixed_dictionaries({"n": st.integers(0, 3)})
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, ROWS),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("replace"), st.dictionaries(KEYS, ROWS)),
        st.tuples(st.just("look"), st.integers(0, 2)),
    ),
    max_size=60,
)


def rows_of(held: Held) -> dict[str, dict]:
    return {key: dict(row) for key, row in held.rows.items()}


def caught_up(held: Held, table: Table, size: int = 1 << 20) -> tuple[Held, frozenset[str]]:
    update = table.since(held.epoch, held.version)
    assembly, touched = Assembly(), frozenset()
    for piece in pieces(update, size) if update is not None else ():
        taken = assembly.take(held, piece)
        assert (taken is None) == piece.more
        if taken is not None:
            held, touched = taken
    return held, touched


@given(STEPS, st.integers(1, 8), st.integers(0, 40))
def test_followers_that_look_at_different_times_end_with_the_rows_of_the_table(
    steps, remembered, size
):
    table, model = Table("t", epoch="e", remembered=remembered), {}
    followers = [Held()] * 3
    for step, *words in [*steps, *(("look", number) for number in range(3))]:
        if step == "put":
            table.put(*words)
            model[words[0]] = words[1]
        elif step == "remove":
            table.remove(*words)
            model.pop(words[0], None)
        elif step == "replace":
            table.replace(*words)
            model = dict(words[0])
        else:
            before = rows_of(followers[words[0]])
            followers[words[0]], touched = caught_up(followers[words[0]], table, size)
            after = rows_of(followers[words[0]])
            assert after == model
            differing = {
                key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
            }
            assert differing <= touched
    assert table.keys == model.keys()
    assert all(held.version == table.version for held in followers)
    assert table.since("e", table.version) is None


def test_a_row_that_is_the_same_is_no_change_and_a_change_of_many_is_one_version():
    table = Table("t")
    table.put("a", {"n": 1})
    table.put("a", {"n": 1})
    table.remove("b")
    assert table.version == 1
    table.change({"b": {}, "c": {}}, ("a",))
    assert (table.version, table.keys, len(table)) == (2, {"b", "c"}, 2)
    assert "a" not in table


def test_a_new_row_wins_over_its_own_removal_in_one_change():
    table = Table("t")
    table.put("a", {"n": 1})
    table.change({"a": {"n": 2}}, ("a",))
    assert table.keys == {"a"}


def test_what_json_cannot_say_changes_nothing():
    table = Table("t")
    with pytest.raises(TypeError):
        table.change({"a": {}, "b": {"x": object()}})
    assert (table.version, len(table)) == (0, 0)


def test_a_follower_that_missed_too_much_or_knows_another_epoch_gets_the_whole():
    table = Table("t", epoch="e", remembered=2)
    for number in range(5):
        table.put(str(number), {})
    assert not table.since("e", 3).whole
    for epoch, version in (("e", 2), ("e", 0), ("other", 5), ("e", 99), ("e", -1), ("", 0)):
        update = table.since(epoch, version)
        assert update.whole
        assert update.changed.keys() == table.keys


async def test_a_change_wakes_whoever_waits():
    table = Table("t")
    event = table.next_change()
    table.remove("not there")
    assert not event.is_set()
    table.put("a", {})
    assert event.is_set()
    assert not table.next_change().is_set()


def test_an_empty_table_of_another_epoch_takes_the_rows_away():
    old = Held("e", 3, {"a": {"n": 1}})
    held, touched = caught_up(old, Table("t", epoch="f"))
    assert (held.epoch, held.version, dict(held.rows), touched) == ("f", 0, {}, {"a"})


def test_an_update_that_does_not_go_on_from_what_is_held_is_torn():
    for update in (Update("f", 4), Update("e", 2), Update("e", 4)):
        with pytest.raises(TornError):
            Assembly().take(Held("e", 3), update)
    assembly = Assembly()
    assert assembly.take(Held(), Update("e", 1, whole=True, more=True)) is None
    with pytest.raises(TornError):
        assembly.take(Held(), Update("e", 2))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "1"])
def test_a_row_is_a_json_object(text):
    with pytest.raises(ValueError):  # noqa: PT011  ours or json's
        Assembly().take(Held(), Update("e", 1, whole=True, changed={"a": text}))


def test_rows_cannot_be_written_to():
    held, _ = Assembly().take(Held(), Update("e", 1, whole=True, changed={"a": json.dumps({})}))
    with pytest.raises(TypeError):
        held.rows["b"] = {}
    with pytest.raises(TypeError):
        held.rows["a"]["x"] = 1


def test_a_large_update_comes_in_pieces_of_the_size_that_was_asked():
    table = Table("t")
    table.replace({f"row-{number:05}": {"text": "x" * 100} for number in range(1000)})
    sent = list(pieces(table.since("", 0), 10_000))
    assert 10 <= len(sent) <= 14
    assert [piece.more for piece in sent] == [True] * (len(sent) - 1) + [False]
    assert [piece.whole for piece in sent] == [True] + [False] * (len(sent) - 1)
    held, touched = caught_up(Held(), table, 10_000)
    assert held.rows.keys() == touched == table.keys

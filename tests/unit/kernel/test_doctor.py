"""Facts with limits, and rows that are asked of them."""

import threading
from pathlib import Path

import pytest
from pydantic import Field
from tests.waiting import sooner_than

from consilium.kernel.config import Section
from consilium.kernel.doctor import (
    Fact,
    Facts,
    Finding,
    Level,
    Row,
    Subject,
    failure,
    gather,
    judge,
    needed,
    note,
    ok,
    warning,
)
from consilium.kernel.errors import ConsiliumError

HERE = Subject(None, Path("/nowhere"))
SIZE: Fact[int] = Fact("size", "The size", lambda _: 7)


def row(test, **over):
    plain = {
        "id": "size",
        "title": "size",
        "needs": (SIZE,),
        "test": test,
        "sentence": "it is {size}",
        "way_out": "make {size} smaller",
        "fine": "{size} is well",
    }
    return Row(**{**plain, **over})


def one(made: Row) -> Finding:
    found = judge((made,), gather(needed((made,)), HERE))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("verdict", [note, warning, failure])
def test_what_is_not_well_has_a_sentence_and_a_way_out(verdict) -> None:
    found = one(row(lambda facts: verdict(size=facts[SIZE])))
    assert (found.sentence, found.way_out) == ("it is 7", "make 7 smaller")
    assert found.values == {"size": 7}


def test_what_is_well_says_so() -> None:
    found = one(row(lambda facts: ok(size=facts[SIZE])))
    assert (found.level, found.sentence, found.way_out) == (Level.OK, "7 is well", "")


def test_a_row_that_does_not_apply_says_nothing() -> None:
    made = row(lambda _: failure(size=1), when=lambda facts: facts[SIZE] > 9)
    assert judge((made,), gather(needed((made,)), HERE)) == ()


def test_a_fact_that_hangs_costs_its_limit_and_is_told() -> None:
    let_go = threading.Event()
    hung: Fact[bool] = Fact("hung", "The driver", lambda _: let_go.wait(90), limit_s=0.1)
    rows = (row(lambda _: ok(size=1)), row(lambda _: ok(size=2), id="other", needs=(hung,)))
    with sooner_than(90):
        found = judge(rows, gather(needed(rows), HERE))
    let_go.set()
    assert [(one.id, one.level) for one in found] == [("size", "ok"), ("unread_hung", "warning")]
    assert found[1].sentence == "The driver could not be looked at: it did not answer within 0.1 s"


def test_facts_are_read_side_by_side_and_once() -> None:
    read, all_at_once = [], threading.Barrier(10, timeout=60)
    slow = [
        Fact(f"slow{i}", "Slow", lambda _, i=i: read.append(i) or all_at_once.wait(), limit_s=60)
        for i in range(10)
    ]
    rows = tuple(row(lambda _: ok(size=1), id=str(i), needs=tuple(slow)) for i in range(3))
    found = judge(rows, gather(needed(rows), HERE))
    assert not all_at_once.broken, "one after the other the first would wait in vain"
    assert sorted(read) == list(range(10))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(13, "Permission denied"), "Permission denied"),
        (ConsiliumError("redis_missing", reason="gone"), "gone"),
    ],
)
def test_a_fact_that_breaks_is_told(error, words) -> None:
    def read(_subject):
        raise error

    broken: Fact[int] = Fact("broken", "The disk", read)
    found = judge((row(lambda _: ok(size=1), needs=(broken,)),), gather((broken,), HERE))
    assert found[0].id == "unread_broken"
    assert words in found[0].sentence


def test_a_check_that_is_wrong_hides_no_other() -> None:
    def broken(_facts):
        raise KeyError("x")

    rows = (row(broken), row(lambda _: warning(), id="b"), row(lambda _: ok(size=3), id="c"))
    found = judge(rows, gather(needed(rows), HERE))
    assert [(one.id, one.level) for one in found] == [
        ("size", "warning"),
        ("b", "warning"),
        ("c", "ok"),
    ]
    assert "this check itself failed" in found[0].sentence


class Engine(Section):
    seats: int = 4


class Tree(Section):
    engine: Engine = Field(default_factory=Engine)
    other: int = 1


class View(Section):
    model_config = Section.model_config | {"extra": "ignore"}

    engine: Engine = Field(default_factory=Engine)


def test_a_room_sees_its_part_of_the_tree() -> None:
    subject = Subject(Tree(engine=Engine(seats=9)), Path("/nowhere"))
    view = subject.view(View)
    assert view is not None
    assert view.engine.seats == 9
    assert HERE.view(View) is None
    assert not Facts(HERE, {}).has(SIZE)

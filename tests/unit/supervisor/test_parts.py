"""The table of parts: one row makes a part, and a room is a row by itself."""

from __future__ import annotations

import pytest

from consilium.kernel import ports as kernel_ports
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.rooms import Prefix, Room
from consilium.supervisor.failures import PASSING, failure_of
from consilium.supervisor.parts import OURS, places_of, services, table
from consilium.supervisor.states import Board, ending_order

GREETER = Room("greeter", "somewhere.greeter", words="says hello", needs=("redis",), silent_s=3.0)
UPLOADS = Room("uploads", "somewhere.uploads", prefixes=(Prefix("/v1/files", "f.read", "f.write"),))


def test_every_port_of_the_table_belongs_to_one_part() -> None:
    named = [name for row in OURS for name in row.ports]
    assert sorted(named) == sorted(place.name for place in kernel_ports.TABLE)


def test_a_board_can_be_made_of_the_table() -> None:
    Board(OURS, 0.0)
    assert all(row.vital and row.words for row in OURS)
    assert {row.log for row in OURS if row.log} <= {"supervisor", *(row.name for row in OURS)}


def test_one_room_is_one_row_and_nothing_else() -> None:
    rows = {row.name: row for row in table((GREETER, UPLOADS))}
    greeter = rows["greeter"]
    assert (greeter.words, greeter.needs, greeter.vital) == ("says hello", ("redis",), False)
    assert (greeter.silent_s, greeter.stop_s) == (3.0, 10.0)
    assert greeter.ports == ("greeter_grpc", "greeter_metrics")
    assert rows["uploads"].ports == ("uploads_grpc", "uploads_http", "uploads_metrics")
    assert "greeter" in {name for group in ending_order(tuple(rows.values())) for name in group}


def test_rooms_are_found_where_their_ports_were_drawn() -> None:
    more = [place for room in (GREETER, UPLOADS) for place in places_of(room)]
    drawn = kernel_ports.allot({}, more=more, usable=lambda _: True)
    found = services((GREETER, UPLOADS), drawn)
    assert found["greeter"] == {
        "grpc": f"127.0.0.1:{drawn['greeter_grpc']}",
        "metrics": f"http://127.0.0.1:{drawn['greeter_metrics']}",
    }
    assert found["uploads"]["http"] == f"http://127.0.0.1:{drawn['uploads_http']}"
    assert len(set(kernel_ports.numbers(drawn))) == len(kernel_ports.numbers(drawn))


@pytest.mark.parametrize(
    ("rooms", "said"),
    [
        ((Room("redis", "m"),), "has the name of a part"),
        ((Room("supervisor", "m"),), "has the name of a part"),
        ((Room("a", "m", needs=("nobody",)),), "needs 'nobody', which is no part"),
        ((Room("a", "m"), Room("b", "m", needs=("a",), vital=True)), "vital and needs one"),
        ((Room("a", "m", needs=("b",)), Room("b", "m", needs=("a",))), "need each other"),
    ],
)
def test_a_room_that_cannot_be_a_part_is_refused(rooms: tuple[Room, ...], said: str) -> None:
    with pytest.raises(ConsiliumError, match=said) as caught:
        table(rooms)
    assert caught.value.row.exit_code == 64


def test_an_exit_code_of_the_catalogue_is_told_by_its_own_sentence() -> None:
    tail = ("INFO begun", "error: greeting.tone: no such key", "next: Write greeting.name.")
    failure = failure_of("greeter", 64, tail)
    assert failure.code == "config_invalid"
    assert failure.sentence == "greeting.tone: no such key"
    assert failure.next_step == "Write greeting.name."
    assert failure.code not in PASSING


@pytest.mark.parametrize("exit_code", [1, 67, 69, -9])
def test_what_may_pass_by_itself_is_tried_again(exit_code: int) -> None:
    assert failure_of("greeter", exit_code, ()).code in PASSING

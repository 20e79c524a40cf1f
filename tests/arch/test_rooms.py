"""Rows of rooms are true: their methods are in their protos, their scopes are named, their app.py is short."""

import importlib
import importlib.util
from pathlib import Path

import pytest
from tests.greeter.room import ROOM

from consilium.kernel.rooms import ROOMS, TABLE_SERVICE

LONGEST_APP = 60
EVERY = pytest.mark.parametrize("room", [*ROOMS, ROOM], ids=lambda room: room.name)


def methods_of(room):
    if not room.descriptor:
        return {}
    file = importlib.import_module(room.descriptor).DESCRIPTOR
    return {
        f"/{service.full_name}/{method.name}": method
        for service in file.services_by_name.values()
        for method in service.methods
    }


@EVERY
def test_methods_are_in_the_proto_and_take_no_stream(room):
    known = methods_of(room)
    assert (room.methods.keys() | room.idempotent) <= known.keys()
    assert not [name for name, method in known.items() if method.client_streaming]
    assert not any(name.startswith(f"/{TABLE_SERVICE}/") for name in room.methods)


@EVERY
def test_scopes_are_named_in_the_row_and_belong_to_the_room(room):
    used = {*room.methods.values()}
    for prefix in room.prefixes:
        used |= {prefix.read, prefix.write}
    assert used <= set(room.scopes)
    assert all(scope.startswith(f"{room.name}.") for scope in room.scopes)


@EVERY
def test_app_is_short(room):
    found = importlib.util.find_spec(room.module)
    assert found is not None
    lines = Path(found.origin).read_text(encoding="utf-8").count("\n")
    assert lines < LONGEST_APP, "what is long here belongs into a servicer, a backend or a rule"

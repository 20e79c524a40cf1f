"""A room whose program is not there, so that it never starts."""

from consilium.kernel.rooms import Room

ROOM = Room("nowhere", "tests.e2e.no_such_program", words="a room that never starts")

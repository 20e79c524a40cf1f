"""A small true service that stands for a room in tests, written as any room is.

CONSILIUM_ROOMS=tests.greeter.room:ROOM, with the root of the repository on the PYTHONPATH
python -m consilium.kernel.protogen --root . --package tests/greeter    after a change of greeter.proto
"""

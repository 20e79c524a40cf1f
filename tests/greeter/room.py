"""The greeter's row."""

from consilium.kernel.rooms import Prefix, Room

READ = "greeter.read"
WRITE = "greeter.write"
_SERVICE = "/tests.greeter.GreeterService"

ROOM = Room(
    name="greeter",
    module="tests.greeter.app",
    descriptor="tests.greeter.greeter_pb2",
    methods={
        f"{_SERVICE}/Greet": READ,
        f"{_SERVICE}/Order": WRITE,
        f"{_SERVICE}/Count": READ,
        f"{_SERVICE}/Fail": READ,
        f"{_SERVICE}/Sleep": READ,
    },
    prefixes=(Prefix("/v1/greeter", read=READ, write=WRITE),),
    tables=("greetings",),
    scopes=(READ, WRITE),
    idempotent=frozenset({f"{_SERVICE}/Greet", f"{_SERVICE}/Count"}),
    words="the greeter",
    stop_s=5.0,
    silent_s=3.0,
    claims=True,
)

"""The greeter as a process that has more time to end what it is doing than its row gives it: its first word says how many seconds."""

from __future__ import annotations

import sys
from dataclasses import replace

from tests.greeter import room

if __name__ == "__main__":
    room.ROOM = replace(room.ROOM, stop_s=float(sys.argv.pop(1)))

    from tests.greeter.app import main

    sys.exit(main())

"""The greeter as a process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from pydantic import Field

from consilium.kernel import service
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.house import House
from consilium.kernel.service import Wiring
from consilium.kernel.service_config import ServicesView
from consilium.kernel.tables import Table
from tests.greeter import routes, servicer
from tests.greeter.claims import Claims
from tests.greeter.config import Greeter
from tests.greeter.faults import fail_as_told
from tests.greeter.room import ROOM


class View(ServicesView):
    """What it reads of the tree."""

    greeter: Greeter = Field(default_factory=Greeter)


async def build(view: View, house: House) -> Wiring:
    """Open what it stands on, and return what it serves."""
    await fail_as_told(house.folder)
    greetings, claims = Table("greetings"), Claims(house.draining)
    itself = None
    with suppress(ConsiliumError):  # started by hand, nothing need say where it is
        itself = house.channel("greeter")
    greeter = servicer.Greeter(view.greeter.word, greetings, itself)
    return Wiring(
        services=[servicer.service(greeter)],
        http=routes.application(house.folder / "greeter", view.greeter, claims),
        tables=[greetings],
        background=[claims.run()],
    )


def main(argv: Sequence[str] | None = None) -> int:
    return service.main(ROOM, View, build, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What a gateway replica follows in the configuration while it runs: the frames of roles, and profiles.

Turns read `frames` and `profiles` as mappings; their content is exchanged whole when the file changes, and a turn that has begun keeps what it took from
them. Knows sections and tables. Does not know turns or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from consilium.gateway import profiles, roles
from consilium.gateway.config import GatewayView, Profile, Role
from consilium.kernel.clock import Clock
from consilium.kernel.config import load_view
from consilium.kernel.live_config import Live, Reading, Swapped

T = TypeVar("T", bound=GatewayView)


class LiveTables:
    """The tables of this replica, as the file last said that could be used.

    read  the file -> what it says; `reader` makes one
    """

    def __init__(
        self, config: Path, read: Callable[[Path], Reading[GatewayView]], clock: Clock
    ) -> None:
        """Read the file. Raises ConsiliumError(config_invalid)."""
        self.frames: Swapped[roles.Frame] = Swapped()
        self.profiles: Swapped[Profile] = Swapped()
        self.live: Live[GatewayView] = Live(config, read, take=self._take, clock=clock)

    def _take(self, view: GatewayView) -> None:
        """Exchange the tables. Nothing is awaited in between, so no turn sees one new and one old."""
        frames = roles.read(view.roles, Path())
        self.frames.swap(frames)
        self.profiles.swap(profiles.known(view.profiles))


def reader(root: type[T]) -> Callable[[Path], Reading[T]]:
    """Return what reads a file as this view, with the texts of frame files in their roles: then a text that changes is a value that changes."""

    def read(path: Path) -> Reading[T]:
        view = load_view(root, path)
        frames = roles.read(view.roles, path.parent)
        named = [role.frame_file for role in view.roles.values() if role.frame_file is not None]
        told = {name: _inlined(role, frames[name].text) for name, role in view.roles.items()}
        files = tuple(path.parent / Path(name).expanduser() for name in named)
        return Reading(view.model_copy(update={"roles": told}), files)

    return read


def _inlined(role: Role, text: str) -> Role:
    """Return the role with its frame as text."""
    if role.frame_file is None:
        return role
    return role.model_copy(update={"frame": text, "frame_file": None})

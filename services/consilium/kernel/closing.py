"""`async with` for what has an `aclose`: it is closed when the block is left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Base of clients, channels and answers that hold something open."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what is open. May be called more than once."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

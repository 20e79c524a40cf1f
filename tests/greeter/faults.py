"""Ways not to start, for tests: the file `greeter_fault` beside the configuration says which."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consilium.kernel.errors import ConsiliumError

FILE = "greeter_fault"


async def fail_as_told(folder: Path) -> None:
    """Do what the file says: `refuse` raises an error of the catalogue, `break` another one, `hang` never returns. Without the file, nothing."""
    file = folder / FILE
    match file.read_text().strip() if file.exists() else "":
        case "refuse":
            raise ConsiliumError("retrieval_failed", reason="a test wants it so")
        case "break":
            raise RuntimeError("password=hunter2")
        case "hang":
            await asyncio.Event().wait()

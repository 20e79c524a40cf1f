"""The NVIDIA GPUs of this machine. Nothing else in the house asks the driver which cards there are.

    read() -> cards, why there are none

Asks NVML through nvidia-ml-py, and where that shows no card, nvidia-smi. Both are asked in a child process with a time limit: a call into a hung
driver never returns. Never raises. Knows what the driver says. Does not know what a card is good for, or who uses it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, TypeVar

LIMIT_S: Final = 20.0
"""Eight cards without the persistence daemon take ten seconds and more to wake up."""
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"

_MIB: Final = 2**20
_NO_DRIVER: Final = "no NVIDIA driver is installed here"
_ASKED: Final = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.free",
    "driver_version",
    "pci.bus_id",
    "mig.mode.current",
    "compute_cap",
)
_OLDER: Final = _ASKED[:-1]
"""Drivers before 510 do not know compute_cap, and answer none of a question that has it."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, or one MIG slice of a card. What the driver does not tell is 0, False or "".

    index               the driver's number for the card, in PCI order; a slice has the number of its card
    total_bytes         memory of the card or slice; 0 on boards that share the memory of the host, such as GB10
    compute_capability  such as 8.9
    mig                 a slice; or a card in MIG mode whose slices could not be listed
    """

    index: int
    uuid: str = ""
    name: str = ""
    total_bytes: int = 0
    free_bytes: int = 0
    compute_capability: float = 0.0
    driver_version: str = ""
    mig: bool = False
    pci_bus_id: str = ""


class Seen(NamedTuple):
    """What was seen: the cards by their number, and where there are none, why, as the end of a sentence."""

    cards: tuple[Gpu, ...]
    why_none: str = ""


def read(*, visible_only: bool = False, limit_s: float = LIMIT_S) -> Seen:
    """Return the cards of this machine.

    visible_only  leave out those that CUDA_VISIBLE_DEVICES hides from programs started here
    limit_s       seconds that the driver may take to answer
    """
    answer = _output((sys.executable, "-P", "-m", "consilium.kernel.gpus"), limit_s)
    if answer is None:
        return Seen((), f"the NVIDIA driver did not answer within {limit_s:g} s")
    seen = _by_nvml(answer)
    if not seen.cards and (tool := shutil.which("nvidia-smi")) is not None:
        seen = _by_smi(tool, limit_s)
    if not visible_only or not seen.cards:
        return seen
    from consilium.kernel.process import variable  # noqa: PLC0415  the child loads quicker without

    named = variable(VISIBLE)
    shown = visible(seen.cards, named)
    return Seen(shown, "" if shown else f"{VISIBLE}={named!r} hides every card")


def has_driver() -> bool:
    """Return whether an NVIDIA driver's library is here. Asks the driver nothing."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def visible(cards: Sequence[Gpu], named: str | None) -> tuple[Gpu, ...]:
    """Return the cards that a program sees by CUDA's rules, in its order.

    named  CUDA_VISIBLE_DEVICES: numbers or beginnings of UUIDs with commas between; None = not set, all are seen. The first word that names no card ends the list
    """
    if named is None:
        return tuple(cards)
    found: list[Gpu] = []
    for word in (part.strip() for part in named.split(",")):
        matching = [
            card
            for card in cards
            if (word.isdigit() and card.index == int(word))
            or (word.startswith(("GPU-", "MIG-")) and card.uuid.startswith(word))
        ]
        if not matching or matching[0] in found:
            break
        found.append(matching[0])
    return tuple(found)


def parse_smi(text: str, fields: Sequence[str] = _ASKED) -> tuple[Gpu, ...]:
    """Return the cards of `nvidia-smi --query-gpu=<fields> --format=csv,noheader,nounits`; memory is in MiB there."""
    found = []
    for line in text.splitlines():
        cells = dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=False))
        if len(cells) < len(fields) or not cells["index"].isdigit():
            continue
        found.append(
            Gpu(
                int(cells["index"]),
                _told(cells["uuid"]),
                cells["name"],
                int(_figure(cells["memory.total"])) * _MIB,
                int(_figure(cells["memory.free"])) * _MIB,
                _figure(cells.get("compute_cap", "")),
                _told(cells["driver_version"]),
                cells["mig.mode.current"] == "Enabled",
                _told(cells["pci.bus_id"]),
            )
        )
    return tuple(found)


def _told(cell: str) -> str:
    """Return a cell, or "" for one of nvidia-smi's ways to say nothing: [N/A], [Not Supported]."""
    return "" if cell.startswith("[") else cell


def _figure(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return 0.0


def _by_nvml(answer: str) -> Seen:
    """Return what the child said; one that broke has said nothing."""
    try:
        said = json.loads(answer)
        return Seen(tuple(Gpu(**row) for row in said["cards"]), said["why_none"])
    except (ValueError, TypeError, KeyError):
        return Seen((), "asking the NVIDIA driver failed")


def _by_smi(tool: str, limit_s: float) -> Seen:
    said = ""
    for fields in (_ASKED, _OLDER):
        query = (tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        answer = _output(query, limit_s)
        if answer is None:
            return Seen((), f"nvidia-smi did not answer within {limit_s:g} s")
        if cards := parse_smi(answer, fields):
            return Seen(cards)
        said = answer.strip().partition("\n")[0][:200]
    return Seen((), f"nvidia-smi says: {said}" if said else "nvidia-smi shows no card")


def _output(command: Sequence[str], limit_s: float) -> str | None:
    """Return what a program writes, "" if it cannot be started, or None if it does not end in time.

    One that is stuck in the driver cannot even be killed: it is left behind, and a thread waits for its end.
    """
    try:
        child = subprocess.Popen(  # noqa: S603  our own module, or nvidia-smi with a fixed question
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError):
        return ""
    try:
        return child.communicate(timeout=limit_s)[0]
    except subprocess.TimeoutExpired:
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        if child.stdout is not None:
            child.stdout.close()
        threading.Thread(target=child.wait, daemon=True).start()
        return None


def _ask_nvml() -> Seen:
    """Return what NVML says. Runs in the child."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Seen((), _NO_DRIVER)
    try:
        nvml.nvmlInit()
        driver = nvml.nvmlSystemGetDriverVersion()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as err:
        missing = getattr(nvml, "NVMLError_LibraryNotFound", ())
        return Seen(
            (), _NO_DRIVER if isinstance(err, missing) else f"the NVIDIA driver says: {err}"
        )
    cards = tuple(card for index in range(count) for card in _cards_at(nvml, index, _text(driver)))
    return Seen(cards, "" if cards else "the NVIDIA driver shows no card")


def _cards_at(nvml: Any, index: int, driver: str) -> list[Gpu]:
    """Return the card with that number, or its MIG slices. A card that has fallen off the bus is left out."""

    def ask(call: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return call()
        except nvml.NVMLError:
            return otherwise

    def one(handle: Any, *, mig: bool) -> Gpu:
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle), None)
        return Gpu(
            index,
            _text(ask(lambda: nvml.nvmlDeviceGetUUID(handle), "")),
            _text(ask(lambda: nvml.nvmlDeviceGetName(handle), "")),
            0 if memory is None else int(memory.total),
            0 if memory is None else int(memory.free),
            float(f"{capability[0]}.{capability[1]}"),
            driver,
            mig,
            bus,
        )

    card = ask(lambda: nvml.nvmlDeviceGetHandleByIndex(index), None)
    if card is None:
        return []
    capability = ask(lambda: nvml.nvmlDeviceGetCudaComputeCapability(card), (0, 0))
    bus = _text(ask(lambda: nvml.nvmlDeviceGetPciInfo(card).busId, ""))
    if not ask(lambda: nvml.nvmlDeviceGetMigMode(card)[0], 0):
        return [one(card, mig=False)]
    slices = [
        ask(lambda place=place: nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place), None)  # type: ignore[misc]
        for place in range(ask(lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(card), 0))
    ]
    return [one(piece, mig=True) for piece in slices if piece is not None] or [one(card, mig=True)]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


if __name__ == "__main__":
    found = _ask_nvml()
    sys.stdout.write(
        json.dumps({"cards": [asdict(card) for card in found.cards], "why_none": found.why_none})
    )

"""NVML as a source of samples. Runs in a process of its own (backends/reading.py), since a call into a hung driver never returns.

Each call is tried once per card; one that the card, the driver or the permissions do not have is not asked again until the driver is loaded anew. NVML is
initialised once, and again only after it said that it is gone. Source: NVIDIA's NVML API reference, and nvidia-ml-py 13.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from consilium.gpu_metrics.samples import Card, Link, Process, Sample

T = TypeVar("T")

_NO_DRIVER: Final = "no NVIDIA driver is installed here"
_NEVER: Final = ("NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission")
"""What will be answered the same way the next time."""
_AGAIN: Final = (
    "NVMLError_Uninitialized",
    "NVMLError_DriverNotLoaded",
    "NVMLError_LibRmVersionMismatch",
)
"""The driver was unloaded or replaced: only a new initialisation helps."""
_LOST: Final = ("NVMLError_GpuIsLost", "NVMLError_ResetRequired")
"""The card answers nothing any more."""
_NAMELESS: Final = "index-"
"""Begins what stands for the UUID of a card that never told it."""
_CLOCKS: Final = {"graphics": 0, "sm": 1, "memory": 2, "video": 3}
_THROTTLES: Final = {
    "software_power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "sync_boost": 0x10,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}
"""Reasons that say that a card is held back; being idle and the clocks that an owner has set are none."""
_THROTTLE_FIELDS: Final = {
    "software_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "software_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hardware_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
    "sync_boost": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST",
}
_MEMORY_TEMPERATURE: Final = "NVML_FI_DEV_MEMORY_TEMP"
_MOST_LINKS: Final = 18
_UNKNOWN: Final = (1 << 64) - 1
"""What NVML writes where it does not know a size."""


class Nvml:
    """Reads all cards. Not for several threads."""

    def __init__(
        self, now: Callable[[], float] = time.time, *, pcie_throughput: bool = False
    ) -> None:
        self._now = now
        self._nvml: Any = None
        self._absent: set[tuple[str, str]] = set()
        self._events: Any = None
        self._xids: dict[str, dict[str, int]] = {}
        self._xid_at: dict[str, float] = {}
        self._watched: set[str] = set()
        self._throughput = pcie_throughput
        self._known: dict[str, int] = {}

    def read(self) -> Sample:
        """Return what the cards say now. Never raises; a driver that is not there is a sample without cards."""
        try:
            nvml = self._opened()
            if nvml is None:
                return Sample(self._now(), why_none=_NO_DRIVER)
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            count = nvml.nvmlDeviceGetCount()
            self._gather_events(nvml)
            cards = self._with_missing([card for n in range(count) for card in self._at(nvml, n)])
        except Exception as error:
            if not _is(error, "NVMLError"):
                raise
            self._forget()
            missing = _is(error, "NVMLError_LibraryNotFound")
            return Sample(
                self._now(),
                why_none=_NO_DRIVER if missing else f"the NVIDIA driver says: {error}",
            )
        return Sample(
            self._now(), driver, cards, "" if cards else "the NVIDIA driver shows no card"
        )

    def _opened(self) -> Any:
        if self._nvml is None:
            try:
                nvml = importlib.import_module("pynvml")
            except ImportError:
                return None
            _give_back()
            nvml.nvmlInit()
            self._nvml = nvml
        return self._nvml

    def _forget(self) -> None:
        """Let go of the driver, so that the next reading begins anew."""
        if self._nvml is not None:
            try:
                self._nvml.nvmlShutdown()
            except Exception as error:
                if not _is(error, "NVMLError"):
                    raise
        self._nvml = self._events = None
        self._absent.clear()
        self._watched.clear()
        self._known.clear()

    def _with_missing(self, cards: list[Card]) -> tuple[Card, ...]:
        """Return the cards, and as lost those that were there before, since the driver was loaded: a card off the bus may be named no more, or not be counted."""
        named = {card.uuid for card in cards if not card.uuid.startswith(_NAMELESS)}
        self._known |= {one.uuid: one.index for one in cards if one.uuid in named and not one.mig}
        gone = {index: uuid for uuid, index in self._known.items() if uuid not in named}
        rest = [card for card in cards if card.uuid in named or card.index not in gone]
        return (*rest, *(Card(index, uuid, lost=True) for index, uuid in sorted(gone.items())))

    def _ask(self, uuid: str, name: str, call: Callable[[], T]) -> T | None:
        """Return what a call says, or None; one that will never say anything is not asked again."""
        if (uuid, name) in self._absent:
            return None
        try:
            return call()
        except AttributeError:  # an older nvidia-ml-py
            self._absent.add((uuid, name))
            return None
        except Exception as error:
            if _is(error, "NVMLLibraryMismatchError"):  # an older driver, and a call of newer ones
                self._absent.add((uuid, name))
                return None
            if not _is(error, "NVMLError"):
                raise
            if any(_is(error, one) for one in (*_AGAIN, *_LOST)):
                raise
            if any(_is(error, one) for one in _NEVER):
                self._absent.add((uuid, name))
            return None

    def _at(self, nvml: Any, index: int) -> list[Card]:
        """Return the card with that number, or its MIG slices."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        except Exception as error:
            if not _is(error, "NVMLError") or any(_is(error, one) for one in _AGAIN):
                raise
            return [Card(index, f"{_NAMELESS}{index}", lost=True)]
        try:
            return self._found(nvml, handle, index, uuid)
        except Exception as error:
            if not any(_is(error, one) for one in _LOST):
                raise
            return [Card(index, uuid, lost=True)]

    def _found(self, nvml: Any, handle: Any, index: int, uuid: str) -> list[Card]:
        """Return a card and its slices. The processes of a slice are told with it alone: the driver names them for the card once more."""
        whole = self._card(nvml, handle, index, uuid)
        mode = self._ask(uuid, "mig", lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        if not mode:
            return [whole]
        most = self._ask(uuid, "slices", lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
        slices = []
        for place in range(most):
            piece = self._piece(nvml, handle, place)
            if piece is not None:
                slices.append(self._slice(nvml, piece, index, f"{uuid}/{place}", whole))
        return [replace(whole, processes=()) if slices else whole, *slices]

    def _piece(self, nvml: Any, handle: Any, place: int) -> Any:
        try:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except Exception as error:
            if not _is(error, "NVMLError"):
                raise
            return None

    def _slice(self, nvml: Any, handle: Any, index: int, place: str, whole: Card) -> Card:
        uuid = self._ask(place, "uuid", lambda: _text(nvml.nvmlDeviceGetUUID(handle))) or place
        memory = self._ask(uuid, "memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return Card(
            index,
            uuid,
            whole.name,
            whole.pci_bus_id,
            mig=True,
            memory_total=_size(memory, "total"),
            memory_used=_size(memory, "used"),
            memory_free=_size(memory, "free"),
            processes=self._processes(nvml, handle, uuid),
        )

    def _card(self, nvml: Any, handle: Any, index: int, uuid: str) -> Card:
        def ask(name: str, call: Callable[[], T]) -> T | None:
            return self._ask(uuid, name, call)

        memory = ask("memory_v2", lambda: nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2))
        if memory is None:
            memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        busy = ask("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        energy = ask("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        reasons = ask("reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        if reasons is None:
            reasons = ask(
                "reasons_old", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            )
        fan = ask("fan", lambda: nvml.nvmlDeviceGetFanSpeed(handle))
        return Card(
            index,
            uuid,
            _text(ask("name", lambda: nvml.nvmlDeviceGetName(handle)) or ""),
            _text(ask("pci", lambda: nvml.nvmlDeviceGetPciInfo(handle).busId) or ""),
            ask("minor", lambda: int(nvml.nvmlDeviceGetMinorNumber(handle))),
            memory_total=_size(memory, "total"),
            memory_used=_size(memory, "used"),
            memory_free=_size(memory, "free"),
            memory_reserved=_size(memory, "reserved"),
            utilization=_share(None if busy is None else busy.gpu),
            memory_utilization=_share(None if busy is None else busy.memory),
            power=_scaled(self._power(nvml, handle, uuid), 1e-3),
            power_limit=_scaled(
                ask("limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle)), 1e-3
            ),
            energy=_scaled(energy, 1e-3),
            fan=_share(fan),
            temperatures=self._temperatures(nvml, handle, uuid),
            clocks=self._clocks(nvml, handle, uuid),
            throttled={}
            if reasons is None
            else {why: bool(reasons & bit) for why, bit in _THROTTLES.items()},
            throttled_s=self._throttled(nvml, handle, uuid),
            ecc=self._ecc(nvml, handle, uuid),
            xid=dict(self._xids.get(uuid, {})),
            xid_at=self._xid_at.get(uuid),
            link=Link(
                ask("generation", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
                ask("generation_max", lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
                ask("width", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
                ask("width_max", lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
                self._over_pcie(nvml, handle, uuid, "RX"),
                self._over_pcie(nvml, handle, uuid, "TX"),
            ),
            replays=ask("replays", lambda: nvml.nvmlDeviceGetPcieReplayCounter(handle)),
            remapped=self._remapped(nvml, handle, uuid),
            nvlinks=self._links(nvml, handle, uuid),
            processes=self._processes(nvml, handle, uuid),
        )

    def _power(self, nvml: Any, handle: Any, uuid: str) -> float | None:
        """Return milliwatts: of this moment where the driver tells it, else its mean over a second."""
        told = self._field(nvml, handle, uuid, "NVML_FI_DEV_POWER_INSTANT")
        if told is not None:
            return told
        return self._ask(uuid, "power", lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)))

    def _field(self, nvml: Any, handle: Any, uuid: str, name: str) -> float | None:
        def read() -> float | None:
            row = nvml.nvmlDeviceGetFieldValues(handle, [getattr(nvml, name)])[0]
            if row.nvmlReturn != nvml.NVML_SUCCESS:
                if row.nvmlReturn in (
                    nvml.NVML_ERROR_NOT_SUPPORTED,
                    nvml.NVML_ERROR_INVALID_ARGUMENT,
                ):
                    self._absent.add((uuid, name))
                return None
            return _value(nvml, row)

        return self._ask(uuid, name, read)

    def _temperatures(self, nvml: Any, handle: Any, uuid: str) -> Mapping[str, float]:
        core = self._ask(
            uuid,
            "temperature",
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        )
        memory = self._field(nvml, handle, uuid, _MEMORY_TEMPERATURE)
        return _known((("gpu", core), ("memory", memory or None)))

    def _clocks(self, nvml: Any, handle: Any, uuid: str) -> Mapping[str, float]:
        def clock(kind: int) -> float | None:
            name = f"clock_{kind}"
            told = self._ask(uuid, name, lambda: float(nvml.nvmlDeviceGetClockInfo(handle, kind)))
            return _scaled(told, 1e6)

        return _known((domain, clock(kind)) for domain, kind in _CLOCKS.items())

    def _throttled(self, nvml: Any, handle: Any, uuid: str) -> Mapping[str, float]:
        return _known(
            (why, _scaled(self._field(nvml, handle, uuid, name), 1e-9))
            for why, name in _THROTTLE_FIELDS.items()
        )

    def _ecc(self, nvml: Any, handle: Any, uuid: str) -> Mapping[str, int]:
        def count(kind: str) -> int | None:
            which = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind.upper()}")
            found: int | None = self._ask(
                uuid,
                f"ecc_{kind}",
                lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, which, nvml.NVML_VOLATILE_ECC),
            )
            return found

        return {kind: n for kind in ("corrected", "uncorrected") if (n := count(kind)) is not None}

    def _over_pcie(self, nvml: Any, handle: Any, uuid: str, way: str) -> float | None:
        """Return bytes per second. The driver counts for 20 ms."""
        if not self._throughput:
            return None
        which = getattr(nvml, f"NVML_PCIE_UTIL_{way}_BYTES")
        name = f"pcie_{way}"
        told = self._ask(uuid, name, lambda: nvml.nvmlDeviceGetPcieThroughput(handle, which))
        return _scaled(told, 1000.0)

    def _remapped(self, nvml: Any, handle: Any, uuid: str) -> Mapping[str, int]:
        rows = self._ask(uuid, "remapped", lambda: nvml.nvmlDeviceGetRemappedRows(handle))
        names = ("corrected", "uncorrected", "pending", "failed")
        return {} if rows is None else {n: int(v) for n, v in zip(names, rows, strict=True)}

    def _links(self, nvml: Any, handle: Any, uuid: str) -> int | None:
        def is_up(link: int) -> bool | None:
            name = f"nvlink_{link}"
            return self._ask(uuid, name, lambda: bool(nvml.nvmlDeviceGetNvLinkState(handle, link)))

        states = [state for link in range(_MOST_LINKS) if (state := is_up(link)) is not None]
        return sum(states) if states else None

    def _processes(self, nvml: Any, handle: Any, uuid: str) -> tuple[Process, ...]:
        found: dict[int, int | None] = {}
        for kind in ("Compute", "Graphics"):
            for row in self._running(nvml, handle, uuid, kind):
                size = row.usedGpuMemory
                found[row.pid] = None if size in (None, _UNKNOWN) else int(size)
        return tuple(Process(pid, size) for pid, size in sorted(found.items()))

    def _running(self, nvml: Any, handle: Any, uuid: str, kind: str) -> list[Any]:
        call = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses", None)
        return [] if call is None else self._ask(uuid, kind, lambda: list(call(handle))) or []

    def _gather_events(self, nvml: Any) -> None:
        """Count the XIDs that came since the last reading. They have no history: what came before the first one is not known."""
        try:
            if self._events is None:
                self._events = nvml.nvmlEventSetCreate()
            for index in range(nvml.nvmlDeviceGetCount()):
                self._watch(nvml, index)
            while True:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = _text(nvml.nvmlDeviceGetUUID(event.device))
                counts = self._xids.setdefault(uuid, {})
                counts[str(event.eventData)] = counts.get(str(event.eventData), 0) + 1
                self._xid_at[uuid] = self._now()
        except AttributeError:
            return
        except Exception as error:
            if not _is(error, "NVMLError") or any(_is(error, one) for one in _AGAIN):
                raise

    def _watch(self, nvml: Any, index: int) -> None:
        """Listen to a card. One that is lost, or that tells no XIDs, keeps nobody from listening to the others."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(nvml.nvmlDeviceGetUUID(handle))
            if uuid not in self._watched:
                self._watched.add(uuid)
                kind = nvml.nvmlEventTypeXidCriticalError
                nvml.nvmlDeviceRegisterEvents(handle, kind, self._events)
        except Exception as error:
            if not _is(error, "NVMLError") or any(_is(error, one) for one in _AGAIN):
                raise


def _is(error: BaseException, name: str) -> bool:
    """Say whether an error is of this class of nvidia-ml-py, by name: the classes exist only once it is imported."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _give_back() -> None:
    """Give the memory back that compiling pynvml took, a third of this process, where its compiled form is kept nowhere."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _value(nvml: Any, row: Any) -> float | None:
    kinds = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    }
    name = kinds.get(row.valueType)
    return None if name is None else _finite(float(getattr(row.value, name)))


def _size(memory: Any, name: str) -> int | None:
    found = getattr(memory, name, None)
    return None if found is None or int(found) == _UNKNOWN else int(found)


def _share(percent: float | None) -> float | None:
    return _scaled(percent, 0.01)


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else _finite(float(value) * by)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _known(rows: Any) -> dict[str, float]:
    return {name: float(value) for name, value in rows if value is not None}


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

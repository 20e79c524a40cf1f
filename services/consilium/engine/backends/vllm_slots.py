"""What one worker of an engine holds of adapters, and the moves that vLLM has no call for.

vLLM loads an adapter into memory and a slot in one step, chooses itself who has to leave, and tells nobody. Here each step is a call of its own: read an adapter
in a thread while the engine goes on, keep it in memory, fill a slot with it, drop it. Every answer says what is held afterwards.

Touches vLLM's private names, both model runners' alike; tests/engine/test_symbols.py holds them against the installed version. Runs in an engine's workers; the other
end is vllm_adapters.py. Does not know who asked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from vllm.lora.request import LoRARequest
from vllm.utils.gpu_sync_debug import gpu_sync_allowed


class _Reading:
    """One adapter that a thread reads. `error` is empty while it goes on, and where it went well."""

    def __init__(self) -> None:
        self.adapter: Any = None
        self.error = ""
        self.done = threading.Event()


class _Readers:
    """Threads that read, one thing each. They stay: to start one holds up the engine's loop until it runs. One more is started where none is free, as when a folder hangs."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._free = threading.Semaphore(0)

    def do(self, read: Callable[[], None]) -> None:
        """Let a thread call this, which raises nothing."""
        if not self._free.acquire(blocking=False):
            threading.Thread(target=self._run, name="reads adapters", daemon=True).start()
        self._asked.put(read)

    def _run(self) -> None:
        while True:
            self._asked.get()()
            self._free.release()


class SlotProbe:
    """Mixed into each worker (`worker_extension_cls`); `collective_rpc` calls it in the engine's loop, between two steps.

    Slots and memory come back as {"slots": [number or None], "ram": [number]}.
    """

    model_runner: Any

    def consilium_begin(self) -> None:
        """Let each step take the adapters of its requests for loaded where they are in slots.

        vLLM copies its table of all adapters in memory to look one up, for each adapter of each step: with 64 in memory that is 0.03 ms, with 1000 it is 0.4.
        And it notes which was used last, which nobody asks here: who leaves is chosen elsewhere.
        """
        manager = self._consilium_manager()
        add = manager.add_adapter

        def add_unless_active(request: LoRARequest) -> bool:
            active = manager._adapter_manager._active_adapters  # noqa: SLF001
            if request.lora_int_id in active and not request.load_inplace:
                return True
            return bool(add(request))

        manager.add_adapter = add_unless_active

    def consilium_slots(self) -> dict[str, list[int | None]]:
        """Say what is held."""
        held = self._consilium_manager()._adapter_manager  # noqa: SLF001
        return {"slots": list(held.lora_index_to_id), "ram": sorted(held.list_adapters())}

    def consilium_read(self, name: str, number: int, paths: list[str], is_3d: bool) -> None:  # noqa: FBT001  # collective_rpc sends places
        """Begin to read an adapter from the first of these folders that is there."""
        reading = _Reading()
        self._consilium_readings()[number] = reading

        def load() -> None:
            self._consilium_load(name, number, paths, reading, is_3d=is_3d)

        self._consilium_readers().do(load)

    def consilium_reading(self, number: int) -> str | None:
        """Say how a reading stands: None while it goes on, then what went wrong, or an empty text."""
        reading = self._consilium_readings()[number]
        return reading.error if reading.done.is_set() else None

    def consilium_keep(self, number: int, victims: list[int]) -> dict[str, list[int | None]]:
        """Let the victims go, and keep what was read. Raises RuntimeError if there is no room: nothing else is pushed out."""
        held = self._consilium_manager()._adapter_manager  # noqa: SLF001
        for victim in victims:
            held.remove_adapter(victim)
        reading = self._consilium_readings().pop(number, None)
        if number not in held.list_adapters():
            if reading is None or reading.adapter is None:
                message = f"adapter {number} was not read"
                raise RuntimeError(message)
            if len(held) >= held.capacity:
                message = f"memory is full: it holds {held.capacity} adapters"
                raise RuntimeError(message)
            held._registered_adapters[number] = reading.adapter  # noqa: SLF001
        return self.consilium_slots()

    def consilium_take(self, number: int, victim: int | None) -> dict[str, list[int | None]]:
        """Fill a slot from memory, that of the victim if it still has one. A copy that breaks off is dropped: vLLM would take it for whole.

        Raises RuntimeError if no slot is free, or the adapter is not in memory.
        """
        held = self._consilium_manager()._adapter_manager  # noqa: SLF001
        active = held._active_adapters  # noqa: SLF001
        if victim is not None and victim in active:
            active.pop(victim)
        if number not in held.list_adapters():
            message = f"adapter {number} is not in memory"
            raise RuntimeError(message)
        if number not in active and len(active) >= held.lora_slots:
            message = "no slot is free"
            raise RuntimeError(message)
        try:
            with gpu_sync_allowed():
                held.activate_adapter(number)
        except Exception:
            held.remove_adapter(number)
            raise
        return self.consilium_slots()

    def consilium_drop(self, numbers: list[int]) -> dict[str, list[int | None]]:
        """Take adapters out of slots and memory."""
        for number in numbers:
            self._consilium_readings().pop(number, None)
            self._consilium_manager()._adapter_manager.remove_adapter(number)  # noqa: SLF001
        return self.consilium_slots()

    def _consilium_load(
        self, name: str, number: int, paths: list[str], reading: _Reading, *, is_3d: bool
    ) -> None:
        """Read, pack and pin in this thread: what is left for the engine's loop is to put it into a table. Looking for the folder may hang, as reading may."""
        manager = self._consilium_manager()
        try:
            path = next((path for path in paths if Path(path).is_dir()), paths[0])
            request = LoRARequest(name, number, path, is_3d_lora_weight=is_3d)
            if manager.device.type == "cpu":
                # The cores of this process compute; those of the process that started it are the machine's.
                os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
            else:
                torch.accelerator.set_device_index(manager.device)  # a thread begins on card 0
            adapter = manager._load_adapter(request)  # noqa: SLF001
            manager._adapter_manager._create_merged_loras_inplace(adapter)  # noqa: SLF001
            reading.adapter = adapter
        except Exception as error:
            reading.error = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        finally:
            reading.done.set()

    def _consilium_manager(self) -> Any:
        return self.model_runner.lora_manager

    def _consilium_readings(self) -> dict[int, _Reading]:
        # A class that is mixed in has no start of its own.
        return vars(self).setdefault("consilium_readings_now", {})  # type: ignore[no-any-return]

    def _consilium_readers(self) -> _Readers:
        return vars(self).setdefault("consilium_readers_now", _Readers())  # type: ignore[no-any-return]

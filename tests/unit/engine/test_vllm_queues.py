"""What the plugin does with its variable, with a stub in place of vLLM."""

import sys
import time
from types import ModuleType

import pytest

from consilium.engine.backends import vllm_queues
from consilium.engine.launch_args import QUEUE_NAP

NAME = "vllm.distributed.device_communicators.shm_broadcast"


def spin() -> None:
    """As vLLM's own."""


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    parts = NAME.split(".")
    modules = {".".join(parts[:n]): ModuleType(".".join(parts[:n])) for n in range(1, len(parts) + 1)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            above, _, last = name.rpartition(".")
            setattr(modules[above], last, module)
    found = modules[NAME]
    found.sched_yield = spin  # type: ignore[attr-defined]
    found.SPINLOOP_EXT_ENABLED = False  # type: ignore[attr-defined]
    monkeypatch.delenv(QUEUE_NAP, raising=False)
    return found


@pytest.mark.parametrize("value", [None, "", "0", "-1", "nan", "soon", "3600"])
def test_without_a_time_vllm_waits_as_it_does(queues: ModuleType, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is not None:
        monkeypatch.setenv(QUEUE_NAP, value)
    vllm_queues.install()
    assert queues.sched_yield is spin


def test_with_a_time_it_sleeps(queues: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUEUE_NAP, "0.0002")
    vllm_queues.install()
    assert (queues.sched_yield.func, queues.sched_yield.args) == (time.sleep, (0.0002,))


def told(monkeypatch: pytest.MonkeyPatch) -> str:
    said: list[str] = []
    monkeypatch.setattr(vllm_queues._log, "warning", lambda _event, **fields: said.append(str(fields)))
    vllm_queues.warn_if_left()
    return "".join(said)


def test_a_setting_without_effect_is_told(queues: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not told(monkeypatch)
    monkeypatch.setenv(QUEUE_NAP, "0.0002")
    assert "VLLM_PLUGINS" in told(monkeypatch)
    vllm_queues.install()
    assert not told(monkeypatch)
    queues.SPINLOOP_EXT_ENABLED = True  # type: ignore[attr-defined]
    assert "VLLM_USE_SPINLOOP_EXT" in told(monkeypatch)

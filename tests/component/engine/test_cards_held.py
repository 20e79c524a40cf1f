"""Which cards a replica has, by the house's reader on a driver made for the test: numbers, UUIDs, slices, and nothing without a driver."""

import threading

import pytest
from tests.real import nvml
from tests.waiting import until

from consilium.engine import cards_held
from consilium.kernel import gpus, metrics
from consilium.kernel.metrics import Metrics

NAME = "consilium_engine_gpu_info"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return nvml.build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def told(library, monkeypatch):
    """Return what a replica says on this driver, given what Ray let it see."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setattr(gpus, "has_driver", lambda: True)  # this process has loaded none
    monkeypatch.setattr(cards_held, "PAUSES_S", (0.0,))

    def look(driver, visible=None):
        ours = Metrics()
        monkeypatch.setattr(cards_held, "of_this_process", lambda: ours)
        monkeypatch.setenv("FAKE_NVML", driver)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        cards_held.look("coder", "1")
        return sorted(line for line in ours.page().splitlines() if line.startswith(NAME))

    return look


def row(uuid):
    return f'{NAME}{{executor="coder",replica="1",uuid="{uuid}"}} 1.0'


@pytest.mark.parametrize(
    ("driver", "visible", "uuids"),
    [
        ("4090,count=4", "2,3", ["GPU-2", "GPU-3"]),
        ("4090,count=4", "GPU-1", ["GPU-1"]),
        ("4090,count=2", None, ["GPU-0", "GPU-1"]),
        ("4090,count=3,lost", "0,2", ["GPU-0", "GPU-2"]),
        ("a100mig", "MIG-1", ["MIG-1"]),
        ("a100mig", "0", ["MIG-0"]),
        ("4090,count=2", "", []),
        ("4090,count=0", "0", []),
    ],
)
def test_what_a_replica_says(told, driver, visible, uuids):
    assert told(driver, visible) == [row(uuid) for uuid in uuids]


def test_without_a_driver_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(gpus, "has_driver", lambda: False)
    monkeypatch.setattr(gpus, "read", lambda **_: pytest.fail("asked"))
    cards_held.look("core", "0")


def test_a_replica_to_which_ray_gave_no_card_says_nothing(monkeypatch):
    monkeypatch.setattr(cards_held.ray, "get_gpu_ids", list)
    monkeypatch.setattr(cards_held, "look", lambda *_: pytest.fail("asked"))
    cards_held.tell("core", "0")


def test_a_replica_waits_for_no_driver(monkeypatch):
    monkeypatch.setattr(cards_held.ray, "get_gpu_ids", lambda: [0])
    let_go, looked = threading.Event(), []
    monkeypatch.setattr(cards_held, "look", lambda *_: looked.append(let_go.wait(60)))
    cards_held.tell("core", "0")
    assert looked == []
    let_go.set()
    until(lambda: looked == [True])


def test_it_is_one_of_the_table():
    assert metrics.BY_NAME[NAME].labels == ("executor", "replica", "uuid")

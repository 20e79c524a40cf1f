"""The room's own figures are those of its library and of the replicas that have spoken, and of those that fell silent."""

import pytest
from tests.component.lora_router.house import House, until

from consilium.kernel.metrics import Metrics
from consilium.lora_router.figures import Figures
from consilium.lora_router.ports import Placement, Proof
from consilium.lora_router.replica import SILENT_S


@pytest.fixture
async def house(tmp_path):
    made = House(tmp_path)
    await made.open(lora_router={"store_gib": 1})
    yield made
    await made.close()


def told(metrics):
    lines = (line for line in metrics.page().splitlines() if not line.startswith("#"))
    return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines)}


async def test_what_is_told(house):
    metrics = Metrics()
    figures = Figures(house.room.desk, metrics, house.room.desk._clock)
    figures.tell()
    found = told(metrics)
    assert {found[f'consilium_lora_versions{{proof="{proof}"}}'] for proof in Proof} == {0}
    assert found["consilium_lora_store_quota_bytes"] == 2**30
    assert not [key for key in found if key.startswith("consilium_lora_replicas")]

    await house.add("sport")
    await house.add("law", 2)
    await house.room.desk.place("law", Placement.SSD)
    replica = house.replica()
    replica.verdict = Proof.DEGENERATE
    await until(lambda: house.room.library.find("sport").proof is Proof.DEGENERATE and house.room.library.find("law").proof is Proof.DEGENERATE)  # fmt: skip
    figures.tell()
    found = told(metrics)
    assert found['consilium_lora_versions{proof="degenerate"}'] == 2
    assert found['consilium_lora_versions{proof="unproven"}'] == 0
    assert found['consilium_lora_adapters{placement="ram"}'] == 1
    assert found['consilium_lora_adapters{placement="ssd"}'] == 1
    assert found["consilium_lora_store_bytes"] == house.room.library.stored_bytes > 0
    assert found['consilium_lora_replicas{executor="core"}'] == 1


async def test_a_replica_that_fell_silent_is_counted_no_more(house, monkeypatch):
    metrics = Metrics()
    figures = Figures(house.room.desk, metrics, house.room.desk._clock)
    replica = house.replica()
    fleet = house.room.desk.fleet
    await until(fleet.replicas)
    figures.tell()
    assert told(metrics)['consilium_lora_replicas{executor="core"}'] == 1
    replica.task.cancel()
    now = fleet._clock.now
    monkeypatch.setattr(fleet, "_clock", Later(now() + SILENT_S + 1))
    figures.tell()
    assert told(metrics)['consilium_lora_replicas{executor="core"}'] == 0


class Later:
    def __init__(self, at):
        self._at = at

    def now(self):
        return self._at

    def monotonic(self):
        return self._at

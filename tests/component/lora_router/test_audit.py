"""Who added, placed, switched and removed an adapter stands in the log, with the key's id and the hash; so does what was refused."""

import pytest
import structlog
from tests.component.lora_router.house import House

from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import CLUSTER, Principal
from consilium.lora_router.config import View
from consilium.lora_router.http_fields import Said
from consilium.lora_router.routes import Face
from consilium.v1 import lora_router_pb2 as pb

ANNA = Principal("k_anna", "anna", frozenset({"lora_router.write"}), tenant="lab")


@pytest.fixture
async def house(tmp_path):
    made = House(tmp_path)
    await made.open(lora_router={"canary": False})
    calls.enter(calls.Call("test", "r-1", float("inf"), ANNA))
    yield made
    await made.close()


@pytest.fixture
def lines():
    with structlog.testing.capture_logs() as found:
        yield found


def audited(lines, event):
    found = [line for line in lines if line["event"] == event and "by" in line]
    assert found, [line["event"] for line in lines]
    return found[-1]


def whole(data):
    async def receive():
        return {"type": "http.request", "body": data, "more_body": False}

    return receive


async def test_each_change_says_who_and_which_version(house, lines):
    await house.add("sport")
    await house.add("sport", 2)
    _, (newest, first) = house.room.library.get("sport")
    ask = house.room.servicer
    await ask.PlaceAdapter(pb.PlaceAdapterRequest(name="sport", placement=pb.TIER_SSD), None)
    line = audited(lines, "adapter_placed")
    now = house.room.library.find("sport").sha
    assert (line["by"], line["tenant"], line["adapter"], line["sha"], line["placement"]) == ("k_anna", "lab", "sport", now, "ssd")  # fmt: skip
    other = first if now == newest.sha else newest
    await ask.SwitchVersion(pb.SwitchVersionRequest(name="sport", sha=other.sha[:12]), None)
    line = audited(lines, "version_switched")
    assert (line["by"], line["before"], line["sha"]) == ("k_anna", now, other.sha)
    await ask.RemoveAdapter(pb.RemoveAdapterRequest(name="sport"), None)
    line = audited(lines, "adapter_removed")
    assert line["by"] == "k_anna"
    assert {each.partition(":")[2] for each in line["references"].split(",")} == {first.sha[:16], newest.sha[:16]}  # fmt: skip


async def test_what_was_refused_is_told_with_its_reason(house, lines):
    with pytest.raises(ConsiliumError):
        await house.room.servicer.EvictAdapter(pb.EvictAdapterRequest(name="nobody"), None)
    line = audited(lines, "adapter_change_refused")
    assert (line["change"], line["code"], line["by"]) == ("adapter_evicted", "adapter_unknown", "k_anna")  # fmt: skip
    assert line["reason"]


async def test_one_that_comes_over_http_is_told_with_its_hash(house, lines):
    counted = []
    face = Face(house.room.arrivals, house.room.take, counted.append)
    folder = house.files("sport")
    upload = house.room.arrivals

    async def taken(name):
        for file in folder.iterdir():
            await upload.receive("lab", "upload-1", file.name, 0, whole(file.read_bytes()))
        return await face._taken(ANNA, "upload-1", Said(name, False, {}))

    await taken("sport")
    line = audited(lines, "adapter_added")
    assert (line["by"], line["sha"]) == ("k_anna", house.room.library.find("sport").sha)
    with pytest.raises(ConsiliumError):
        await taken("NOT A NAME")
    line = audited(lines, "adapter_change_refused")
    assert (line["change"], line["by"]) == ("adapter_added", "k_anna")
    assert counted == ["stored", "refused"]


async def test_the_configuration_is_told_as_itself(house, lines):
    calls.enter(calls.Call("test", "r-1", float("inf"), CLUSTER))
    path = str(house.files("sport"))
    view = View.model_validate(
        {"adapters": {"sport": {"path": path}}, "lora_router": {"canary": False}}
    )
    await house.room._configured(view)
    line = audited(lines, "adapter_added")
    assert (line["by"], line["sha"]) == ("configuration", house.room.library.find("sport").sha)
    await house.room._configured(View())
    line = audited(lines, "adapter_removed")
    assert line["by"] == "configuration"
    assert line["references"].startswith("sport:")

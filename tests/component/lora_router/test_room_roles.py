"""An adapter that a role uses is not removed by hand; the configuration may take it away."""

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.config import View
from consilium.v1 import lora_router_pb2 as pb

ROLES = {
    "coach": {"adapters": ["sport@0.5", "law"], "frame": "..."},
    "judge": {"adapters": ["law"]},
    "plain": {},
}


async def refused(house, text):
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.remove(text)
    assert caught.value.code == "conflict"
    return caught.value.public()


async def test_it_is_refused_with_the_roles_and_goes_once_they_use_it_no_more(house):
    room = await house.open(lora_router={"canary": False}, roles=ROLES)
    for number, name in enumerate(("sport", "law", "free"), 1):
        await house.add(name, number)
    told = await refused(house, "law")
    assert "'law' answers in coach, judge, so it stays" in told
    assert "roles.coach.adapters and roles.judge.adapters" in told
    assert "coach" in await refused(house, "sport")
    assert "sport" in room.table.keys
    await room.desk.remove("free")
    view = View.model_validate({"lora_router": {"canary": False}, "roles": {"plain": {}}})
    assert await room._configured(view)
    assert await room.desk.remove("law")


async def test_one_version_goes_unless_a_role_names_it(house):
    await house.open(lora_router={"canary": False}, roles=ROLES)
    first = (await house.add("sport", 1))["stored"]
    second = (await house.add("sport", 2))["stored"]
    await house.room.desk.switch("sport", second)
    house.room.desk.sums.roles = {"old": (f"sport:{first[:12]}@0.5",)}
    assert "answers in old" in await refused(house, f"sport:{first[:8]}")
    house.room.desk.sums.roles = {"new": ("sport",)}
    await house.room.desk.remove(f"sport:{first[:8]}")
    assert "answers in new" in await refused(house, "sport")


async def test_the_configuration_may_take_it_away(house):
    tree = {"lora_router": {"canary": False}, "roles": ROLES}
    room = await house.open(**tree)
    named = {"sport": {"path": str(house.files("sport"))}}
    assert await room._configured(View.model_validate(tree | {"adapters": named}))
    assert "stands in the configuration" in await refused(house, "sport")
    assert await room._configured(View.model_validate(tree))
    page = await room.servicer.ListAdapters(pb.ListAdaptersRequest(), None)
    assert not page.adapters

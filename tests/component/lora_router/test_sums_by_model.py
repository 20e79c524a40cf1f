"""A sum belongs to the models that find it sound: one that finds it bad takes it from nobody else, and not for ever."""

import asyncio

import pytest
from tests.component.lora_router.house import House, until

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Proof
from consilium.lora_router.reports import MoveKind


@pytest.fixture
async def house(tmp_path):
    made_house = House(tmp_path)
    yield made_house
    await made_house.close()


def late(replica, seconds=0.3):
    """Let a replica try what it is asked to try a little later than others."""
    obey = replica.obey

    def obeys(move):
        if move.kind is MoveKind.TRY:
            asyncio.get_running_loop().call_later(seconds, obey, move)
        else:
            obey(move)

    replica.obey = obeys


async def with_two_models(house):
    """Return a replica of each model, and the parts of a sum, which both have found sound."""
    await house.open()
    one = house.replica(name="r1", base_revision="one")
    two = house.replica(name="r2", executor="coder", base_revision="two")
    late(two)
    for seed, name in enumerate(("core", "sport")):
        await house.add(name, seed)
    sound = {"core": "", "coder": ""}
    for name in ("core", "sport"):
        await until(lambda name=name: house.row(name)["current"])
        await until(lambda name=name: house.row(name)["versions"][0]["fits"] == sound)
    current = [f"{name}:{house.row(name)['current'][:16]}" for name in ("core", "sport")]
    return one, two, list(zip(current, (1.0, 0.7), strict=True))


async def test_a_sum_that_one_model_finds_bad_answers_on_the_other(house):
    one, two, parts = await with_two_models(house)
    two.verdict = Proof.NO_EFFECT
    made = await house.room.desk.compose(parts)
    await until(lambda: made in one.targets and made in two.targets)
    two.ram.append(made)
    await until(lambda: made not in two.targets and made not in two.ram)
    assert house.row(made)["fits"] == {"core": "", "coder": "tried on this model, it is no_effect"}
    one.ram.append(made)
    await until(lambda: "one" in house.room.library.find(made).trials)
    assert made in one.targets
    assert made in one.ram
    assert await house.room.desk.compose(parts) == made


async def test_a_sum_that_every_model_finds_bad_is_refused_until_one_is_replaced(house):
    one, two, parts = await with_two_models(house)
    one.verdict = two.verdict = Proof.DEGENERATE
    made = await house.room.desk.compose(parts)
    await until(lambda: made in one.targets and made in two.targets)
    one.ram.append(made)
    two.ram.append(made)
    await until(lambda: len(house.room.library.find(made).trials) == 2)
    await until(lambda: made not in one.targets and made not in two.targets)
    assert made not in house.room.table.keys
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.compose(parts)
    assert (caught.value.code, caught.value.fields["check"]) == ("adapter_refused", "degenerate")
    two.task.cancel()
    anew = house.replica(name="r3", executor="coder", base_revision="three")
    await until(lambda: made in anew.targets)
    assert await house.room.desk.compose(parts) == made
    assert house.row(made)["fits"] == {"core": "tried on this model, it is degenerate", "coder": ""}
    anew.ram.append(made)
    await until(lambda: "three" in house.room.library.find(made).trials)
    assert house.room.library.find(made).trials.keys() == {"one", "three"}
    assert house.room.library.find(made).proof is Proof.OK

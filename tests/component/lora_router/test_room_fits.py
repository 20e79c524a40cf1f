"""An adapter that no engine here can hold is refused when it is offered, with the rule, the place and the way out; and the good ones are taken."""

import json

import pytest
from tests.component.lora_router.house import House, until
from tests.unit.lora_router import made

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.http_fields import Said
from consilium.lora_router.routes import Offered

DENSE, MOE = json.dumps(made.TINY), json.dumps(made.TINY_MOE)
TOGETHER = json.dumps(
    {"model_type": "qwen3_vl_moe", "text_config": made.TINY_MOE, "vision_config": {}}
)
SEEING = "model.language_model."


def attention():
    return made.factors(made.modules())


def apart(prefix="model."):
    named = made.factors(made.expert_modules())
    return {name.replace("model.layers", f"{prefix}layers"): each for name, each in named.items()}


def together(prefix="model."):
    named = made.fused_experts()
    return {name.replace("model.layers", f"{prefix}layers"): each for name, each in named.items()}


REFUSED = {
    "no slot for a module": (
        {"base_config": DENSE, "target_modules": ("q_proj", "o_proj", "down_proj")},
        lambda: made.factors(made.modules(tuple(made.WIDTHS))),
        ("module_no_slot", "layers.0.mlp.gate_proj", "engine.lora.target_modules"),
    ),
    "no slot for experts": (
        {"base_config": MOE, "target_modules": ("q_proj", "gate_proj")},
        apart,
        ("module_no_slot", "experts", "Add experts to engine.lora.target_modules"),
    ),
    "experts together, kept apart": (
        {"base_config": MOE},
        together,
        ("experts_3d", "mlp.experts", "enable_mixed_moe_lora_format"),
    ),
    "experts apart, kept together": (
        {"base_config": TOGETHER},
        lambda: apart(SEEING),
        ("experts_2d", "mlp.experts", "enable_mixed_moe_lora_format"),
    ),
    "other widths": (
        {"base_config": json.dumps(made.TINY | {"hidden_size": 128})},
        attention,
        ("shape_differs", "self_attn", "never goes over"),
    ),
    "a rank too large": (
        {"base_config": DENSE, "max_rank": 1},
        attention,
        ("rank_too_large", "r", "engine.lora.max_rank to 8"),
    ),
    "a rank too large for a model that is not known": (
        {"max_rank": 1},
        attention,
        ("rank_too_large", "r", "engine.lora.max_rank to 8"),
    ),
}
TAKEN = {
    "a module that is packed with one that has a slot": (
        {"base_config": DENSE, "target_modules": ("q_proj", "o_proj")},
        attention,
    ),
    "experts by the name of all of them": (
        {"base_config": MOE, "target_modules": ("experts",)},
        apart,
    ),
    "experts by their whole names": (
        {
            "base_config": MOE,
            "target_modules": ("model.layers.0.mlp.experts", "model.layers.1.mlp.experts"),
        },
        apart,
    ),
    "experts apart": ({"base_config": MOE}, apart),
    "experts together": ({"base_config": TOGETHER}, lambda: together(SEEING)),
    "both layouts, apart": (
        {"base_config": TOGETHER, "mixed_experts": True},
        lambda: apart(SEEING),
    ),
    "both layouts, together": ({"base_config": MOE, "mixed_experts": True}, together),
}


@pytest.fixture
async def house(tmp_path):
    made_house = House(tmp_path)
    await made_house.open(lora_router={"canary": False})
    yield made_house
    await made_house.close()


async def offer(house, tensors, *, force=False, **settings):
    folder = made.write(house.folder / f"files-{force}", tensors)
    return await house.room.take(Offered(Said("sport", force, settings), folder, None))


async def heard(house, **engine):
    house.replica(**engine)
    await until(lambda: house.room.desk.fleet.executors())


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "_"))
async def test_what_fits_no_engine_is_refused_when_it_is_offered(house, case):
    engine, tensors, (code, where, way) = REFUSED[case]
    await heard(house, **engine)
    with pytest.raises(ConsiliumError) as caught:
        await offer(house, tensors())
    told = caught.value
    assert (told.code, told.fields["check"]) == ("adapter_refused", code)
    assert where in told.fields["where"]
    assert way in told.public()
    assert "core: " in told.public()
    assert "--force" in told.public()
    assert not house.room.library.names()
    assert not list((house.folder / "room" / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.replace(" ", "_"))
async def test_what_fits_is_taken(house, case):
    engine, tensors = TAKEN[case]
    await heard(house, **engine)
    answer = await offer(house, tensors())
    assert answer["versions"][0]["fits"] == ["core"]


async def test_its_owner_may_store_it_for_an_engine_that_is_still_to_come(house):
    await heard(house, base_config=DENSE, max_rank=1)
    answer = await offer(house, attention(), force=True)
    assert answer["versions"][0]["fits"] == []
    assert "rank_too_large" in answer["versions"][0]["remarks"][-1]


async def test_one_engine_that_can_hold_it_is_enough(house):
    await heard(house, base_config=DENSE, max_rank=1)
    house.replica(name="r2", executor="large", base_config=DENSE)
    await until(lambda: len(house.room.desk.fleet.executors()) == 2)
    assert (await offer(house, attention()))["versions"][0]["fits"] == ["large"]


async def test_one_for_an_engine_that_nobody_has_heard_is_taken(house):
    await heard(house, base_config=DENSE, max_rank=1)
    answer = await offer(house, attention(), executors=["later"])
    assert answer["executors"] == ["later"]


async def test_an_engine_that_says_other_modules_is_heard(house):
    await heard(house, base_config=DENSE)
    await offer(house, attention())
    house.replicas[0].engine["target_modules"] = ("down_proj",)
    await until(lambda: "module_no_slot" in house.row("sport")["versions"][0]["fits"]["core"])


async def test_the_sum_with_its_core_must_fit_as_well(house):
    await heard(house, base_config=DENSE, max_rank=8)
    folder = made.write(house.folder / "core", attention())
    await house.room.take(Offered(Said("core"), folder, None))
    with pytest.raises(ConsiliumError) as caught:
        await offer(house, attention(), with_core="core")
    assert caught.value.fields["check"] == "rank_too_large"
    assert "with its core the ranks add up to 16" in caught.value.public()
    house.replicas[0].engine["max_rank"] = 16
    await until(lambda: house.room.desk.fleet.executors()["core"].max_rank == 16)
    assert (await offer(house, attention(), with_core="core"))["with_core"] == "core"


async def test_an_engine_that_is_gone_for_long_counts_no_more(house, monkeypatch):
    await heard(house, base_config=DENSE, max_rank=16)
    large = house.replica(name="r2", executor="large", base_config=DENSE, max_rank=64)
    desk = house.room.desk
    await until(lambda: len(desk.fleet.executors()) == 2)
    await offer(house, attention())

    def known():
        return set(house.row("sport")["versions"][0]["fits"]), desk._fitting.largest_rank

    large.task.cancel()
    desk.fleet._replicas.pop("r2")
    desk.fleet.forget_gone()
    assert known() == ({"core", "large"}, 64), "it may be starting again"
    monkeypatch.setattr("consilium.lora_router.fleet.GONE_S", 0.0)
    desk.fleet.forget_gone()
    assert known() == ({"core"}, 16)
    house.replica(name="r3", executor="large", base_config=DENSE, max_rank=64)
    await until(lambda: known() == ({"core", "large"}, 64))

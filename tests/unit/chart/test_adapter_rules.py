"""What the code refuses of adapters and their slots, Helm refuses too, with the key and the way out: a pod that reads it would begin again and again."""

import pytest
from helm_python import HelmError
from pydantic import ValidationError
from tests.unit.chart import rendered
from tests.unit.chart.test_refusals import config
from tests.unit.chart.told_in_pods import config_file, environment, own_container

from consilium.cli.config_tree import ConsiliumConfig
from consilium.demo import voice_files
from consilium.engine.config import EngineView, Lora
from consilium.kernel.config import load
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.config import AdaptersView, View

HUB = {"path": "org/a"}
PINNED = {**HUB, "placement": "vram"}


def adapters(**rows):
    return config("adapters", {name: {**HUB, **row} for name, row in rows.items()})


def slots(lora, near=None, **rows):
    """Return values with these slots of the core, these of an executor, and these adapters."""
    said = {"adapters": {name: {**HUB, **row} for name, row in rows.items()}}
    if lora is not None:
        said["engine"] = {"lora": lora}
    if near is not None:
        said["topology"] = {"kind": "hybrid", "replicas": 1, "device": "cpu"}
        said["executors"] = {"near": {"model": "demo", "device": "cpu", "engine": {"lora": near}}}
    return {"config": said}


# The rule -> what both refuse, words of Helm's refusal with the key first, and what looks like it and both take.
RULES = {
    "a core is one of them": (
        adapters(sport={"with_core": "cor"}, core={}),
        ["config.adapters.sport.with_core", '"cor"', "there is core"],
        adapters(sport={"with_core": "core"}, core={}),
    ),
    "a core where no other is": (
        adapters(sport={"with_core": "core"}),
        ["config.adapters.sport.with_core", '"core"', "there is no other"],
        adapters(sport={"with_core": None}),
    ),
    "none is its own core": (
        adapters(sport={"with_core": "sport"}),
        ["config.adapters.sport.with_core", "itself", "leave with_core out"],
        adapters(sport={}),
    ),
    "an isolated one has no core": (
        adapters(sport={"with_core": "core", "isolated": True}, core={}),
        ["config.adapters.sport.with_core", '"sport" is isolated', "leave with_core out"],
        adapters(sport={"with_core": "core", "isolated": False}, core={}),
    ),
    "an isolated one is no core": (
        adapters(sport={"with_core": "core"}, core={"isolated": True}),
        ["config.adapters.sport.with_core", '"core" is isolated', "take isolated from it"],
        adapters(sport={}, core={"isolated": True}),
    ),
    "mix is no name": (
        adapters(mix={}),
        ["config.adapters.mix", "choose another"],
        adapters(mixed={}),
    ),
    "voices have names": (
        adapters(sport={"path": "demo:capitan"}),
        ["config.adapters.sport.path", '"demo:capitan"', ", ".join(voice_files.PATHS)],
        adapters(sport={"path": "demo:captain"}),
    ),
    "memory holds the slots": (
        slots({"slots": 8, "ram": 4}),
        ["config.engine.lora.ram", "it is 4", "8 or more"],
        slots({"slots": 8, "ram": 8}),
    ),
    "memory of an executor holds the slots of all": (
        slots({"slots": 8}, {"ram": 4}),
        ["config.executors.near.engine.lora.ram", "it is 4", "8 or more"],
        slots({"slots": 8}, {"ram": 4, "slots": 4}),
    ),
    "one slot is free": (
        slots({"slots": 2}, a=PINNED, b=PINNED),
        ["config.engine.lora.slots", "it is 2", "(a, b)", "3 or more", "placement ram"],
        slots({"slots": 3}, a=PINNED, b=PINNED),
    ),
    "one slot is free on an executor": (
        slots(None, {"slots": 1}, a={**PINNED, "executors": ["near"]}),
        ["config.executors.near.engine.lora.slots", "it is 1", "(a)", "2 or more"],
        slots({"slots": 1}, {"slots": 2}, a={**PINNED, "executors": ["near"]}),
    ),
    "no slots pin nothing": (
        slots({"slots": 1}, a=PINNED),
        ["config.engine.lora.slots"],
        slots({"slots": 0}, a=PINNED),
    ),
    "as many as are pinned": (
        slots({"slots": 1}, {"slots": "auto"}, a=PINNED, b=PINNED),
        ["config.engine.lora.slots"],
        slots({"slots": "auto", "ram": 1}, {"slots": 3, "ram": 3}, a=PINNED, b=PINNED),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_what_the_code_refuses_helm_refuses(name):
    values, words, _ = RULES[name]
    with pytest.raises(ValidationError):
        ConsiliumConfig.model_validate(values["config"])
    with pytest.raises(HelmError) as caught:
        rendered.render(values)
    said = str(caught.value)
    assert "specifications of the schema" not in said, "a template refuses this one"
    assert all(word in said for word in words), said


@pytest.mark.parametrize("name", RULES)
def test_what_looks_like_it_both_take(name, tmp_path):
    values = RULES[name][2]
    ConsiliumConfig.model_validate(values["config"])
    render = rendered.render(values)
    for pod, model in (("lora_router", View), ("worker main", EngineView)):
        told = environment(render, own_container(rendered.pod(render, pod)))
        assert load(model, path=config_file(render, tmp_path), env=told).value


def test_another_rule_of_the_code_is_seen_here():
    """Each validator below has its rows above, or in test_refusals.py (_executors_fit_kind)."""
    found = {
        name
        for model in (AdaptersView, Lora, EngineView)
        for name in model.__pydantic_decorators__.model_validators
    }
    assert found == {
        "_voices_are_known",
        "_cores_are_known",
        "_memory_holds_the_slots",
        "_slots_are_left",
        "_executors_fit_kind",
    }


@pytest.mark.parametrize("path", voice_files.PATHS)
def test_every_voice_of_the_demo_model_is_taken(path):
    render = rendered.render(adapters(sport={"path": path}))
    assert path in render.config_text


def test_a_claim_too_small_for_a_store_is_refused_and_a_small_one_is_taken(tmp_path):
    with pytest.raises(ConsiliumError, match=r"lora_router\.store_gib"):
        load(View, env={"CONSILIUM_LORA_ROUTER__STORE_GIB": "0.00"})
    for key, values in {
        "adapters": {"adapters": {"storage": {"size": "4Mi"}}},
        "services.lora_router": {
            "services": {
                "lora_router": {"module": "consilium.lora_router.app", "storage": {"size": "4Mi"}}
            }
        },
    }.items():
        with pytest.raises(HelmError, match=rf"{key}\.storage\.size: 4Mi .* 1Gi or more"):
            rendered.render(values)
    render = rendered.render({"adapters": {"storage": {"size": "64Mi"}}})
    told = environment(render, own_container(rendered.pod(render, "lora_router")))
    assert load(View, path=config_file(render, tmp_path), env=told).value.lora_router.store_gib > 0

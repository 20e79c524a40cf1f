"""What `up` says of adapters before anything starts."""

import asyncio
import json

import pytest
from pydantic import ValidationError
from tests.unit.lora_router import made

from consilium.cli.config_tree import ConsiliumConfig
from consilium.cli.preflight_adapters import check_adapters, check_running
from consilium.demo import tiny
from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files
from consilium.lora_router.backends.registry import SqliteRegistry, peek
from consilium.lora_router.incoming import Incoming, Limits
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Registered
from consilium.lora_router.store import Store
from consilium.supervisor.state_folder import StateFolder

OTHER = made.TINY | {"hidden_size": 128}


@pytest.fixture
def said(tmp_path):
    """Check a tree, and return the warnings."""
    folder = StateFolder(tmp_path / "state")
    folder.make()

    def check(tree, config=made.TINY):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        lines = []
        parsed = ConsiliumConfig.model_validate({"model": str(tmp_path / "model"), **tree})
        check_adapters(parsed, folder, lines.append)
        return lines

    return check


def refused(check, *words):
    with pytest.raises(ConsiliumError) as caught:
        check()
    assert caught.value.code == "config_invalid"
    assert all(word in caught.value.public() for word in words), caught.value.public()


def adapters(tmp_path, **more):
    return {"adapters": {"sport": {"path": str(made.write(tmp_path / "sport")), **more}}}


ROLE = {"roles": {"coach": {"frame": "x", "adapters": ["sport@0.5"]}}}
SPARED = {"roles": {"coach": {"frame": "x", "adapters": ["sport"], "adapters_optional": True}}}


def test_one_that_fits_is_not_spoken_of(said, tmp_path):
    assert said({}) == []
    assert said(adapters(tmp_path) | ROLE) == []


def test_another_base_is_told_and_refused_where_a_role_needs_the_adapter(said, tmp_path):
    (line,) = said(adapters(tmp_path), OTHER)
    assert line.startswith("warning: adapters 'sport': ")
    refused(lambda: said(adapters(tmp_path) | ROLE, OTHER), "roles.coach.adapters", "'sport' can answer nowhere")  # fmt: skip
    assert len(said(adapters(tmp_path) | SPARED, OTHER)) == 1


def test_a_role_is_held_against_the_executor_that_it_names(said, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(OTHER))
    near = {"topology": {"kind": "hybrid"}, "executors": {"near": {"model": str(tmp_path / "other")}, "far": {"url": "http://far/v1", "model": "m"}}}  # fmt: skip
    tree = adapters(tmp_path) | near

    def role(**more):
        return tree | {"roles": {"coach": {"frame": "x", "adapters": ["sport"], **more}}}

    assert said(role()) == []
    assert said(role(executor="core")) == []
    refused(lambda: said(role(executor="near")), "roles.coach.adapters", "'sport' cannot answer on near: ")  # fmt: skip
    refused(lambda: said(role(executor="far")), "roles.coach.adapters", "far is elsewhere")
    assert said(role(executor="near", fallback="core")) == []
    assert said(role(executor="near", adapters_optional=True)) == []


def test_a_role_that_names_no_adapter_is_warned_of(said, tmp_path):
    typo = {"roles": {"coach": {"frame": "x", "adapters": ["sprot@0.5"]}}}
    (line,) = said(adapters(tmp_path) | typo)
    assert line.startswith(
        "warning: roles.coach.adapters: there is no adapter 'sprot'; the nearest is 'sport'"
    )
    (line,) = said(typo)
    assert "there is no adapter 'sprot', and no other adapter. " in line


@pytest.mark.parametrize(
    ("core", "words"),
    [
        ("cor", "there is no adapter 'cor', and no other adapter"),
        ("sport", "never added to itself"),
    ],
)
def test_a_core_that_is_none_is_told(core, words):
    with pytest.raises(ValidationError, match=words):
        ConsiliumConfig.model_validate({"adapters": {"sport": {"path": ".", "with_core": core}}})


def test_a_rank_over_the_engines(said, tmp_path):
    (line,) = said(adapters(tmp_path) | {"engine": {"lora": {"max_rank": 1}}})
    assert "engine.lora.max_rank" in line


def test_the_rank_of_a_sum_with_its_core(said, tmp_path):
    core = {"path": str(made.write(tmp_path / "core", made.factors(made.modules(), 12), r=12))}
    tree = adapters(tmp_path, with_core="core")
    tree["adapters"]["core"] = core
    (line,) = said(tree)
    assert "'sport'" in line
    assert "ranks add up to 20, and this engine holds 16. Set engine.lora.max_rank to 32" in line
    refused(lambda: said(tree | ROLE), "roles.coach.adapters")
    assert said(tree | {"engine": {"lora": {"max_rank": 32}}}) == []


@pytest.mark.parametrize("kind", ["tiny", "tiny-moe"])
def test_the_tiny_models_are_known_before_they_are_made(said, tmp_path, kind):
    named = {"model.layers.1.self_attn.q_proj": (tiny.HIDDEN, tiny.HEADS * tiny.HEAD_DIM)}
    fits = {"sport": {"path": str(made.write(tmp_path / "a", made.factors(named)))}}
    assert said({"model": kind, "adapters": fits}) == []
    assert len(said(adapters(tmp_path) | {"model": kind})) == 1


def test_files_that_are_broken_or_not_there(said, tmp_path):
    tree = adapters(tmp_path)
    (tmp_path / "sport" / "adapter_config.json").write_text("{")
    assert len(said(tree)) == 1
    gone = {"adapters": {"sport": {"path": str(tmp_path / "gone")}}}
    refused(lambda: said(gone | ROLE), "gone")
    assert said({"adapters": {"sport": {"path": "org/never-fetched"}}} | ROLE) == []


def test_an_executor_that_is_none_of_ours(said, tmp_path):
    (line,) = said(adapters(tmp_path, executors=["big"]))
    assert "no executor of our own is named big" in line


def test_a_model_that_nobody_knows_is_not_judged(said, tmp_path):
    assert said(adapters(tmp_path) | ROLE | {"model": "org/unknown-model"}) == []


def test_what_is_stored_is_looked_at_too(said, tmp_path):
    root = tmp_path / "state" / "lora_router"

    async def add():
        store = Store(root / "store")
        registry = await SqliteRegistry.open(root / "registry.db", store.folder)
        library = await Library(
            store, registry, Limits(), adapter_files.describe, clock=SystemClock()
        ).open()
        await library.add(Incoming("sport", made.write(tmp_path / "cli")))
        said = Registered("old", "", from_config=True)
        await library.add(Incoming("old", made.write(tmp_path / "cli"), said))
        await library.aclose()

    asyncio.run(add())
    assert set(peek(root / "registry.db")) == {"sport", "old"}
    on = {"engine": {"lora": {"slots": 4}}}
    assert said(ROLE | on) == []
    dropped = {"coach": {"frame": "x", "adapters": ["old:12ab@0.5"]}}
    (line,) = said(on | {"roles": dropped})
    assert line.startswith("warning: roles.coach.adapters: 'old' stands in 'adapters' no more")
    assert "the role cannot answer" in line
    (line,) = said(on | {"roles": {"coach": dropped["coach"] | {"adapters_optional": True}}})
    assert "the role answers without it" in line
    assert said(on, OTHER)[0].startswith("warning: the stored adapter 'sport'")
    assert "engine.lora is not set" in said({})[0]
    refused(lambda: said(ROLE | on, OTHER), "'sport' can answer nowhere")
    gone = {"adapters": {"sport": {"path": str(tmp_path / "gone")}}}
    (line,) = said(gone | ROLE)
    assert f"adapters.sport.path: there is no folder {tmp_path / 'gone'}; the version that" in line
    assert peek(tmp_path / "none.db") == {}


def test_engines_that_run_with_fewer_slots_are_told(tmp_path):
    def tree(**rows):
        return ConsiliumConfig.model_validate({"adapters": rows})

    def warned(held, wanted):
        lines = []
        check_running(held, wanted, lines.append)
        return lines

    one = {"path": str(tmp_path), "placement": "vram"}
    five = {f"a{number}": one for number in range(5)}
    assert warned(tree(), tree()) == []
    assert "core runs without slots" in warned(tree(), tree(a=one))[0]
    assert warned(tree(a=one), tree(a=one, b=one)) == []
    assert "4 slots, and 7 are wanted" in warned(tree(a=one), tree(**five))[0]
    assert warned(tree(**five), tree()) == []


def test_voices_of_the_demo_model_fit_it_and_no_other(said):
    tree = {
        "adapters": {
            "captain": {"path": "demo:captain"},
            "cook": {"path": "demo:cook", "with_core": "captain"},
        },
        "roles": {"skipper": {"frame": "x", "adapters": ["captain"]}},
    }
    assert said(tree | {"model": "demo"}) == []
    refused(lambda: said(tree), "roles.skipper.adapters", "'captain' can answer nowhere")


def test_a_voice_that_is_not_there_is_refused_before_anything_is_looked_at():
    with pytest.raises(
        ValidationError, match=r"there is no voice 'demo:capten'; the nearest is 'demo:captain'"
    ):
        ConsiliumConfig.model_validate({"adapters": {"c": {"path": "demo:capten"}}})

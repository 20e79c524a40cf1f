"""How many slots an engine starts with, by its settings and by the adapters of the configuration."""

import pytest
from pydantic import ValidationError

from consilium.engine.config import EngineView
from consilium.planner import lora_settings


def view(**tree):
    return EngineView.model_validate({"model": "tiny", **tree})


def pins(count, **more):
    return {f"a{n}": {"path": "x", "placement": "vram", **more} for n in range(count)}


def test_lora_is_off_unless_something_asks_for_it():
    assert view().lora("core") is None
    assert view(engine={"lora": {}}).lora("core").slots == 4
    assert view(adapters={"a": {"path": "x"}}).lora("core").slots == 4


def test_auto_leaves_two_slots_beside_the_pinned_ones_and_at_least_four():
    for pinned, slots in ((0, 4), (1, 4), (2, 4), (3, 5), (9, 11)):
        found = view(adapters=pins(pinned), engine={"lora": {}}).lora("core")
        assert (found.slots, found.ram) == (slots, 2 * slots)


def test_adapters_of_other_executors_take_no_slots():
    tree = {
        "topology": {"kind": "hybrid"},
        "executors": {"hand": {"model": "tiny"}, "far": {"url": "http://x/v1", "model": "y"}},
        "adapters": pins(6, executors=["hand"]),
    }
    found = view(**tree)
    assert (found.lora("core"), found.lora("hand").slots, found.lora("far")) == (None, 8, None)


def test_slots_that_nobody_asked_for_are_told_with_what_limits_them():
    told = view(adapters={"a": {"path": "x"}}).slots_by_adapters()
    assert set(told) == {"core"}
    for words in ("4 slots", "rank 16", "consilium plan -c FILE", "engine.lora limits it", "slots: 0", "adapters.NAME.executors"):  # fmt: skip
        assert words in told["core"]
    tree = {"topology": {"kind": "hybrid"}, "executors": {"hand": {"model": "tiny"}}}
    hand = view(**tree, adapters=pins(6, executors=["hand"])).slots_by_adapters()
    assert set(hand) == {"hand"}
    assert "executors.hand.engine.lora" in hand["hand"]
    for asked in ({"slots": 4}, {"slots": 0}):
        assert not view(adapters={"a": {"path": "x"}}, engine={"lora": asked}).slots_by_adapters()
    assert not view().slots_by_adapters()


def test_an_executor_overrides_single_keys():
    tree = {
        "topology": {"kind": "hybrid"},
        "engine": {"lora": {"slots": 6, "max_rank": 64, "max_wait_s": 3}},
        "executors": {"hand": {"model": "tiny", "engine": {"lora": {"slots": 2}}}},
    }
    hand = view(**tree).lora("hand")
    assert (hand.slots, hand.max_rank, hand.ram, hand.max_wait_s) == (2, 64, 4, 3.0)


def test_not_all_slots_can_be_pinned():
    with pytest.raises(ValidationError, match="Set it to 4 or more") as error:
        view(engine={"lora": {"slots": 3}}, adapters=pins(3))
    assert "engine.lora.slots" in str(error.value) or "placement vram" in str(error.value)
    assert view(engine={"lora": {"slots": 4}}, adapters=pins(3)).lora("core").slots == 4


def test_memory_holds_at_least_the_slots():
    with pytest.raises(ValidationError, match="set it to 8 or more"):
        view(engine={"lora": {"slots": 8, "ram": 4}})


def test_the_planner_counts_what_the_engine_starts_with():
    adapters = pins(5)
    engine = lora_settings.with_counted({"max_num_seqs": 4}, adapters, "core")
    found = view(adapters=adapters).lora("core")
    assert engine == {
        "max_num_seqs": 4,
        "lora": {"slots": found.slots, "max_rank": 16, "ram": found.ram, "target_modules": []},
    }
    assert lora_settings.with_counted({"lora": None}, {}, "core") == {}


def test_no_slots_turn_lora_off_on_one_executor():
    tree = {
        "topology": {"kind": "hybrid"},
        "executors": {"words": {"model": "tiny", "engine": {"lora": {"slots": 0}}}},
        "adapters": pins(2),
    }
    found = view(**tree)
    assert (found.lora("core").slots, found.lora("words")) == (4, None)
    assert lora_settings.with_counted({"lora": {"slots": 0}}, pins(2), "core") == {}

"""What must be done so that the registry says what the configuration says."""

from pathlib import Path

import pytest

from consilium.lora_router.configured import entry
from consilium.lora_router.holdings import Holdings
from consilium.lora_router.ports import Changes, Held, Named, Placement, Registered, StoredVersion
from consilium.lora_router.reconcile import Plan, plan, settings_of


def said(name="sport", **more):
    return Registered(name, "", from_config=True, **more)


def registered(*rows, stored=("sport",)):
    versions = tuple(Held(StoredVersion(name, "a" * 64, 1, Path("/s"), 8, 1, 0.0), {}) for name in stored)  # fmt: skip
    return Holdings().after(Changes(rows, versions))


ENTRY = entry(said(), "/loras/sport")
ROW = Named(said(), "as-it-was", ENTRY.text)


@pytest.mark.parametrize(
    ("entries", "look", "holdings", "expected"),
    [
        ({"sport": ENTRY}, "as-it-was", Holdings(), Plan((), (), (ENTRY,))),
        ({"sport": ENTRY}, "as-it-was", registered(ROW), Plan((), (), ())),
        ({"sport": ENTRY}, "another", registered(ROW), Plan((), (), (ENTRY,))),
        ({"sport": ENTRY}, "as-it-was", registered(ROW, stored=()), Plan((), (), (ENTRY,))),
        ({"sport": ENTRY}, None, registered(ROW), Plan((), (), ())),
        ({"sport": ENTRY}, None, Holdings(), Plan((), (), ())),
        ({}, None, registered(ROW), Plan(("sport",), (), ())),
        ({}, None, registered(Named(Registered("sport", ""))), Plan((), (), ())),
    ],
    ids=[
        "new",
        "as it was",
        "its files have changed",
        "its files were lost",
        "its folder is gone, and what is stored stays",
        "it never came",
        "named no more",
        "the CLI added it",
    ],
)
def test_what_is_done(entries, look, holdings, expected):
    assert plan(entries, {} if look is None else {"sport": look}, holdings) == expected


def test_settings_change_without_reading():
    other = entry(said(domain="running"), "/loras/sport")
    assert plan({"sport": other}, {"sport": "as-it-was"}, registered(ROW)).change == (other,)


def test_a_name_of_the_cli_that_the_configuration_takes_over():
    row = Named(Registered("sport", "a" * 64))
    found = plan({"sport": ENTRY}, {"sport": "as-it-was"}, registered(row))
    assert found.read == (ENTRY,)


def test_those_that_lean_on_a_core_go_before_it():
    rows = (Named(said("core")), Named(said("art", with_core="core")), Named(said("b")))
    assert plan({}, {}, registered(*rows, stored=())).remove == ("art", "b", "core")


def test_a_placement_by_the_cli_holds_until_the_entry_says_something_new():
    moved = Named(said(placement=Placement.VRAM), "as-it-was", ENTRY.text)
    assert settings_of(ENTRY, moved).placement is Placement.VRAM
    new = entry(said(domain="running", placement=Placement.SSD), "/loras/sport")
    assert settings_of(new, moved).placement is Placement.SSD
    assert settings_of(new, None) == new.settings

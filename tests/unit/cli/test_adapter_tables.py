"""How adapters look to people."""

from consilium.cli import adapter_tables


def at(**more):
    return {"executor": "core", "replica": "replica-1", "tier": "vram", "slot": 2, "pinned": False,
            "in_use": 0, "exact": True, "silent_since": 0.0} | more  # fmt: skip


def test_a_replica_that_is_silent_is_told_as_that():
    told = adapter_tables.where({"residences": [at(), at(tier="ram", silent_since=1e9)]})
    assert told.startswith("slot 2 of core/replica-; RAM of core/replica- (silent since ")


def test_a_room_of_an_older_release_does_not_say_who_is_silent():
    place = at()
    del place["silent_since"]
    assert adapter_tables.places([place]) == "slot 2 of core/replica-"


def test_what_could_not_be_taken_in_is_told_with_what_answers():
    adapter = {"name": "sport", "current": "f" * 64, "not_taken_in": "/x: there is no such folder"}
    told = adapter_tables.left_out(adapter)
    assert told.startswith(
        "adapters.sport is not as the configuration says, and the version that is"
    )
    assert told.endswith("/x: there is no such folder")
    assert "nothing answers" in adapter_tables.left_out(adapter | {"current": ""})
    assert adapter_tables.left_out({"name": "sport", "current": ""}) == ""

"""What a name, a role or a trigger means, by the table that the gateway holds."""

import asyncio
from types import SimpleNamespace

import pytest

from consilium.gateway import adapter_choice, adapter_rows
from consilium.gateway.adapter_choice import asked_for, resolve, triggered
from consilium.gateway.adapters import Adapters
from consilium.gateway.decision import Decision
from consilium.gateway.models import Target
from consilium.kernel.clock import FakeClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Held

A, B, C = "a" * 64, "b" * 64, "c" * 64


def row(sha, *, current=None, fits=None, **more):
    return {
        "kind": "adapter",
        "current": sha if current is None else current,
        "versions": [
            {
                "sha": sha,
                "reference": f"{more.pop('name')}:{sha[:16]}",
                "proof": "ok",
                "fits": fits or {"core": ""},
            }
        ],
        **more,
    }


def known(heard=True, **rows):
    return adapter_rows.read(
        {name.replace("_", "#"): {**raw} for name, raw in rows.items()}, heard=heard
    )


SPORT = row(A, name="sport", domain="training", triggers=["<|sport|>"])
CORE = row(B, name="core")


def test_a_name_is_its_current_version():
    chosen = resolve(asked_for("sport", "model"), known(sport=SPORT), by="request")
    assert (chosen.reference, chosen.names) == ("sport:" + A[:16], ("sport:" + A[:16],))
    assert chosen.why_not("core") == ""
    assert "engine.lora" in chosen.why_not("remote")


def test_a_beginning_of_a_hash_names_a_version_and_a_wrong_one_is_told_what_there_is():
    table = known(sport=SPORT)
    assert resolve(asked_for("sport:aaaa", "model"), table, by="request").reference
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sport:bbbb", "model"), table, by="request")
    assert caught.value.code == "adapter_refused"
    assert "aaaaaaaa" in caught.value.public()


@pytest.mark.parametrize("proof", ["unproven", "no_effect", "degenerate", "failed"])
def test_a_version_that_may_not_answer_does_not_answer_who_names_it_either(proof):
    told = row(A, name="sport", current="")
    told["versions"][0] |= {"proof": proof, "answers": False}
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sport:aaaa", "model"), known(sport=told), by="request")
    assert caught.value.code == "adapter_refused"
    assert proof in caught.value.public()
    assert "--force" in caught.value.public()
    told["versions"][0]["answers"] = True  # its owner insists
    assert resolve(asked_for("sport:aaaa", "model"), known(sport=told), by="request").reference


@pytest.mark.parametrize("asked", ["sport", "sport:aaaa"])
def test_one_whose_files_are_damaged_says_so(asked):
    told = row(A, name="sport", current="")
    told["versions"][0] |= {"proof": "damaged", "answers": False, "fits": {}}
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for(asked, "model"), known(sport=told), by="request")
    assert caught.value.code == "adapter_refused"
    assert "damaged in the store" in caught.value.public()
    assert "Add it again" in caught.value.public()


def test_a_router_that_starts_anew_takes_no_adapter_from_the_engines_that_have_it():
    before = known(sport=row(A, name="sport", fits={"core": "", "small": "too wide"}))
    anew = {"sport": row(A, name="sport", fits={"small": ""})}
    anew["sport"]["versions"][0]["fits"] = {}
    silent = adapter_rows.read(anew, heard=True, before=before)
    chosen = resolve(asked_for("sport", "model"), silent, by="request")
    assert (chosen.why_not("core"), chosen.why_not("small")) == ("", "too wide")
    first = resolve(asked_for("sport", "model"), adapter_rows.read(anew, heard=True), by="request")
    assert "starting" in first.why_not("core")


def test_only_rows_that_changed_are_read_again():
    told = {"sport": SPORT, "core": CORE}
    before = adapter_rows.read(told, heard=True)
    after = adapter_rows.read({**told, "core": row(C, name="core")}, heard=True, before=before)
    assert after.rows["sport"] is before.rows["sport"]
    assert (after.rows["core"].current, before.rows["core"].current) == (C, B)
    assert list(adapter_rows.read({"core": CORE}, heard=True, before=after).rows) == ["core"]


async def test_an_executor_that_answers_plainly_has_no_adapter_in_its_receipt():
    told = {"sport": row(A, name="sport", fits={"core": ""})}
    adapters = Adapters(
        SimpleNamespace(held=Held("e", 1, told), age_s=0.0), None, None, FakeClock()
    )
    frame = SimpleNamespace(role="coach", adapters=("sport",), adapters_optional=True)
    decision = Decision(Target("role", "coach"), ("core", "remote"), frame)
    chosen = await adapters.chosen(decision, {}, "", [])
    assert chosen.executors == ("core", "remote")
    assert chosen.adapters_on("core") == ("sport:" + A[:16],)
    assert chosen.adapters_on("remote") == ()
    assert "engine.lora" in chosen.plain_on["remote"]


async def test_a_sum_that_nobody_insisted_on_stops_nobody_while_the_room_is_away():
    sport = row(A, name="sport", with_core="core", triggers=["<s>"])
    table = SimpleNamespace(held=Held("e", 1, {"sport": sport, "core": CORE}), age_s=0.0)
    adapters, notes = Adapters(table, None, None, FakeClock()), []
    body = {"messages": [{"role": "user", "content": "<s> hi"}]}
    decision = await adapters.chosen(Decision(Target("auto", ""), ("core",)), body, "", notes)
    assert (decision.adapter, decision.adapters) == ("", ())
    assert decision.adapter_why
    assert "sport" in notes[0]
    with pytest.raises(ConsiliumError) as caught:
        await adapters.chosen(Decision(Target("adapter", "sport"), ("core",)), {}, "", [])
    assert caught.value.code == "adapter_down"


async def test_a_core_that_is_not_there_is_told_and_never_left_out_in_silence():
    told = {"sport": row(A, name="sport", with_core="core", triggers=["<s>"])}
    adapters = Adapters(
        SimpleNamespace(held=Held("e", 1, told), age_s=0.0), None, None, FakeClock()
    )
    with pytest.raises(ConsiliumError) as caught:
        await adapters.chosen(Decision(Target("adapter", "sport"), ("core",)), {}, "", [])
    assert caught.value.code == "adapter_refused"
    assert "always added to 'core', and there is no such adapter" in caught.value.public()
    body, notes = {"messages": [{"role": "user", "content": "<s> hi"}]}, []
    decision = await adapters.chosen(Decision(Target("auto", ""), ("core",)), body, "", notes)
    assert (decision.adapter, "always added to 'core'" in notes[0]) == ("", True)


class Composing:
    """A room that makes every sum."""

    def __init__(self):
        self.asked = []

    async def compose(self, parts):
        self.asked.append(parts)
        return "mix:" + "f" * 16


async def test_one_key_has_only_so_many_new_sums_made_in_a_minute():
    rules = {"kind": "rules", "new_sums_per_minute": 3}
    needed = [["core:" + B[:16], 1.0], ["sport:" + A[:16], 0.7]]
    stored = {"kind": "sum", "reference": "mix:1", "parts": needed, "fits": {"core": ""}}
    told = {"#rules": rules, "sport": SPORT, "core": CORE, "mix:1": stored}
    room, clock = Composing(), FakeClock()
    table = SimpleNamespace(held=Held("e", 1, told), age_s=0.0)
    adapters = Adapters(table, None, room, clock)

    async def ask(weight, key):
        target = Target("adapter", f"core+sport@{weight}")
        return await adapters.chosen(Decision(target, ("core",)), {}, "", [], key)

    for weight in ("0.1", "0.2", "0.3"):
        await ask(weight, "k1")
    with pytest.raises(ConsiliumError) as caught:
        await ask("0.4", "k1")
    assert caught.value.code == "rate_limited"
    assert "3 new sums of adapters per minute" in caught.value.public()
    assert len(room.asked) == 3
    assert (await ask("0.7", "k1")).adapter == "mix:1", "one that is stored costs nothing"
    await ask("0.4", "k2")
    clock.advance(60)
    await ask("0.4", "k1")


async def test_a_sum_that_many_ask_for_at_once_is_counted_once():
    rules = {"kind": "rules", "new_sums_per_minute": 2}
    table = SimpleNamespace(
        held=Held("e", 1, {"#rules": rules, "sport": SPORT, "core": CORE}), age_s=0.0
    )
    room, made = Composing(), asyncio.Event()

    async def compose(parts):
        room.asked.append(parts)
        await made.wait()
        return "mix:" + "f" * 16

    room.compose = compose
    adapters = Adapters(table, None, room, FakeClock())

    def ask(weight):
        target = Target("adapter", f"core+sport@{weight}")
        return adapters.chosen(Decision(target, ("core",)), {}, "", [], "k1")

    asked = [asyncio.create_task(ask("0.1")) for _ in range(10)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(room.asked) == 10
    made.set()
    assert {decision.adapter for decision in await asyncio.gather(*asked)} == {"mix:" + "f" * 16}
    await ask("0.2")
    with pytest.raises(ConsiliumError) as caught:
        await ask("0.1")
    assert caught.value.code == "rate_limited"
    assert not adapters._new_sums._under_way


async def test_a_role_that_can_do_without_its_adapter_says_why_it_did():
    table = SimpleNamespace(held=Held("e", 1, {"core": CORE}), age_s=0.0)
    frame = SimpleNamespace(role="coach", adapters=("sport",), adapters_optional=True)
    decision = Decision(Target("role", "coach"), ("core",), frame)
    chosen = await Adapters(table, None, None, FakeClock()).chosen(decision, {}, "", [])
    assert not chosen.adapter
    assert "sport" in chosen.adapter_why


def test_an_unknown_name_is_offered_the_nearest():
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sprot", "model"), known(sport=SPORT), by="request")
    assert caught.value.fields["nearest"] == "sport"


def test_before_the_room_was_heard_nothing_is_unknown():
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sport", "model"), known(heard=False), by="request")
    assert caught.value.code == "adapter_down"
    assert caught.value.row.http == 503


def test_a_version_that_was_not_tried_answers_nobody_and_the_way_out_is_told():
    table = known(sport=row(A, name="sport", current=""))
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sport", "model"), table, by="request")
    assert "--force" in caught.value.public()


def test_a_sum_is_found_by_its_parts_in_any_order_or_told_to_be_made():
    parts = [["core:" + B[:16], 1.0], ["sport:" + A[:16], 0.7]]
    made = {"kind": "sum", "reference": "mix:" + C[:16], "parts": parts, "fits": {"core": ""}}
    table = known(sport=SPORT, core=CORE, mix=made)
    for text in ("core+sport@0.7", "sport@0.7+core@1.0"):
        chosen = resolve(asked_for(text, "model"), table, by="request")
        assert chosen.reference == "mix:" + C[:16]
    other = resolve(asked_for("core+sport@0.8", "model"), table, by="request")
    assert not other.reference
    assert other.parts == (("core:" + B[:16], 1.0), ("sport:" + A[:16], 0.8))
    assert other.why_not("core") == ""


def test_a_core_comes_along_unless_the_caller_adds_up_himself():
    with_core = row(A, name="sport", with_core="core", core_weight=0.5)
    table = known(sport=with_core, core=CORE)
    alone = resolve(asked_for("sport", "model"), table, by="request")
    assert alone.parts == (("core:" + B[:16], 0.5), ("sport:" + A[:16], 1.0))
    assert len(resolve(asked_for("sport+core", "model"), table, by="request").parts) == 2


def test_a_weight_of_one_that_is_said_is_no_default():
    table = known(sport=row(A, name="sport", weight=0.5))
    assert resolve(asked_for("sport", "model"), table, by="request").parts[0][1] == 0.5
    assert not resolve(asked_for("sport@1.0", "model"), table, by="request").parts


def test_an_isolated_one_is_never_added():
    table = known(sport=row(A, name="sport", isolated=True), core=CORE)
    with pytest.raises(ConsiliumError) as caught:
        resolve(asked_for("sport+core", "model"), table, by="request")
    assert "isolated" in caught.value.public()


def test_the_first_trigger_in_the_text_calls():
    table = known(sport=SPORT, core=row(B, name="core", triggers=["now:"]))
    assert triggered("now: <|sport|>", table).names[0].startswith("core")
    assert triggered("<|sport|> now:", table).names[0].startswith("sport")
    assert triggered("nothing", table).is_plain


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("", None),
        ("Sport", "no name"),
        ("sport:zz", "no version"),
        ("sport@x", "no weight"),
        ("sport@nan", "no weight"),
        ("sport@11", "no weight"),
        ("sport+sport", "twice"),
        ("+".join(f"a{n}" for n in range(9)), "at most 8"),
        ("../etc", "no name"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_grammar(wrong, why):
    if why is None:
        assert asked_for(wrong, "model") == ()
        return
    with pytest.raises(ConsiliumError) as caught:
        asked_for(wrong, "model")
    assert why in caught.value.public()
    assert caught.value.code == "invalid_request"


def test_rows_that_cannot_be_read_are_left_out():
    table = known(sport=SPORT, bad={"kind": "adapter"}, worse={"kind": "sum", "parts": [["x"]]})
    assert list(table.rows) == ["sport"]
    assert not table.sums


def test_a_list_of_names_is_a_sum():
    assert [part.name for part in asked_for(["a", "b@0.5"], "consilium.adapters")] == ["a", "b"]
    with pytest.raises(ConsiliumError):
        asked_for([1], "consilium.adapters")
    assert adapter_choice.PLAIN.is_plain


def untried(**fits):
    raw = row(A, name="sport", current="-", fits=fits) | {"current": ""}
    raw["versions"][0] |= {"proof": "unproven", "answers": False, "fits": fits}
    return known(sport=raw)


def test_the_way_out_of_one_that_was_not_tried_is_a_command_that_exists():
    with pytest.raises(ConsiliumError) as told:
        resolve(asked_for("sport", "model"), untried(core=""), by="request")
    assert f"'consilium adapters switch sport {A[:8]} --force'" in told.value.public()
    with pytest.raises(ConsiliumError) as told:
        resolve(asked_for(f"sport:{A[:8]}", "model"), untried(core=""), by="request")
    assert f"'consilium adapters switch sport {A[:8]} --force'" in told.value.public()


@pytest.mark.parametrize(
    ("fits", "word"), [({}, "engine.lora"), ({"core": "too wide"}, "too wide")]
)
def test_where_no_engine_can_hold_it_nobody_is_told_to_force_it(fits, word):
    with pytest.raises(ConsiliumError) as told:
        resolve(asked_for("sport", "model"), untried(**fits), by="request")
    assert word in told.value.public()
    assert "--force" not in told.value.public()

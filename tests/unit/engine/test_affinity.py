"""Which replica answers."""

from hypothesis import given
from hypothesis import strategies as st

from consilium.engine.affinity import LoadTable, PrefixTable, Rules, decide

NAMES = st.integers(0, 31).map(lambda i: f"r{i}")
LOADS = st.dictionaries(NAMES, st.floats(0, 500, allow_nan=False), min_size=1, max_size=32)
RULES = Rules(slack=4)


@given(LOADS, st.sets(NAMES), st.floats(0, 64), st.integers(0, 10**6))
def test_a_replica_far_busier_than_the_least_is_never_chosen(loads, holders, slack, turn):
    decision = decide(loads, holders, Rules(slack=slack), turn)
    assert loads[decision.replica] <= min(loads.values()) + slack + 1e-9
    assert sorted(decision.order) == sorted(loads)
    if decision.replica not in holders:
        assert decision.load == min(loads.values())


@given(st.sets(NAMES, min_size=1), st.floats(0, 100), st.data(), st.integers(0, 10**6))
def test_equal_prefixes_stay_together_when_the_load_is_equal(names, load, data, turn):
    holder = data.draw(st.sampled_from(sorted(names)))
    decision = decide(dict.fromkeys(names, load), (holder,), RULES, turn)
    assert decision.replica == holder


@given(LOADS, st.sets(NAMES), st.integers(0, 10**6))
def test_the_decision_says_why(loads, holders, turn):
    decision = decide(loads, holders, RULES, turn)
    assert decision.reason == (
        "only" if len(loads) == 1 else "prefix" if decision.replica in holders else "load"
    )
    assert decision.load == loads[decision.replica]
    assert decision.why()


def test_sentences():
    assert decide({"a": 3}, (), RULES).why() == "the only replica"
    assert (
        decide({"a": 3, "b": 0}, ("a",), RULES).why()
        == "holds the beginning of the prompt; 3 requests here, 0 in the least loaded of 2"
    )
    assert (
        decide({"a": 9, "b": 0}, ("a",), RULES)
        .why()
        .startswith(
            "least loaded; those that hold the beginning of the prompt are too busy; 0 requests here"
        )
    )
    assert (
        decide({"a": 9, "b": 1}, (), RULES).why()
        == "least loaded; 1 requests here, 1 in the least loaded of 2"
    )


def test_equal_replicas_take_turns():
    assert {decide({"a": 0, "b": 0, "c": 0}, (), RULES, turn).replica for turn in range(3)} == {
        "a",
        "b",
        "c",
    }


@given(
    st.lists(st.tuples(st.integers(0, 50).map(str), NAMES), max_size=200),
    st.integers(1, 20),
    st.integers(1, 4),
)
def test_the_prefix_table_is_bounded_and_keeps_the_latest(events, keys, holders):
    table = PrefixTable(Rules(keys=keys, holders=holders))
    for key, replica in events:
        table.saw(key, replica)
        assert table.holders(key)[0] == replica
        assert len(table) <= keys
        assert len(table.holders(key)) <= holders
        assert len(set(table.holders(key))) == len(table.holders(key))


@given(st.lists(st.tuples(st.integers(0, 20).map(str), NAMES), max_size=100), st.sets(NAMES))
def test_a_dead_replica_is_forgotten(events, alive):
    prefixes, loads = PrefixTable(Rules()), LoadTable()
    for key, replica in events:
        prefixes.saw(key, replica)
        loads.sent(replica, 0.0)
    prefixes.keep_only(alive)
    loads.keep_only(alive)
    for key, _ in events:
        assert set(prefixes.holders(key)) <= alive
    dead = {replica for _, replica in events} - alive
    assert all(load == 0 for load in loads.loads(sorted(dead), 0.0).values())


def test_no_key_is_nobodys_prefix():
    table = PrefixTable(Rules())
    table.saw("", "a")
    assert len(table) == 0


def test_the_table_refreshes_what_is_used():
    table = PrefixTable(Rules(keys=2))
    for key in ("a", "b", "a", "c"):
        table.saw(key, "r")
    assert table.holders("a") == ("r",)
    assert table.holders("b") == ()


@given(st.lists(st.sampled_from(["sent", "done"]), max_size=60))
def test_own_requests_are_counted_and_never_negative(events):
    loads, expected = LoadTable(), 0
    for event in events:
        if event == "sent":
            loads.sent("r", 0.0)
            expected += 1
        else:
            loads.done("r")
            expected = max(0, expected - 1)
    assert loads.loads(["r"], 0.0) == {"r": expected}


def test_other_callers_count_while_the_news_is_fresh():
    loads = LoadTable()
    loads.sent("r", 0.0)
    loads.told("r", 10, 0.0)
    assert loads.loads(["r", "new"], 1.0) == {"r": 10, "new": 0}
    loads.done("r")
    assert loads.loads(["r"], 1.0) == {"r": 9}
    assert loads.loads(["r"], 6.0) == {"r": 0}


def test_our_own_finished_requests_never_look_like_somebody_elses():
    loads = LoadTable()
    for _ in range(32):
        loads.sent("r", 0.0)
    for _ in range(32):
        loads.done("r")
    loads.heard("r", 32, 1.5)
    assert loads.loads(["r"], 1.5) == {"r": 0}
    loads.heard("r", 32, 9.0)
    assert loads.loads(["r"], 9.0) == {"r": 32}, "long after, they are somebody else's"


def test_a_count_of_this_moment_is_better_than_an_old_one():
    loads = LoadTable()
    loads.told("r", 3, 10.0)
    loads.heard("r", 50, 10.5)
    assert loads.loads(["r"], 10.5) == {"r": 3}


def test_a_burst_sees_what_was_decided_before_it_is_sent():
    loads, chosen = LoadTable(), []
    for number in range(12):
        decision = decide(loads.loads(["a", "b"], 0.0), (), RULES, turn=0)
        loads.promised(f"request-{number}", decision.replica, 0.0)
        chosen.append(decision.replica)
    assert chosen.count("a") == 6


def test_a_promise_is_kept_replaced_or_forgotten():
    loads = LoadTable()
    loads.promised("one", "a", 0.0)
    loads.promised("one", "b", 0.1)
    assert loads.loads(["a", "b"], 0.2) == {"a": 0, "b": 1}, "a new decision replaces the old one"
    loads.sent("b", 0.3)
    assert loads.loads(["b"], 0.4) == {"b": 1}, "it counts once when it is sent"
    loads.promised("two", "a", 0.5)
    assert loads.loads(["a"], 2.0) == {"a": 0}, "its caller went away"
    loads.promised("three", "a", 2.0)
    loads.keep_only(["b"])
    loads.promised("three", "b", 2.1)
    assert loads.loads(["a", "b"], 2.2) == {"a": 0, "b": 2}


def test_a_replica_that_has_the_adapter_is_worth_a_few_requests():
    loads = {"a": 2, "b": 0, "c": 0}
    in_slot = decide(loads, (), RULES, 0, {"a": "slot"})
    assert (in_slot.replica, in_slot.reason) == ("a", "adapter")
    assert "in a slot" in in_slot.why()
    assert decide({"a": 9, "b": 0}, (), RULES, 0, {"a": "slot"}).replica == "b"
    assert decide({"a": 4, "b": 0}, (), RULES, 0, {"a": "ram"}).replica == "b"
    assert decide({"a": 1, "b": 0}, (), RULES, 0, {"a": "ram", "b": "slot"}).replica == "b"
    assert decide({"a": 1, "b": 0}, ("a",), RULES, 0, {"b": "ram"}).replica == "a"

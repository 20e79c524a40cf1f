"""The board: what is started when, what follows a crash, when a part is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.supervisor.parts import OURS
from consilium.supervisor.states import (
    BACKOFF_LIMIT_S,
    CALM_S,
    FIRST_TRIES,
    MOVES,
    PATIENCE_S,
    Board,
    MoveRefusedError,
    Part,
    PartState,
    backoff_s,
    ending_order,
)

REDIS, RAY = Part("redis"), Part("ray")
ENGINE = Part("engine", needs=("ray",), lives=False, within=("ray",))
GATEWAY = Part("gateway", needs=("ray", "redis", "engine"), lives=False, within=("ray",))


def board() -> Board:
    return Board((REDIS, RAY, ENGINE, GATEWAY), 0.0)


def bring_up(parts: Board, now: float = 1.0) -> None:
    while due := parts.due(now):
        for name in due:
            parts.started(name, now)
            parts.ready(name, now)


def test_redis_and_ray_start_side_by_side_and_the_rest_waits() -> None:
    parts = board()
    assert parts.due(0.0) == ("redis", "ray")


def test_a_part_starts_when_all_that_it_needs_is_up() -> None:
    parts = board()
    parts.started("ray", 0.0)
    parts.ready("ray", 1.0)
    assert parts.due(1.0) == ("redis", "engine")


def test_all_up_ends_the_first_start() -> None:
    parts = board()
    bring_up(parts)
    assert parts.is_up()
    assert parts.was_up


def test_when_ray_goes_everything_on_it_is_deployed_again() -> None:
    parts = board()
    bring_up(parts)
    parts.lost("ray", 5.0, "killed")
    assert {live.part.name: live.state for live in parts.all()} == {
        "redis": PartState.UP,
        "ray": PartState.CRASHED,
        "engine": PartState.WAITING,
        "gateway": PartState.WAITING,
    }
    assert parts.due(5.1) == ()
    assert parts.due(5.5) == ("ray",)
    bring_up(parts, 6.0)
    assert parts.is_up()
    assert parts["engine"].restarts == 1


def test_when_redis_goes_only_redis_starts_again() -> None:
    parts = board()
    bring_up(parts)
    parts.lost("redis", 5.0, "killed")
    assert parts["gateway"].state is PartState.UP
    assert parts.next_at() == 5.5


def test_a_part_is_given_up_after_three_failures_of_the_first_start() -> None:
    parts = board()
    now = 0.0
    for _ in range(FIRST_TRIES):
        now += 60.0
        parts.started("redis", now)
        parts.lost("redis", now, "no")
    failed = parts.failed()
    assert failed is not None
    assert failed.part.name == "redis"


def test_a_mistake_in_the_configuration_is_given_up_at_once() -> None:
    parts = board()
    parts.started("redis", 0.0)
    parts.lost("redis", 0.1, "unknown key", fatal=True)
    assert parts.failed() is not None


def test_a_cluster_that_was_up_never_gives_up() -> None:
    parts = board()
    bring_up(parts)
    now = 10.0
    for _ in range(20):
        parts.lost("redis", now, "no")
        now += BACKOFF_LIMIT_S
        parts.started("redis", now)
    assert parts.failed() is None


def test_a_calm_part_starts_its_backoff_from_the_beginning() -> None:
    parts = board()
    bring_up(parts)
    for now in (10.0, 20.0, 30.0):
        parts.lost("redis", now, "no")
        parts.started("redis", now + 5)
        parts.ready("redis", now + 5)
    assert parts["redis"].failures == 3
    parts.lost("redis", 35.0 + CALM_S, "no")
    assert parts["redis"].failures == 1


def test_a_silent_part_is_not_a_crash() -> None:
    parts = board()
    bring_up(parts)
    parts.silent("gateway", 9.0, "does not answer")
    assert (parts["gateway"].state, parts["gateway"].down_at) == (PartState.SILENT, 9.0)
    assert not parts.is_up()
    parts.unready("gateway", 9.5, "it says that it is not ready")
    assert (parts["gateway"].state, parts["gateway"].down_at) == (PartState.STARTING, 9.0)
    assert parts["gateway"].failures == 0
    parts.ready("gateway", 10.0)
    assert parts.is_up()


def test_stopping_ends_in_stopped() -> None:
    parts = board()
    parts.started("redis", 0.0)
    parts.stopping(1.0)
    assert parts["ray"].state is PartState.STOPPED
    parts.stopped("redis", 2.0)
    assert parts["redis"].state is PartState.STOPPED


def test_a_move_that_does_not_follow_is_a_fault() -> None:
    with pytest.raises(MoveRefusedError, match="waiting -> up"):
        board().ready("redis", 0.0)


def test_a_need_that_is_no_part_is_a_fault() -> None:
    with pytest.raises(ValueError, match="valkey"):
        Board((Part("gateway", needs=("valkey",)),), 0.0)


@given(st.integers(0, 100))
def test_backoff_grows_and_is_bounded(failures: int) -> None:
    assert 0 < backoff_s(failures) <= backoff_s(failures + 1) <= BACKOFF_LIMIT_S


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "ready", "lost", "silent", "unready"]),
            st.sampled_from(["redis", "ray", "engine", "gateway"]),
            st.floats(0.0, 40.0),
        ),
        max_size=60,
    )
)
def test_no_order_of_events_leaves_the_table_of_moves(events: list[tuple[str, str, float]]) -> None:
    """Whatever happens in whatever order: allowed moves succeed, others are refused, and a part on Ray is never up without Ray."""
    parts, now = board(), 0.0
    act = {
        "start": lambda name: parts.started(name, now) if name in parts.due(now) else None,
        "ready": lambda name: parts.ready(name, now),
        "lost": lambda name: parts.lost(name, now, "lost"),
        "silent": lambda name: parts.silent(name, now, "silent"),
        "unready": lambda name: parts.unready(name, now, "not ready"),
    }
    for what, name, passed in events:
        now += passed
        before = parts[name].state
        try:
            act[what](name)
        except MoveRefusedError:
            assert parts[name].state is before
        else:
            assert parts[name].state is before or parts[name].state in MOVES[before]
        if parts["ray"].state in {PartState.CRASHED, PartState.FAILED, PartState.WAITING}:
            assert parts["engine"].state is not PartState.UP
            assert parts["gateway"].state is not PartState.UP


def test_the_order_of_ending_names_every_part_once_and_ends_needs_last() -> None:
    groups = ending_order(OURS)
    at = {name: number for number, group in enumerate(groups) for name in group}
    assert sorted(name for group in groups for name in group) == sorted(part.name for part in OURS)
    for part in OURS:
        for need in (*part.needs, *part.within):
            assert at[part.name] < at[need]


def test_what_claims_work_ends_before_all_else_with_what_stands_on_it() -> None:
    jobs = Part("jobs", needs=("redis", "gateway"), vital=False, claims=True)
    above = Part("night", needs=("jobs",), vital=False)
    aside = Part("aside", vital=False)
    groups = ending_order((REDIS, RAY, ENGINE, GATEWAY, aside, jobs, above))
    assert groups[:2] == (("night",), ("jobs",))
    assert "aside" in groups[2]


def test_parts_that_need_each_other_are_a_fault() -> None:
    with pytest.raises(ValueError, match="need each other: a, b"):
        ending_order((Part("a", needs=("b",)), Part("b", needs=("a",))))


LIBRARY = Part("library", needs=("redis",), vital=False)


def with_library() -> Board:
    return Board((REDIS, RAY, LIBRARY), 0.0)


def test_a_part_that_is_not_vital_is_tried_for_ever_and_fails_no_start() -> None:
    parts, now = with_library(), 1.0
    bring_up_but(parts, "library", now)
    for _ in range(FIRST_TRIES + 3):
        parts.started("library", now)
        parts.lost("library", now, "no")
        now += BACKOFF_LIMIT_S
        assert parts.due(now) == ("library",)
    assert parts.failed() is None
    assert parts.is_up()
    assert not parts.is_whole()
    assert parts["library"].why == "no"


def bring_up_but(parts: Board, left_out: str, now: float) -> None:
    while due := tuple(name for name in parts.due(now) if name != left_out):
        for name in due:
            parts.started(name, now)
            parts.ready(name, now)


def test_the_first_start_waits_a_moment_for_what_is_not_vital() -> None:
    parts = with_library()
    bring_up_but(parts, "library", 1.0)
    assert parts.was_up
    assert not parts.is_settled(1.0)
    assert parts.is_settled(1.0 + PATIENCE_S)
    parts.started("library", 1.5)
    assert not parts.is_settled(1.5)
    parts.ready("library", 2.0)
    assert parts.is_settled(2.0)


def test_it_does_not_wait_for_one_that_has_fallen() -> None:
    parts = with_library()
    bring_up_but(parts, "library", 1.0)
    parts.started("library", 1.1)
    parts.lost("library", 1.2, "no")
    assert parts.is_settled(1.2)


def test_a_mistake_in_the_configuration_is_not_tried_again_until_that_changes() -> None:
    parts = with_library()
    bring_up_but(parts, "library", 1.0)
    parts.started("library", 1.0)
    parts.lost("library", 1.1, "unknown key", fatal=True)
    assert parts["library"].state is PartState.FAILED
    assert parts.failed() is None
    assert parts.due(1000.0) == ()
    parts.reconsider(1001.0)
    assert parts.due(1001.0) == ("library",)


def test_since_when_a_part_is_down_and_why_outlives_the_tries() -> None:
    parts = with_library()
    bring_up(parts)
    assert (parts["library"].down_at, parts["library"].why) == (0.0, "")
    parts.lost("library", 7.0, "killed")
    parts.started("library", 8.0)
    assert (parts["library"].down_at, parts["library"].why) == (7.0, "killed")
    parts.ready("library", 9.0)
    assert (parts["library"].down_at, parts["library"].why) == (0.0, "")


def test_what_is_vital_stands_on_nothing_that_may_be_down() -> None:
    with pytest.raises(ValueError, match="may be down"):
        Board((LIBRARY, REDIS, Part("core", needs=("library",))), 0.0)


def test_a_part_that_waits_for_one_that_is_down_is_not_due_and_keeps_nobody_awake() -> None:
    parts = with_library()
    bring_up(parts)
    parts.lost("redis", 5.0, "killed")
    parts.lost("library", 5.0, "killed")
    parts.started("redis", 6.0)
    assert parts.next_at() is None
    assert parts.missing("library") == ("redis",)

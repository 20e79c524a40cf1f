"""When a part has been silent for too long."""

from __future__ import annotations

from consilium.supervisor.silence import LEAST_FAILURES, SHOWN_AFTER, SHOWN_S, START_S, Silence

LIMIT_S = 15.0


def silent(since: float = 100.0, *, answered: bool = True) -> Silence:
    silence = Silence(since, answered=answered)
    for _ in range(LEAST_FAILURES):
        silence.note(since + 1.0, ok=False)
    return silence


def test_it_is_over_once_the_limit_has_passed_since_the_last_answer() -> None:
    silence = silent()
    assert not silence.is_over(114.9, LIMIT_S)
    assert silence.is_over(115.0, LIMIT_S)


def test_an_answer_begins_it_anew() -> None:
    silence = silent()
    silence.note(114.0, ok=True)
    assert not silence.is_over(120.0, LIMIT_S)
    assert silence.failures == 0


def test_a_part_that_never_answered_has_longer_because_it_imports_first() -> None:
    silence = silent(answered=False)
    assert not silence.is_over(100.0 + LIMIT_S, LIMIT_S)
    assert silence.is_over(100.0 + START_S, LIMIT_S)


def test_a_supervisor_that_stood_still_has_heard_nothing_either() -> None:
    silence = Silence(100.0, answered=True)
    assert not silence.is_over(10_000.0, LIMIT_S)
    silence.note(10_000.0, ok=False)
    assert not silence.is_over(10_000.0, LIMIT_S)


def test_without_a_limit_it_is_never_over() -> None:
    assert not silent().is_over(1e9, None)


def test_a_part_is_shown_as_silent_after_a_few_probes() -> None:
    silence = Silence(0.0, answered=True)
    for number in range(SHOWN_AFTER):
        assert not silence.is_shown(), number
        silence.note(1.0, ok=False)
    assert silence.is_shown()


def test_a_part_that_says_that_it_is_not_ready_yet_is_not_silent() -> None:
    silence = Silence(100.0)
    for now in range(101, 701):  # migrations may take ten minutes
        silence.note(float(now), ok=False, heard=True)
        assert not silence.is_over(float(now), LIMIT_S), now
    assert silence.is_shown()
    for _ in range(LEAST_FAILURES):
        silence.note(701.0, ok=False)
    assert not silence.is_over(700.0 + LIMIT_S, LIMIT_S)
    assert silence.is_over(700.0 + START_S, LIMIT_S)


def test_a_question_that_waits_for_its_answer_makes_a_part_silent() -> None:
    silence = Silence(100.0, answered=True)
    silence.waits(110.0)
    silence.waits(111.0)
    assert not silence.is_silent(110.0 + SHOWN_S - 0.1)
    assert silence.is_silent(110.0 + SHOWN_S)
    silence.note(113.0, ok=False, asked=110.0)
    assert silence.is_silent(113.0)
    silence.note(114.0, ok=True)
    assert not silence.is_silent(200.0)


def test_where_nobody_listens_two_refused_connections_are_enough() -> None:
    silence = Silence(100.0, answered=True)
    silence.note(100.1, ok=False)
    assert not silence.is_silent(100.2)
    silence.note(100.3, ok=False)
    assert silence.is_silent(100.3)
    assert silence.owed == 100.1


def test_a_part_that_says_for_ever_that_it_is_not_ready_is_stuck() -> None:
    silence = Silence(100.0)
    for now in (100.0, 500.0, 999.0):
        silence.note(now, ok=False, heard=True)
    assert not silence.is_stuck(999.0, 900.0)
    assert silence.is_stuck(1000.0, 900.0)
    assert not silence.is_stuck(1000.0, None)
    silence.note(1000.0, ok=True)
    assert not silence.is_stuck(5000.0, 900.0)

"""Two starts at the same time, in two processes: no port is drawn twice, and what was claimed stays claimed in whoever inherits it."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from consilium.kernel.ports import TABLE, Claims, allot_and_claim, is_open, numbers

# Both wait for the starting line, then draw from the same ports; one line of numbers, then they hold on until they are told to end.
DRAW: Final = """
import random, sys
from consilium.kernel import ports
ports.LOWEST, ports.HIGHEST = int(sys.argv[1]), int(sys.argv[2])
ports._DICE = random.Random(5)  # both throw alike: what one draws, the other draws too
print("ready", flush=True)
sys.stdin.readline()
drawn, claims = ports.allot_and_claim({})
print(*ports.numbers(drawn), flush=True)
sys.stdin.readline()
"""
ROUNDS = 5


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_two_draws_that_race_share_no_port(round_: int) -> None:
    lowest = 12_000 + 4000 * round_
    words = (sys.executable, "-c", DRAW, str(lowest), str(lowest + 3900))
    racing = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in racing:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in racing:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        drawn = [set(process.stdout.readline().split()) for process in racing if process.stdout]
    finally:
        for process in racing:
            process.communicate("\n", timeout=60)
    assert len(drawn[0]) == len(drawn[1]) == sum(place.count for place in TABLE)
    assert not drawn[0] & drawn[1]


def test_every_port_stays_claimed_in_the_process_that_inherits_the_claims() -> None:
    ports, claims = allot_and_claim({})
    every = numbers(ports)
    with claims:
        heir = subprocess.Popen(
            (sys.executable, "-c", "import sys; sys.stdin.readline()"),
            stdin=subprocess.PIPE,
            pass_fds=claims.descriptors(),
        )
    try:
        assert not any(is_open(port) for port in every)
    finally:
        heir.communicate(b"\n", timeout=60)
    assert all(is_open(port) for port in every)


def test_claims_are_all_or_none() -> None:
    ports, claims = allot_and_claim({})
    every = sorted(numbers(ports))
    claims.close()
    with Claims(every[-1:]):
        with pytest.raises(OSError, match="in use"):
            Claims(every)
        assert is_open(every[0])


def test_a_start_that_was_quicker_is_seen_in_the_next_round() -> None:
    drawn, claims = allot_and_claim({})
    held = numbers(drawn)
    rounds = []

    def draw(*_: object, **__: object) -> dict[str, int]:
        rounds.append(len(rounds))
        return drawn if len(rounds) == 1 else {"http": free}

    other, more = allot_and_claim({})
    free = other["http"]
    more.close()
    with claims:
        ports, mine = allot_and_claim({}, draw=draw)
        mine.close()
    assert rounds == [0, 1]
    assert ports["http"] not in held

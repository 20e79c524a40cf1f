"""What the room knows of one replica: its last report, what it was asked for, and when that is asked for again.

A move can be lost on its way, be under way, or be done and change nothing: each is asked again after its own time, so that nothing is forgotten and nothing goes round in
circles. Pure but for the times it is given. Does not know what is wanted of the replica.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from consilium.lora_router.reports import MoveKind, Report

What: TypeAlias = tuple[MoveKind, str]
"""Kind of a move, and the reference that it is about."""

LONGEST_WAIT_S: Final = 30.0
SILENT_S: Final = 75.0
"""A replica that has said nothing for so long is gone: two polls and a half."""
LOST_S: Final = 10.0
"""A replica whose connection has ended, and that has not come back within so long, is gone: it asks again within two seconds."""
QUIET_S: Final = LONGEST_WAIT_S + 5.0
"""A replica that has said nothing for so long may be gone: it is told as silent."""
AGAIN_S: Final = 60.0
"""After so long a move that is neither done nor to be seen is asked for once more."""
UNHEARD_S: Final = 2.0
"""After so long a move that the replica does not know of has been lost on its way, and is sent again."""
VAIN_S: Final = 5.0
"""A move that was done and changed nothing is asked for again no sooner."""


@dataclass(slots=True)
class Asked:
    """A move that was sent.

    at        when, or when it was last told as being done
    is_heard  whether the replica has said that it arrived
    """

    number: int
    at: float
    is_heard: bool = False


@dataclass(slots=True)
class Replica:
    """One replica.

    heard     when it last spoke
    lost      when its connection ended, None = it has one
    asked     moves that were sent and are not done
    ended     when moves were done, for a moment
    failures  reference -> why it could not be loaded there
    failed    reference -> when that was told last
    config    config.json of its model, which it tells once; "" = not told
    """

    report: Report
    heard: float
    lost: float | None = None
    asked: dict[What, Asked] = field(default_factory=dict)
    ended: dict[What, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)
    config: str = ""

    def silent_from(self, now: float) -> float | None:
        """Return since when it has said nothing, or None if it is there."""
        if self.lost is not None:
            return self.lost
        return self.heard if now - self.heard > QUIET_S else None

    def is_gone(self, now: float) -> bool:
        """Return whether nobody waits for it any more."""
        return now - self.heard > SILENT_S or (self.lost is not None and now - self.lost > LOST_S)

    def begins_anew(self, report: Report) -> bool:
        """Return whether a report is the first one of another life: it knows of nothing."""
        return report.version == 0 and self.report.version != 0

    def hear(self, done: Collection[int], doing: Collection[int], now: float) -> None:
        """Take note of the moves that it has done, and of those that it does."""
        self.ended |= {what: now for what, each in self.asked.items() if each.number in done}
        self.ended = {what: at for what, at in self.ended.items() if now - at < VAIN_S}
        self.asked = {what: each for what, each in self.asked.items() if each.number not in done}
        for each in self.asked.values():
            if each.number in doing:
                each.at, each.is_heard = now, True

    def give_up(self, wanted: Collection[What], now: float) -> bool:
        """Forget moves that are wanted no more and never came to be done, for nobody sends them again; return whether there were any.

        Of a replica that does not tell what it does nothing is forgotten: it may be at it.
        """
        lost = [
            what
            for what, each in self.asked.items()
            if self.report.tells_doing
            and what not in wanted
            and now - each.at >= (AGAIN_S if each.is_heard else UNHEARD_S)
        ]
        for what in lost:
            del self.asked[what]
        return bool(lost)

    def fail(self, reference: str, why: str, now: float) -> None:
        """Take note that a version could not be loaded."""
        self.failures[reference], self.failed[reference] = why, now

    def rests(self, reference: str, now: float) -> bool:
        """Say whether a version could not be loaded lately: its disk may answer again, so it is asked for anew after a while."""
        return reference in self.failures and now - self.failed.get(reference, now) < AGAIN_S

    def loads(self, reference: str) -> None:
        """Take note that nothing is known against a version any more."""
        self.failures.pop(reference, None)
        self.failed.pop(reference, None)

    def forgive(self, references: Collection[str]) -> None:
        """Let what was done in vain for these be asked for at once."""
        self.ended = {what: at for what, at in self.ended.items() if what[1] not in references}

    def ask(self, what: What, now: float, number: int) -> int:
        """Return the number under which a move is to be sent now, or 0 if it is not yet time for it.

        number  of a new move; one that was lost on its way keeps its own
        """
        asked = self.asked.get(what)
        is_lost = asked is not None and self.report.tells_doing and not asked.is_heard
        if asked is not None and now - asked.at < (UNHEARD_S if is_lost else AGAIN_S):
            return 0
        if now - self.ended.get(what, -VAIN_S) < VAIN_S:
            return 0
        if asked is None or not is_lost:
            asked = self.asked[what] = Asked(number, now)
        asked.at = now
        return asked.number

    def next_again(self, now: float) -> float:
        """Return the seconds until the next move counts as lost, if nothing is heard of it, or may be asked for once more."""
        again = [at + VAIN_S for at in self.ended.values()]
        if self.report.tells_doing:
            again += [each.at + UNHEARD_S for each in self.asked.values() if not each.is_heard]
        return min((at - now for at in again if at > now), default=LONGEST_WAIT_S)

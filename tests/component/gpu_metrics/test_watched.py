"""The child that reads the cards: started again, soon where it had read something."""

import json
import subprocess
import sys
import time

from tests.waiting import until

from consilium.gpu_metrics import watched as watched_module
from consilium.gpu_metrics.samples import Sample, to_plain
from consilium.gpu_metrics.watched import MOST_LEFT, Watched


def test_a_child_that_has_read_and_ended_is_started_again_after_the_shortest_pause():
    """And not after the longest: until then the last sample would be told as old."""
    line = json.dumps(to_plain(Sample(at=1.0)))
    watched = Watched(pauses_s=(0.01, 600.0), command=(sys.executable, "-c", f"print({line!r})"))
    watched.start()
    try:
        until(lambda: watched.seen().restarts >= 2)
        assert watched.seen().sample == Sample(at=1.0)
    finally:
        watched.stop()


def test_a_child_that_reads_seldom_is_not_taken_for_one_that_hangs():
    line = json.dumps(to_plain(Sample(at=1.0)))
    reads = f"import time\nwhile True:\n    print({line!r}, flush=True)\n    time.sleep(1)"
    watched = Watched(period_s=60.0, silent_s=0.6, pauses_s=(0.01,), command=(sys.executable, "-c", reads))  # fmt: skip
    watched.start()
    try:
        until(lambda: watched.seen().sample)
        for _ in range(25):
            assert watched.seen().answers
            time.sleep(0.1)
        assert watched.seen().restarts == 0
    finally:
        watched.stop()


def test_children_that_cannot_be_ended_are_left_and_only_so_many_are_started(monkeypatch):
    """One that hangs in the driver does not heed a SIGKILL before the driver lets it go."""
    made = []

    class Stuck(subprocess.Popen):
        kill = lambda _: None  # noqa: E731

        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            made.append(self)

    monkeypatch.setattr(watched_module.subprocess, "Popen", Stuck)
    watched = Watched(period_s=0.0, silent_s=0.2, pauses_s=(0.01,), command=(sys.executable, "-c", "import time; time.sleep(60)"))  # fmt: skip
    watched.start()
    try:
        until(lambda: watched.seen().left == MOST_LEFT)
        time.sleep(0.3)
        assert len(made) == MOST_LEFT
        assert watched.seen().restarts == MOST_LEFT - 1, "a pause is no start"
        assert not watched.seen().answers
        made[0].terminate()
        until(lambda: len(made) == MOST_LEFT + 1)
    finally:
        watched.stop()
        for child in made:
            child.terminate()
            child.wait(60)
            child.stdout.close()

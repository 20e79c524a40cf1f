"""The child that reads the cards: started again, soon where it had read something."""

import json
import sys

from tests.waiting import until

from consilium.gpu_metrics.samples import Sample, to_plain
from consilium.gpu_metrics.watched import Watched


def test_a_child_that_has_read_and_ended_is_started_again_after_the_shortest_pause():
    """And not after the longest: until then the last sample would be told as old."""
    line = json.dumps(to_plain(Sample(at=1.0)))
    watched = Watched(pauses_s=(0.01, 600.0), command=(sys.executable, "-c", f"print({line!r})"))
    watched.start()
    try:
        until(lambda: watched.seen().restarts >= 2, 30)
        assert watched.seen().sample == Sample(at=1.0)
    finally:
        watched.stop()

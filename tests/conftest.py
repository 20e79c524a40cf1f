"""What holds for all tests: how Hypothesis works here.

It judges no time: a clean clone builds its tables of characters in the first example, on a busy machine. And it tries the same examples each time, so that
a change is what makes a test fail. To look for new ones: HYPOTHESIS_PROFILE=explore.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile(
    "explore", parent=settings.get_profile("house"), derandomize=False, max_examples=1000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))

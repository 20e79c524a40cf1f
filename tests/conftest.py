"""What holds for all tests: how Hypothesis judges time. It must not: a clean clone builds its tables of characters in the first example, on a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

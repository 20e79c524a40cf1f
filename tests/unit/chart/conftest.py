"""One render for each preset and for the chart's own values, shared by every test here."""

import helm_python
import pytest
from tests.unit.chart import rendered

EVERY = ("default", *rendered.PRESETS)


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    """Without Helm's own log: a chart that refuses is what many tests want."""
    helm_python.disable_logging()


@pytest.fixture(scope="session", params=EVERY)
def every(request) -> rendered.Render:
    """The chart's own values, and each preset."""
    return rendered.preset(request.param)


@pytest.fixture(scope="session", params=EVERY)
def every_name(request) -> str:
    """The name for `rendered.preset`."""
    return request.param


@pytest.fixture(scope="session")
def default() -> rendered.Render:
    return rendered.preset("default")

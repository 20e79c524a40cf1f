"""The operators' schemas that the chart's tests keep are those of the pinned versions."""

from tests.unit.chart import crds


def test_the_kept_schemas_are_those_of_the_pins():
    assert crds.kept() == crds.made(), "python -m tests.unit.chart.crds"

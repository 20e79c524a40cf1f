"""The exporter's page and its table hold the same metrics, with the same labels, and `consilium metrics catalogue` names them all."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consilium.cli.metrics import catalogue
from consilium.gpu_metrics.attribution import Owner
from consilium.gpu_metrics.exposition import Reading, page
from consilium.gpu_metrics.pods import Container, Pods
from consilium.gpu_metrics.ports import TABLE
from consilium.gpu_metrics.samples import Card, Link, Process, Sample

WHOLE = Card(
    0, "GPU-a", "RTX", "0000:01:00.0", 0, memory_total=4, memory_used=1, memory_free=2, memory_reserved=1, utilization=0.5, memory_utilization=0.25,
    power=300.5, power_limit=350, energy=12.5, fan=0.5, temperatures={"gpu": 70}, clocks={"sm": 1e9}, throttled={"power_brake": False},
    throttled_s={"power_brake": 1.5}, ecc={"corrected": 1}, xid={"79": 1}, xid_at=1000.5, link=Link(4, 4, 16, 16, 1e6, 2e6), replays=1,
    remapped={"pending": 1}, nvlinks=4, processes=(Process(7, 5),),
)  # fmt: skip
EVERYTHING = page(
    Sample(1.0, "580", (WHOLE, Card(1, "GPU-b", lost=True))),
    Reading(
        True, 0.5, 1, 1, Pods(True, (Container("lab", "p", "main", ("GPU-a",)),)), (0.3, "EUR")
    ),
    lambda _: Owner("core", "7"),
)
KNOWN = {row["name"]: row for row in catalogue()}


def told():
    """Return name -> the labels of its samples."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(EVERYTHING)
        for sample in family.samples
    }


def test_every_row_of_the_table_is_on_a_page_that_has_everything_and_nothing_else_is():
    assert told().keys() == {family.name for family in TABLE}


@pytest.mark.parametrize("family", TABLE, ids=lambda family: family.name)
def test_a_metric_has_the_labels_of_its_row_and_stands_in_the_catalogue(family):
    assert told()[family.name] == set(family.labels)
    row = KNOWN[family.name]
    assert (row["type"], set(row["labels"])) == (family.kind, set(family.labels))
    assert family.name.endswith("_total") == (family.kind == "counter")


def test_what_replicas_say_of_their_cards_stands_in_the_catalogue_too():
    assert KNOWN["consilium_engine_gpu_info"]["labels"] == ["executor", "replica", "uuid"]


def test_what_nobody_asked_for_is_not_told():
    said = page(Sample(1.0, cards=(WHOLE,)), Reading(True, 0.5), lambda _: Owner())
    for name in ("kubelet_up", "pod_info", "electricity_price"):
        assert f"consilium_gpu_{name}" not in said

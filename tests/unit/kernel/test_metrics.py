import gzip
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consilium.kernel import metrics
from consilium.kernel.metrics import Metrics


def test_names_say_service_noun_and_unit():
    for row in metrics.TABLE:
        assert re.fullmatch(
            r"consilium_(gateway|engine|embedding|lora|metrics|room)(_[a-z0-9]+)+", row.name
        )
        assert row.name.endswith("_total") == (row.kind == "counter")
        assert row.name.endswith("_seconds") == (row.kind == "histogram")
        assert bool(row.buckets) == (row.kind == "histogram")
        assert list(row.buckets) == sorted(set(row.buckets))
        assert row.help.endswith(".")
        assert bool(row.named) == bool(row.most)
        assert not row.named or row.named in row.labels
    assert len(metrics.BY_NAME) == len(metrics.TABLE)


def test_values_come_out_as_they_went_in():
    ours = Metrics()
    ours.add("consilium_gateway_requests_total", route="chat", code="200", executor="core")
    ours.add("consilium_gateway_requests_total", 2, route="chat", code="200", executor="core")
    ours.add("consilium_gateway_inflight_requests", executor="core")
    ours.add("consilium_gateway_inflight_requests", -1, executor="core")
    ours.set("consilium_gateway_redis_up", 1)
    ours.observe("consilium_engine_router_decision_seconds", 0.00003, reason="load")
    page = ours.page()
    assert 'consilium_gateway_requests_total{code="200",executor="core",route="chat"} 3.0' in page
    assert 'consilium_gateway_inflight_requests{executor="core"} 0.0' in page
    assert "consilium_gateway_redis_up 1.0" in page
    assert 'consilium_engine_router_decision_seconds_bucket{le="5e-05",reason="load"} 1.0' in page
    assert "rejected" not in page, "what was never counted is not shown"


def test_the_table_is_the_only_source_of_names_and_labels():
    ours = Metrics()
    with pytest.raises(KeyError):
        ours.add("consilium_gateway_wishes_total")
    with pytest.raises(ValueError, match="has the labels reason, not cause"):
        ours.add("consilium_gateway_rejected_total", cause="queue_full")


def test_label_values_are_bounded():
    ours = Metrics(most_series=3)
    for number in range(10):
        ours.add("consilium_gateway_rejected_total", reason=f"r{number}")
    ours.add("consilium_gateway_rejected_total", reason="r0")
    page = ours.page()
    assert 'consilium_gateway_rejected_total{reason="other"} 7.0' in page
    assert 'consilium_gateway_rejected_total{reason="r0"} 2.0' in page


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", ""),
        ("identity", ""),
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0, deflate", ""),
        ("br, x-gzip-like", ""),
    ],
)
def test_a_page_is_packed_for_those_who_take_it(accepted, encoding):
    body, chosen = metrics.packed("consilium_x 1\n" * 100, accepted)
    assert chosen == encoding
    assert (gzip.decompress(body) if encoding else body) == b"consilium_x 1\n" * 100


def test_a_page_of_everything_is_what_prometheus_reads_with_a_meaning_and_no_series_twice():
    ours = Metrics()
    for row in metrics.TABLE:
        write = {"counter": ours.add, "gauge": ours.set, "histogram": ours.observe}[row.kind]
        for value in ("a", 'b"\\\n'):
            write(row.name, 1.0, **dict.fromkeys(row.labels, value))
    families = list(text_string_to_metric_families(ours.page()))
    assert {f"{one.name}_total" if one.type == "counter" else one.name for one in families} == set(
        metrics.BY_NAME
    )
    assert all(one.documentation and one.type != "unknown" for one in families)
    series = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for one in families
        for sample in one.samples
    ]
    assert len(series) == len(set(series))

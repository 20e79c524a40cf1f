"""Expressions of dashboards and rules: they parse, ask for metrics that there are with labels that these have, and reckon soundly."""

import importlib.util
import re
from pathlib import Path

import promql_parser as promql
import pytest
from tests.unit.gpu_metrics.queries import (
    SCRAPED,
    Query,
    by_file,
    known,
    labels_asked,
    metrics,
    name_of,
    selectors,
    walked,
)

from consilium.gpu_metrics import boards

EVERY = pytest.mark.parametrize("name", sorted(by_file()))
RATES = {"rate", "increase", "irate", "resets"}
SHOWN_WHOLE = {"consilium_gpu_xid_errors_total"}
"""Counters that are born with their first event, which a rate does not see, and of which that one matters."""


@EVERY
def test_it_parses(name):
    for query in by_file()[name]:
        assert query.expr is not None, query.place


@EVERY
def test_it_asks_for_metrics_that_there_are(name):
    for query in by_file()[name]:
        unknown = metrics(query.expr) - known().keys()
        assert not unknown, (
            f"{query.place}: neither in the catalogue nor in other_metrics.json: {sorted(unknown)}"
        )


@EVERY
def test_it_asks_for_labels_that_they_have(name):
    for query in by_file()[name]:
        asked_of = [known()[name] for name in metrics(query.expr)]
        for selector, _ in selectors(query.expr):
            labels = known()[name_of(selector)].labels
            if labels is not None:
                asked = {matcher.name for matcher in selector.matchers.matchers}
                assert asked <= labels | SCRAPED, (
                    query.place,
                    selector.name,
                    asked - labels - SCRAPED,
                )
        if all(one.labels is not None for one in asked_of):
            there = SCRAPED.union(*(one.labels for one in asked_of))
            assert labels_asked(query.expr) <= there, query.place
            assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= there, query.place


@EVERY
def test_counters_stand_under_rate_or_increase_and_gauges_do_not(name):
    for query in by_file()[name]:
        for selector, above in selectors(query.expr):
            around = {part.func.name for part in above if isinstance(part, promql.Call)}
            counted = any(
                isinstance(part, promql.AggregateExpr) and str(part.op) in {"count", "group"}
                for part in above
            )
            kind = known()[name_of(selector)].kind
            is_record = ":" in selector.name and not selector.name.startswith("vllm:")
            if selector.name in SHOWN_WHOLE:
                assert not around & RATES, f"{query.place}: {selector.name} is born at one"
            elif kind == "counter" and not counted and not query.place.startswith("renamed.yaml"):
                assert around & RATES, f"{query.place}: {selector.name} is a counter"
            if kind == "gauge" and not is_record:
                assert not around & RATES, f"{query.place}: {selector.name} is a gauge"


@EVERY
def test_a_quantile_keeps_le(name):
    for query in by_file()[name]:
        for part, _ in walked(query.expr):
            if isinstance(part, promql.Call) and part.func.name == "histogram_quantile":
                inner = part.args[1]
                assert isinstance(inner, promql.AggregateExpr), query.place
                assert str(inner.op) == "sum", query.place
                assert "le" in inner.modifier.labels, query.place


@EVERY
def test_shares_are_never_summed(name):
    for query in by_file()[name]:
        for selector, above in selectors(query.expr):
            if known()[name_of(selector)].unit == "ratio":
                sums = [part for part in above if isinstance(part, promql.AggregateExpr) and str(part.op) == "sum"]  # fmt: skip
                assert not sums, (query.place, selector.name)


def test_what_is_read_of_an_expression():
    query = Query("", 'sum by (a) (rate(x_total{b=~"$c"}[$__rate_interval])) / on (a) group_left (d) y')  # fmt: skip
    assert query.filled == 'sum by (a) (rate(x_total{b=~".*"}[1m])) / on (a) group_left (d) y'
    assert metrics(query.expr) == {"x_total", "y"}
    assert labels_asked(query.expr) == {"a", "d"}


def test_no_metric_of_others_is_named_like_ours():
    assert not [one for one in boards.other_metrics() if one.name.startswith("consilium")]


def test_vllm_still_tells_what_is_asked_of_it():
    found = importlib.util.find_spec("vllm")
    if found is None:
        pytest.skip("vLLM is not installed here")
    folder = Path(found.origin).parent / "v1" / "metrics"
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    told = set(re.findall(r'"(vllm:[a-z0-9_]+)"', source))
    asked = {one.name for one in boards.other_metrics() if one.owner == "vllm"}
    assert {name for name in asked if not {name, name.removesuffix("_total")} & told} == set()

"""Every expression of every dashboard and rule, read: which metrics it asks for, with which labels, and under which functions.

for query in by_file()["home.json"]: query.place, query.text, query.expr
known()                 metric -> what it is; histograms with their parts
walked(expr)            every part of an expression, with the parts around it
"""

import json
import re
from dataclasses import dataclass
from functools import cache

import promql_parser as promql
import yaml

from consilium.cli.metrics import catalogue
from consilium.gpu_metrics import boards

SCRAPED = frozenset({"job", "instance", "namespace", "pod", "container", "endpoint", "part"})
"""Labels that a metric gets on its way: from Prometheus, and from the page that joins others."""
WINDOWS = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}
"""What Grafana puts in by itself."""


@dataclass(frozen=True)
class Query:
    """One expression.

    place   file and panel or rule
    text    as it is written
    legend  what the lines are called
    """

    place: str
    text: str
    legend: str = ""

    @property
    def filled(self) -> str:
        """With Grafana's variables put in, as a Prometheus gets it."""
        text = self.text
        for name, value in WINDOWS.items():
            text = text.replace(name, value)
        return re.sub(r"\$\{?[a-z_]+\}?", ".*", text)

    @property
    def expr(self):
        return parsed(self.filled)


@cache
def parsed(text):
    return promql.parse(text)


@dataclass(frozen=True)
class Known:
    """What is known of a metric; labels None = not ours to say."""

    kind: str
    labels: frozenset | None
    unit: str = ""


@cache
def dashboards():
    """Return file -> dashboard."""
    return {name: json.loads(text) for name, text in boards.dashboards().items()}


@cache
def groups():
    """Return (file, group of rules) of every group."""
    return [(name, group) for name, text in boards.rules().items() for group in yaml.safe_load(text)["groups"]]  # fmt: skip


def rules():
    """Yield (file, rule)."""
    for name, group in groups():
        for rule in group["rules"]:
            yield name, rule


@cache
def alerts():
    """Return name -> (file, alert)."""
    return {rule["alert"]: (name, rule) for name, rule in rules() if "alert" in rule}


def of_dashboards():
    """Yield the expressions of every panel and annotation."""
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Query(f"{name}: {panel['title']}", target["expr"], target["legendFormat"])
        for one in board["annotations"]["list"]:
            yield Query(f"{name}: annotation {one['name']}", one["expr"])


def of_rules():
    """Yield the expressions of every rule."""
    for name, rule in rules():
        yield Query(f"{name}: {rule.get('alert', rule.get('record'))}", rule["expr"])


@cache
def by_file():
    """Return file -> its expressions."""
    found = {}
    for query in (*of_dashboards(), *of_rules()):
        found.setdefault(query.place.partition(":")[0], []).append(query)
    return found


@cache
def known():
    """Return name -> Known, of the catalogue, of others, and of what rules record."""
    found = {}
    for row in catalogue():
        name, labels = row["name"], frozenset(row["labels"])
        if row["type"] == "histogram":
            found |= parts_of(name, labels)
        else:
            found[name] = Known(row["type"], labels, row["unit"])
    for one in boards.other_metrics():
        if one.kind == "histogram":
            found |= parts_of(one.name, None)
        else:
            found[one.name] = Known(one.kind, None, unit_of(one.name))
    for _, rule in rules():
        if "record" in rule:
            found[rule["record"]] = Known("gauge", None)
    return found


def parts_of(name, labels):
    with_le = None if labels is None else labels | {"le"}
    return {
        f"{name}_bucket": Known("counter", with_le),
        f"{name}_count": Known("counter", labels),
        f"{name}_sum": Known("counter", labels),
    }


def unit_of(name):
    return "ratio" if re.search(r"_(perc|percent|percentage|ratio)$", name) else ""


def walked(expr, above=()):
    """Yield (part, the parts around it, outermost first)."""
    yield expr, above
    for below in below_of(expr):
        yield from walked(below, (*above, expr))


def below_of(expr):
    if isinstance(expr, promql.BinaryExpr):
        return [expr.lhs, expr.rhs]
    if isinstance(expr, promql.Call):
        return list(expr.args)
    if isinstance(expr, promql.AggregateExpr):
        return [expr.expr, *([expr.param] if expr.param is not None else [])]
    if isinstance(expr, promql.MatrixSelector):
        return [expr.vector_selector]
    if isinstance(expr, (promql.ParenExpr, promql.UnaryExpr, promql.SubqueryExpr)):
        return [expr.expr]
    return []


def selectors(expr):
    """Yield (selector, the parts around it)."""
    for part, above in walked(expr):
        if isinstance(part, promql.VectorSelector):
            yield part, above


def metrics(expr):
    """Return the names of the metrics that an expression asks for."""
    return {name_of(selector) for selector, _ in selectors(expr)}


def name_of(selector):
    """Return the name that a selector asks for; one that names none is refused."""
    assert selector.name, f"a selector without a name: {selector}"
    return selector.name


def labels_asked(expr):
    """Return the labels that an expression groups by or joins on."""
    found = set()
    for part, _ in walked(expr):
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql.AggregateExpr) and modifier is not None:
            found |= set(modifier.labels)
        if isinstance(part, promql.BinaryExpr) and modifier is not None:
            found |= set(modifier.group_labels or ())
            found |= set(modifier.matching.labels) if modifier.matching is not None else set()
    return found

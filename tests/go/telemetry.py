"""What dashboards and rules ask of Prometheus, read out of their files. Whoever adds a file to one of these folders has it tested.

Knows Grafana's and Prometheus' forms. Does not know which metrics there are.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
ROOM = REPOSITORY / "services" / "consilium" / "gpu_metrics"
DASHBOARDS = sorted((ROOM / "dashboards").glob("*.json"))
RULES = sorted((ROOM / "rules").glob("*.yaml"))
TESTS = sorted((REPOSITORY / "tests" / "rules").glob("*_test.yaml"))
UNSEEN = Path(__file__).with_name("unseen.yaml")
"""What a healthy cluster on one machine does not show: metric, labels, and why."""

LABEL_VALUES = re.compile(r"label_values\(\s*(?:(?P<series>.+?)\s*,\s*)?(?P<label>\w+)\s*\)$")
COMPARISON = re.compile(r"(==|!=|<=|>=|<(?!=)|>(?!=))(?!\s*bool\b)")
APART = re.compile(r"(\{[^}]*\}|\"[^\"]*\"|'[^']*'|#[^\n]*)")
"""Labels, strings and comments of an expression: what looks like a comparison in them is none."""


@dataclass(frozen=True)
class Asked:
    """One expression.

    where   file and panel, rule or variable
    kind    panel, record, alert
    labels  labels that are spoken of in its words, and must be there
    """

    where: str
    expression: str
    kind: str
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Variable:
    """One variable of a dashboard.

    series  what its values are taken from, and `label` the label; without them the values are fixed
    """

    name: str
    label: str = ""
    series: str = ""
    fixed: tuple[str, ...] = ()


def panels(dashboard):
    """Return the expressions of a dashboard."""
    said = json.loads(dashboard.read_text())
    found = []
    for panel in _panels(said):
        for target in panel.get("targets", []):
            if target.get("expr"):
                labels = frozenset(
                    re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat") or "")
                )
                found.append(Asked(f"{dashboard.name}: {panel.get('title')}", target["expr"], "panel", labels))  # fmt: skip
    for note in said.get("annotations", {}).get("list", []):
        if note.get("expr"):
            found.append(Asked(f"{dashboard.name}: {note.get('name')}", note["expr"], "panel"))
    return found


def variables(dashboard):
    """Return the variables of a dashboard, in their order, without those that choose where data comes from."""
    listed = json.loads(dashboard.read_text()).get("templating", {}).get("list", [])
    found = []
    for one in listed:
        if one["type"] == "query":
            query = one["query"]["query"] if isinstance(one["query"], dict) else one["query"]
            asked = LABEL_VALUES.match(query)
            assert asked, (
                f"{dashboard.name}: the variable {one['name']} asks for {query}, which no test can fill"
            )
            found.append(Variable(one["name"], asked["label"], asked["series"] or ""))
        elif one["type"] != "datasource":
            options = [str(option["value"]) for option in one.get("options", [])]
            current = one.get("current", {}).get("value")
            fixed = options or [str(current if current is not None else one.get("query", ""))]
            found.append(Variable(one["name"], fixed=tuple(fixed)))
    return found


def filled(expression, values, *, rate="15s", interval="2s", span="60s"):
    """Return an expression as Grafana sends it.

    values  variable -> its values; all of them are chosen
    """
    for name, text in (("__rate_interval", rate), ("__interval", interval), ("__range", span)):
        expression = _put(expression, name, text)
    for name, chosen in values.items():
        every = "|".join(re.escape(value) if re.search(r"[.+*?|()\[\]{}]", value) else value for value in chosen)  # fmt: skip
        expression = _put(expression, name, every.replace("\\", "\\\\"))
    return expression


def plain(expression):
    """Return an expression as a test of promtool writes it: of any value of its variables, over five minutes."""
    for name in ("__rate_interval", "__interval", "__range"):
        expression = _put(expression, name, "5m")
    return " ".join(
        re.sub(r"\$\w+|\$\{\w+(?::\w+)?\}|\[\[\w+(?::\w+)?\]\]", ".+", expression).split()
    )


def rules_of(file):
    """Return the rules of a file."""
    found = []
    for group in yaml.safe_load(file.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                found.append(Asked(f"{file.name}: {rule['record']}", rule["expr"], "record"))
            else:
                words = " ".join(map(str, {**rule.get("annotations", {}), **rule.get("labels", {})}.values()))  # fmt: skip
                labels = frozenset(re.findall(r"\$labels\.(\w+)", words))
                found.append(Asked(f"{file.name}: {rule['alert']}", rule["expr"], "alert", labels))
    return found


def recorded(files):
    """Return the names that the rules of these files give to what they record."""
    return {
        rule["record"]
        for file in files
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def alerts(files):
    """Return every alert of these files: name -> its rule."""
    return {
        rule["alert"]: rule
        for file in files
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def unlimited(expression):
    """Return an alert's expression without its limits: what is compared stays, and must be there, whatever it amounts to."""
    return "".join(
        part if APART.fullmatch(part) else COMPARISON.sub(r"\1 bool ", part)
        for part in APART.split(expression)
    )


def asks_for_absence(expression):
    """Say whether an expression gives something only where something else is missing."""
    return re.search(r"\b(absent|absent_over_time|unless)\b", expression) is not None


def _panels(said):
    for panel in said.get("panels", []):
        yield panel
        yield from _panels(panel)


def _put(expression, name, text):
    for form in (rf"\$\{{{name}(?::\w+)?\}}", rf"\[\[{name}(?::\w+)?\]\]", rf"\${name}\b"):
        expression = re.sub(form, lambda _: text, expression)
    return expression

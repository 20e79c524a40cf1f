"""A running cluster under load, read by a real Prometheus: every expression of every dashboard and rule gives data, and a quiet cluster rings no bell.

What cannot be seen here stands in unseen.yaml, each with its reason, and is known to a test of promtool.
"""

import copy
import json
import re
import time
from dataclasses import dataclass, field

import pytest
import yaml
from tests.command import consilium
from tests.go import quiet_time, telemetry
from tests.go.load import CARDS_OF, Page, play
from tests.real import nvml
from tests.real.gpu_exporter import GpuExporter
from tests.real.prometheus import Prometheus, promtool
from tests.waiting import until

from consilium.cli.metrics import catalogue
from consilium.gpu_metrics import boards

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

STARTS_S = 240
QUIET_S = 15
LOAD_S = 20
TEN_MINUTES_S = 600
ITS_OWN = re.compile(r"(up|ALERTS|scrape_\w+)$")
"""What Prometheus says of its own work."""
PARTS_OF_A_HISTOGRAM = ("_bucket", "_count", "_sum")


@dataclass(frozen=True)
class Watched:
    """What a Prometheus has seen: from `begin` to `quiet` nobody asked for anything, from then to `end` many did."""

    server: Prometheus
    begin: float
    quiet: float
    end: float
    known: dict = field(default_factory=dict)

    def labels(self, expression):
        """Return the labels of each series that an expression gives in the whole time."""
        if expression not in self.known:
            self.known[expression] = self.server.labels_over(expression, self.begin, self.end)
        return self.known[expression]


@pytest.fixture(scope="module")
def watched(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    library = nvml.build(folder / "driver")
    pid = str(cluster.cores()[0].pid)
    price = {"price_per_kwh": 0.3, "currency": "EUR", "pcie_throughput": True}
    healthy = GpuExporter(folder / "healthy", library, "4090,count=2,idle", settings=price, FAKE_NVML_PID=pid)  # fmt: skip
    sick = GpuExporter(folder / "sick", library, "pro6000,throttled,xid")
    sliced = GpuExporter(folder / "sliced", library, "a100mig")
    with Page(CARDS_OF) as said, healthy, sick, sliced:
        known = json.loads((cluster.state / "cluster.json").read_text())
        well = (known["addresses"]["metrics"], healthy.url, said.url)
        config = exported(folder / "exported", (*well, sick.url, sliced.url))
        with Prometheus(folder / "server", only(config, well)) as server:
            until(lambda: all(server.targets().values()) and server.targets(), STARTS_S)
            begin = time.time()
            time.sleep(QUIET_S)
            quiet = time.time()
            server.reload(config)
            play(cluster, LOAD_S, server.has_read)
            for _ in range(
                2
            ):  # what was counted last has been read twice, and the rules have run over it
                last = time.time()
                until(lambda since=last: server.has_read(since), STARTS_S, "all pages were read")
                last = time.time()
                until(lambda since=last: server.has_reckoned(since), STARTS_S, "all rules have run")
            yield Watched(server, begin, quiet, time.time())


def exported(folder, pages):
    """Return the configuration that is handed out for these pages, read every other second and reckoned every second."""
    words = [word for page in pages for word in ("--page", page)]
    done = consilium("dashboards", "export", str(folder), *words)
    assert done.returncode == 0, done.stderr
    file = next(folder.rglob("prometheus.yml"))
    told = yaml.safe_load(file.read_text())
    often = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    told["global"] |= often
    assert not often.keys() & {key for job in told["scrape_configs"] for key in job}
    told["rule_files"] = [str(file.parent / rules) for rules in told["rule_files"]]
    for rules in file.parent.rglob("rules/*.yaml"):
        groups = yaml.safe_load(rules.read_text())["groups"]
        for group in groups:
            group.pop("interval", None)
        rules.write_text(yaml.safe_dump({"groups": groups}))
    return told


def only(config, pages):
    """Return a configuration with some of its pages."""
    kept = copy.deepcopy(config)
    for job in kept["scrape_configs"]:
        for static in job["static_configs"]:
            static["targets"] = [at for at in static["targets"] if any(f"//{at}/" in page for page in pages)]  # fmt: skip
    return kept


@pytest.fixture(scope="module")
def unseen():
    return yaml.safe_load(telemetry.UNSEEN.read_text()) or []


@pytest.fixture(scope="module")
def asked(watched):
    """Return every expression, with the variables of its dashboard filled from what there is."""
    found = [one for file in telemetry.RULES for one in telemetry.rules_of(file)]
    for dashboard in telemetry.DASHBOARDS:
        values = {}
        for variable in telemetry.variables(dashboard):
            values[variable.name] = list(variable.fixed) or label_values(watched, variable, values)
            assert values[variable.name], f"{dashboard.name}: ${variable.name} has no values"
        for one in telemetry.panels(dashboard):
            text = telemetry.filled(one.expression, values)
            found.append(telemetry.Asked(one.where, text, one.kind, one.labels))
    return found


def label_values(watched, variable, values):
    series = telemetry.filled(variable.series, values)
    found = watched.server.get(f"label/{variable.label}/values", **{"match[]": series} if series else {})  # fmt: skip
    return sorted(found)


def missing(watched, expression, unseen):
    """Return what an expression takes that is not there, but for what cannot be."""
    return [
        str(one)
        for one in watched.server.selectors(expression)
        if not watched.labels(str(one)) and not is_unseen(one, unseen)
    ]


def is_unseen(selector, unseen):
    """Say whether a row of unseen.yaml names this metric and, where the row has labels, all of them."""
    said = {label: value for label, _, value in selector.matchers}
    return selector.metric == "ALERTS" or any(
        row["metric"] in (selector.metric, base(selector.metric))
        and row.get("labels", {}).items() <= said.items()
        for row in unseen
    )


def base(metric):
    """Return the name under which a catalogue has a metric: a histogram once."""
    return re.sub(r"_(bucket|count|sum)$", "", metric)


def test_every_expression_uses_figures_that_are_known(asked, watched):
    known = {str(row["name"]) for row in catalogue()}
    for row in catalogue():
        if row["type"] == "histogram":
            known |= {f"{row['name']}{part}" for part in PARTS_OF_A_HISTOGRAM}
    known |= telemetry.recorded(telemetry.RULES)
    for other in boards.other_metrics():
        parts = PARTS_OF_A_HISTOGRAM if other.kind == "histogram" else ("",)
        known |= {f"{other.name}{part}" for part in parts}
    unknown = [
        f"{one.where}: {selector.metric}"
        for one in asked
        for selector in watched.server.selectors(one.expression)
        if selector.metric not in known and not ITS_OWN.match(selector.metric)
    ]
    assert unknown == []


def test_every_expression_gives_data(asked, watched, unseen):
    silent = []
    for one in asked:
        text = telemetry.unlimited(one.expression) if one.kind == "alert" else one.expression
        given = watched.labels(text)
        selectors = watched.server.selectors(text)
        if not given and not any(is_unseen(selector, unseen) for selector in selectors):
            is_of_absence = one.kind == "alert" and telemetry.asks_for_absence(one.expression)
            if not is_of_absence or missing(watched, text, unseen):
                silent.append(f"{one.where}\n    {text}\n    not there: {missing(watched, text, unseen) or 'all of it is, but it does not meet'}")  # fmt: skip
        elif gone := missing(watched, text, unseen):
            silent.append(f"{one.where}\n    {text}\n    not there: {gone}")
    assert not silent, "\n".join(silent)


def test_the_labels_that_are_spoken_of_are_there(asked, watched):
    lacking = []
    for one in asked:
        text = telemetry.unlimited(one.expression) if one.kind == "alert" else one.expression
        for labels in watched.labels(text)[:1] if one.labels else []:
            lacking += [f"{one.where}: {label}" for label in one.labels - labels.keys()]
    assert lacking == []


def test_every_rule_is_reckoned_without_an_error(watched):
    rules = watched.server.rules()
    assert rules
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_what_cannot_be_seen_is_not_there_and_promtool_has_a_test_of_it(watched, unseen):
    tested = "\n".join(file.read_text() for file in telemetry.TESTS)
    for row in unseen:
        assert row["why"].strip(), row
        inside = ",".join(f"{k}=~{json.dumps(v)}" for k, v in row.get("labels", {}).items())
        names = [row["metric"], *(row["metric"] + part for part in PARTS_OF_A_HISTOGRAM)]
        there = [name for name in names if watched.labels(f"{name}{{{inside}}}")]
        assert there == [], f"{there} is there: take it out of the list"
        assert re.search(rf"\b{re.escape(row['metric'])}(_|\b)", tested), row


def test_what_a_dashboard_asks_of_the_unseen_is_asked_in_a_test_of_promtool(watched, unseen):
    tested = {
        " ".join(case["expr"].split())
        for file in telemetry.TESTS
        for group in yaml.safe_load(file.read_text())["tests"]
        for case in group.get("promql_expr_test", [])
    }
    asked = [
        telemetry.plain(one.expression)
        for dashboard in telemetry.DASHBOARDS
        for one in telemetry.panels(dashboard)
    ]
    lacking = [
        text
        for text in asked
        for one in watched.server.selectors(text)
        if one.metric != "ALERTS" and is_unseen(one, unseen) and text not in tested
    ]
    assert lacking == []


def test_a_quiet_cluster_rings_no_bell(watched, tmp_path):
    span = f"{int(watched.quiet - watched.begin)}s"
    taken = {
        selector.metric
        for file in telemetry.RULES
        for one in telemetry.rules_of(file)
        for selector in watched.server.selectors(one.expression)
    } - telemetry.recorded(telemetry.RULES)
    assert "" not in taken, "a rule takes figures by a pattern of their names"
    everything = f'{{__name__=~"{"|".join(taken | {"up"})}"}}'
    rows = watched.server.query(f"{everything}[{span}]", at=watched.quiet)
    assert any(row["metric"]["__name__"] == "up" for row in rows)
    alerts = telemetry.alerts(telemetry.RULES)
    length = quiet_time.longest_wait(alerts.values()) + TEN_MINUTES_S
    recording = quiet_time.Recording(
        rows, watched.begin, watched.quiet, watched.server.get("metadata")
    )
    quiet_time.write(tmp_path / "quiet.yaml", recording, length, alerts, telemetry.RULES)
    code, said = promtool("test", "rules", tmp_path / "quiet.yaml")
    assert code == 0, re.sub(r"\n\s*\n+", "\n", said)[:6000]


def test_a_bell_that_would_ring_is_heard(watched, tmp_path):
    """The test above sees something: with a rule that is true of every cluster it fails."""
    rule = {"alert": "Always", "expr": "sum(up) > 0", "for": "2m"}
    rules = tmp_path / "always.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "always", "rules": [rule]}]}))
    rows = watched.server.query("up[10s]", at=watched.quiet)
    recording = quiet_time.Recording(rows, watched.quiet - 10, watched.quiet, {})
    quiet_time.write(tmp_path / "always_test.yaml", recording, 300, ["Always"], [rules])
    code, said = promtool("test", "rules", tmp_path / "always_test.yaml")
    assert code != 0
    assert "Always" in said

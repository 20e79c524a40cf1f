"""Alerts say what is wrong, since when, what it touches, and a command that exists; each is tried where it fires and where it is silent."""

import argparse
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml
from tests.unit.gpu_metrics.queries import alerts, groups, of_rules, rules

from consilium import cli
from consilium.cli.app import COMMANDS
from consilium.cli.metrics import catalogue
from consilium.gpu_metrics import boards

TRIED = Path(__file__).parents[2] / "rules"
TOLD = ("summary", "since", "touches", "command", "kubernetes")
EVERY = pytest.mark.parametrize("name", sorted(alerts()))
KUBECTL = {"get", "describe", "logs", "top", "events"}
"""What only reads."""
VERSION = re.search(r'^version = "(\d+)\.(\d+)', (Path(cli.__file__).parents[3] / "pyproject.toml").read_text("utf-8"), re.MULTILINE)  # fmt: skip


def alert(name):
    return alerts()[name][1]


def test_names_are_given_once():
    found = [rule.get("alert") or rule["record"] for _, rule in rules()]
    assert len(set(found)) == len(found)
    named = [group["name"] for _, group in groups()]
    assert len(set(named)) == len(named)


@EVERY
def test_it_says_what_is_wrong_since_when_and_what_it_touches(name):
    assert name.startswith("Consilium")
    assert alert(name)["labels"].keys() == {"severity"}
    assert alert(name)["labels"]["severity"] in {"critical", "warning", "info"}
    told = alert(name)["annotations"]
    assert tuple(told) == TOLD
    assert all(told[key].endswith(".") for key in ("summary", "touches"))


@EVERY
def test_since_is_how_long_it_waits(name):
    waits, since = alert(name).get("for"), alert(name)["annotations"]["since"]
    if since.endswith("or longer"):
        number, unit = re.fullmatch(r"(a|\d+) (minute|hour)s? or longer", since).groups()
        assert waits == f"{1 if number == 'a' else number}{unit[0]}"
    else:
        assert re.match(r"within the last|\{\{ \$value \| humanizeDuration \}\} ago", since)


@EVERY
def test_its_commands_exist(name):
    for key in ("command", "kubernetes"):
        words = shlex.split(re.sub(r"\{\{.*?\}\}", "x", alert(name)["annotations"][key]))
        assert words[0] in {"consilium", "kubectl"}
        if words[0] == "kubectl":
            assert next(word for word in words[1:] if word in KUBECTL or word == "exec")
            if "exec" in words:
                assert words[words.index("--") + 1 :][:2] == ["sh", "-c"]
                assert words[-1].startswith("tail ")
        else:
            parse(words[1:])


@EVERY
def test_what_engines_and_gateways_say_is_not_asked_of_kubectl_logs(name):
    """Ray keeps it in files of the pod; `kubectl logs` has what `ray start` says."""
    told = alert(name)["annotations"]["kubernetes"]
    assert not re.search(r"\blogs\b.*(component=(head|worker|gateway)|consilium/gateway)", told)


def parse(words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[words[0]][0]).add(parser.add_subparsers())
    parser.parse_args(words)


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        parse(["status", "--nothing"])
    with pytest.raises(KeyError):
        parse(["nothing"])


def test_what_is_missing_is_asked_only_of_what_must_be_everywhere():
    # A cluster without a card, without Kubernetes or without traffic lacks most metrics, and is well.
    found = {query.place for query in of_rules() if "absent" in query.text}
    assert found == {"cluster.yaml: ConsiliumNotScraped"}


@cache
def trials_of(file):
    return yaml.safe_load((TRIED / file.replace(".yaml", "_test.yaml")).read_text("utf-8"))


def tried(name):
    """Return what the tests of promtool expect of an alert: one list of alerts a test."""
    return [one["exp_alerts"] for test in trials_of(alerts()[name][0])["tests"] for one in test.get("alert_rule_test", ()) if one["alertname"] == name]  # fmt: skip


@EVERY
def test_it_is_tried_where_it_fires_and_where_it_is_silent(name):
    assert any(tried(name)), "no test in which it fires"
    assert not all(tried(name)), "no test in which it is silent"


@pytest.mark.parametrize("name", sorted(boards.rules()))
def test_every_file_is_tried(name):
    assert trials_of(name)["rule_files"] == [f"../../services/consilium/gpu_metrics/rules/{name}"]


def test_every_figure_that_is_recorded_is_tried():
    text = "".join(path.read_text("utf-8") for path in TRIED.glob("*_test.yaml"))
    names = {rule["record"] for _, rule in rules() if "record" in rule}
    assert {name for name in names if f"labels: '{name}" not in text and f"* {name}" not in text} == set()  # fmt: skip


def test_figures_that_are_recorded_are_told_apart_from_metrics():
    ours = {row["name"] for row in catalogue()}
    for name, rule in rules():
        if "record" in rule and name != "renamed.yaml":
            assert rule["record"].startswith(boards.RULE)
        assert rule.get("record") not in ours


def test_an_old_name_lives_one_version():
    now = tuple(map(int, VERSION.groups()))
    for name, group in groups():
        if name == "renamed.yaml":
            until = re.fullmatch(r"renamed-until-(\d+)\.(\d+)", group["name"])
            assert until, "the name of the group says with which version it goes"
            assert now < tuple(map(int, until.groups())), f"{group['name']} has outlived its version: take it out"  # fmt: skip
            assert all("record" in rule for rule in group["rules"])

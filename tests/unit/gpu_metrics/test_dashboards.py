"""Dashboards are files that a Grafana takes as they are: stable, described, readable, and without holes."""

import itertools
import json
import re

import pytest
from tests.unit.gpu_metrics.queries import dashboards, of_dashboards

from consilium.gpu_metrics import boards

EVERY = pytest.mark.parametrize("name", sorted(dashboards()))
COLUMNS = 24
MOST_NUMBERS = 12
BUILT_IN = {"__rate_interval", "__interval", "__range", "__all", "__url_time_range"}


def panels(name):
    return dashboards()[name]["panels"]


def shown(name):
    return [panel for panel in panels(name) if panel["type"] != "row"]


@EVERY
def test_it_keeps_its_name(name):
    board = dashboards()[name]
    assert board["uid"] == f"consilium-{name.removesuffix('.json')}", "links and bookmarks hold on to it"  # fmt: skip
    assert "consilium" in board["tags"]
    assert board["schemaVersion"] >= 39
    assert board["title"].startswith("Consilium / ")
    assert board["description"].endswith(".")
    assert "id" not in board, "that is a number of one Grafana"


def test_no_two_have_one_name():
    for key in ("uid", "title"):
        found = [board[key] for board in dashboards().values()]
        assert len(set(found)) == len(found)


@EVERY
def test_the_datasource_is_a_variable(name):
    board = dashboards()[name]
    first = board["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")  # fmt: skip
    uids = set(re.findall(r'"uid": "([^"]*)"', json.dumps(board))) - {board["uid"]}
    assert uids == {"${datasource}"}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in shown(name))


@EVERY
def test_every_variable_that_is_used_is_there(name):
    board = dashboards()[name]
    there = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(board))) - BUILT_IN
    assert used <= there
    assert there - {"datasource"} <= used, "declared and never used"


@EVERY
def test_panels_have_numbers_of_their_own_and_do_not_overlap(name):
    numbers = [panel["id"] for panel in panels(name)]
    assert len(set(numbers)) == len(numbers)
    taken = {}
    for panel in panels(name):
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS, panel["title"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):  # fmt: skip
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["title"]


@EVERY
def test_every_panel_says_what_it_shows_and_in_which_unit(name):
    titles = [panel["title"] for panel in shown(name)]
    assert len(set(titles)) == len(titles)
    for panel in shown(name):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters), panel["title"]


@EVERY
def test_shares_are_shown_as_shares(name):
    for panel in shown(name):
        if any("_ratio" in target["expr"] for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"]["unit"] == "percentunit", panel["title"]


def test_rates_have_grafanas_window():
    # A window that is fixed is empty where Prometheus scrapes more slowly, and coarse where it need not be.
    for query in of_dashboards():
        assert re.findall(r"\brate\([^\[\]]*\[([^\]]*)\]", query.text) == ["$__rate_interval"] * query.text.count("rate("), query.place  # fmt: skip


def test_home_is_twelve_numbers():
    found = panels(boards.HOME)
    assert len(found) <= MOST_NUMBERS
    assert {panel["type"] for panel in found} == {"stat"}
    assert all(panel["fieldConfig"]["defaults"].get("noValue") for panel in found), "a number that is not there says why"  # fmt: skip

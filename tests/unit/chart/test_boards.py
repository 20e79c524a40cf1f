"""Dashboards, rules and alerts of the chart are the package's, and nothing is made of them before somebody asks."""

import json

import yaml
from tests.unit.chart import rendered

from consilium.cli import chart_boards
from consilium.gpu_metrics import boards

ON = {"monitoring": {name: {"enabled": True} for name in ("podMonitor", "rules", "dashboards")}}
KINDS = ("PodMonitor", "PrometheusRule")
MOST_ANNOTATED = 1_000_000


def of_grafana(render):
    return [one for one in rendered.of_kind(render, "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"]]  # fmt: skip


def test_the_copies_are_fresh():
    assert chart_boards.there(rendered.CHART) == chart_boards.copies(), "python -m consilium.cli.chart_boards helm/consilium"  # fmt: skip


def test_a_copy_says_what_its_original_says():
    for name, text in boards.dashboards().items():
        assert json.loads(chart_boards.copies()[f"files/dashboards/{name}"]) == json.loads(text)
    for name, text in boards.rules().items():
        assert chart_boards.copies()[f"files/rules/{name}"] == text


def test_a_copy_without_an_original_goes(tmp_path):
    chart_boards.main(tmp_path)
    (tmp_path / "files" / "rules" / "gone.yaml").write_text("groups: []\n")
    chart_boards.main(tmp_path)
    assert chart_boards.there(tmp_path) == chart_boards.copies()


def test_nothing_is_made_of_them_unasked(every):
    assert not [one for kind in KINDS for one in rendered.of_kind(every, kind)]
    assert not of_grafana(every)


def test_each_of_the_three_is_asked_for_alone():
    for name in ON["monitoring"]:
        render = rendered.render({"monitoring": {name: {"enabled": True}}})
        found = (
            bool(rendered.of_kind(render, "PodMonitor")),
            bool(rendered.of_kind(render, "PrometheusRule")),
            bool(of_grafana(render)),
        )
        assert found == tuple(name == one for one in ON["monitoring"])


def test_a_rule_arrives_whole():
    groups = rendered.render(ON).one("PrometheusRule")["spec"]["groups"]
    assert groups == [
        group for text in boards.rules().values() for group in yaml.safe_load(text)["groups"]
    ]


def test_a_dashboard_arrives_whole_under_a_name_of_its_own():
    arrived = {}
    for one in of_grafana(rendered.render(ON)):
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert len(json.dumps(one)) < MOST_ANNOTATED
        ((file, text),) = one["data"].items()
        arrived[file] = json.loads(text)
    assert arrived == {
        f"consilium-{name}": json.loads(text) for name, text in boards.dashboards().items()
    }


def test_labels_are_those_that_are_asked_for():
    labels = {"release": "prometheus"}
    said = {"rules": {"enabled": True, "labels": labels}, "dashboards": {"enabled": True, "labels": labels, "annotations": {"folder": "x"}}}  # fmt: skip
    render = rendered.render({"monitoring": said})
    assert labels.items() <= render.one("PrometheusRule")["metadata"]["labels"].items()
    for one in of_grafana(render):
        assert labels.items() <= one["metadata"]["labels"].items()
        assert one["metadata"]["annotations"] == {"folder": "x"}

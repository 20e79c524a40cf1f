"""What owners put into pods in their own words: variables, labels, files. The chart's own stay what they are."""

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.rendered import pods
from tests.unit.chart.told_in_pods import config_file, environment, own_container

from consilium.gateway.app import View
from consilium.kernel.config import load

FRAME = 'Ты — философ.\n\nГовори "просто": a\\b, {{ .Values }}, 100 %\n  - и с отступом\n\ttab'


def worker(env):
    return {"workers": [rendered.WORKERS | {"env": env}]}


def room(env):
    return {"services": {"greeter": {"module": "m", "env": env}}}


@pytest.mark.parametrize(("values", "name"), [(worker, "worker main"), (room, "greeter")])
def test_a_variable_reaches_the_pod_as_text(values, name):
    render = rendered.render(values({"OTHER": "yes", "NUMBER": "1"}))
    told = environment(render, own_container(rendered.pod(render, name)))
    assert (told["OTHER"], told["NUMBER"]) == ("yes", "1")


def names_of(pod):
    return [row["name"] for row in own_container(pod)["env"]]


@pytest.mark.parametrize(
    ("values", "name", "place"),
    [(worker, "worker main", "workers.main"), (room, "greeter", "services.greeter")],
)
def test_what_the_chart_says_itself_is_refused_and_nothing_is_said_twice(values, name, place):
    # Applied by the server, which Helm 4 does, a name that is there twice is refused.
    render = rendered.render(values({}) | {"extraRooms": "a.b:ROOM"})
    for variable in names_of(rendered.pod(render, name)):
        with pytest.raises(
            Exception, match=f"{place}.env.{variable}: the chart sets this variable"
        ):
            rendered.render(values({variable: "mine"}))


def test_variables_of_a_group_are_no_other_groups():
    groups = [rendered.WORKERS | {"env": {"ONE": "1"}}, rendered.WORKERS | {"name": "more"}]
    render = rendered.render({"workers": groups})
    for name, has in (("worker main", True), ("worker more", False), ("head", False)):
        assert ("ONE" in environment(render, own_container(rendered.pod(render, name)))) == has


def test_labels_and_annotations_reach_every_pod():
    render = rendered.render(
        {"podLabels": {"team": "home"}, "podAnnotations": {"note": "x"}} | room({})
    )
    for pod in pods(render):
        assert pod.labels["team"] == "home", pod.name
        assert pod.metadata["annotations"]["note"] == "x", pod.name


@pytest.mark.parametrize(
    "name",
    ["app.kubernetes.io/component", "app.kubernetes.io/name", "consilium/gateway", "ray.io/group"],
)
def test_labels_by_which_pods_are_found_are_refused(name):
    with pytest.raises(Exception, match=f"podLabels: {name} is the chart's own"):
        rendered.render({"podLabels": {name: "x"}})


def test_annotations_of_the_chart_are_refused():
    with pytest.raises(Exception, match="podAnnotations: checksum/config is the chart's own"):
        rendered.render({"podAnnotations": {"checksum/config": "x"}})


def test_files_arrive_as_they_were_written(tmp_path):
    config = {"roles": {"philosopher": {"frame_file": "philosopher.md"}}}
    render = rendered.render({"config": config, "configFiles": {"philosopher.md": FRAME}})
    folder = config_file(render, tmp_path).parent
    assert (folder / "philosopher.md").read_text(encoding="utf-8") == FRAME


def test_frames_in_the_config_arrive_as_they_were_written(tmp_path):
    render = rendered.render({"config": {"roles": {"philosopher": {"frame": FRAME}}}})
    view = load(View, path=config_file(render, tmp_path), env={}).value
    assert view.roles["philosopher"].frame == FRAME

"""A room in the chart: one entry of `services` becomes a process that its own parser takes, at the address that everybody is told. The tests' greeter is the room."""

import importlib
import json

import pytest
from tests.greeter import app as greeter_app
from tests.greeter.room import ROOM
from tests.unit.chart import rendered
from tests.unit.chart.told_in_pods import config_file, environment, own_container

from consilium.gateway.app import View, _reached
from consilium.kernel import service
from consilium.kernel.config import load
from consilium.kernel.service_config import ServicesView, places
from consilium.supervisor import pod_page

KEEPS = {"module": ROOM.module, "storage": {"size": "1Gi"}, "stopSeconds": int(ROOM.stop_s)}
VALUES = {
    "services": {"greeter": KEEPS, "retrieval": {"module": "m", "replicas": 2}},
    "config": {"greeter": {"word": "Salve"}},
}


@pytest.fixture
def render():
    return rendered.render({"services": VALUES["services"]})


def words_of(render, name="greeter"):
    return own_container(rendered.pod(render, name))["command"]


def option(words, flag):
    return words[words.index(flag) + 1]


def test_what_it_becomes(render):
    made = {(one["kind"], one["metadata"]["name"]) for one in render.objects}
    host = "home-consilium-greeter"
    for kind in ("Deployment", "Service", "PersistentVolumeClaim", "NetworkPolicy"):
        assert (kind, host) in made
    assert ("PodDisruptionBudget", host) not in made
    assert render.one("Deployment", host)["spec"]["strategy"] == {"type": "Recreate"}
    other = "home-consilium-retrieval"
    assert ("PersistentVolumeClaim", other) not in made
    assert ("PodDisruptionBudget", other) in made
    assert render.one("Deployment", other)["spec"]["strategy"] == {"type": "RollingUpdate"}


def test_its_parser_takes_its_words_and_it_has_its_time(render, monkeypatch):
    seen = {}

    def instead(process, *, grace_s):
        seen.update(chosen=process._chosen, grace_s=grace_s)
        return 0

    monkeypatch.setattr(service, "run", instead)
    words = words_of(render)
    assert words[:3] == ["python", "-m", ROOM.module]
    assert importlib.import_module(words[2]).main(words[3:]) == 0
    chosen = seen["chosen"]
    assert str(chosen.config) == "/etc/consilium/consilium.yaml"
    assert seen["grace_s"] == ROOM.stop_s + chosen.settle
    grace_s = rendered.pod(render, "greeter").spec["terminationGracePeriodSeconds"]
    assert grace_s >= seen["grace_s"] + 10


def test_it_listens_where_everybody_looks_for_it(render, tmp_path):
    view = load(ServicesView, path=config_file(render, tmp_path), env={}).value
    words = words_of(render)
    at = places(ROOM.name, view.services, grpc=option(words, "--listen"), http=option(words, "--http"), metrics=option(words, "--metrics"))  # fmt: skip
    pod = rendered.pod(render, "greeter")
    assert (at.grpc[1], at.http[1], at.metrics[1]) == tuple(pod.ports()[name] for name in ("grpc", "http", "page"))  # fmt: skip
    assert {at.grpc[0], at.http[0], at.metrics[0]} == {"0.0.0.0"}
    address = view.services[ROOM.name]
    for text, kind in ((address.grpc, "grpc"), (address.http, "http"), (address.metrics, "page")):
        host, port = text.rpartition("/")[2].split(":")
        named = {one["name"]: one for one in render.one("Service", host)["spec"]["ports"]}
        assert named[kind]["port"] == int(port)
    assert address.grpc.startswith("dns:///")
    assert render.one("Service", "home-consilium-greeter")["spec"]["clusterIP"] == "None"


def test_the_gateway_forwards_to_that_address(render, tmp_path):
    told = environment(render, own_container(rendered.pod(render, "head")))
    view = load(View, path=config_file(render, tmp_path), env=told).value
    reached = _reached(ROOM, view.services)
    assert (reached.grpc, reached.http) == ("dns:///home-consilium-greeter:9000", "http://home-consilium-greeter:8080")  # fmt: skip


def test_it_finds_the_gateway_at_its_service(render, tmp_path):
    view = load(ServicesView, path=config_file(render, tmp_path), env={}).value
    host, port = view.services["gateway"].grpc.removeprefix("dns:///").split(":")
    ports = {one["name"]: one["port"] for one in render.one("Service", host)["spec"]["ports"]}
    assert int(port) == ports["grpc"]
    assert view.services["gateway"].http == f"http://{host}:{ports['http']}"


def test_its_own_section_reaches_it(tmp_path):
    path = tmp_path / "consilium.yaml"
    tree = {"greeter": {"word": "Salve"}, "services": {}}
    path.write_text(json.dumps(tree))
    assert load(greeter_app.View, path=path, env={}).value.greeter.word == "Salve"


def test_it_is_told_the_token_and_keeps_its_state_on_its_claim(render):
    pod = rendered.pod(render, "greeter")
    told = environment(render, own_container(pod))
    assert told["CONSILIUM_TOKEN"]
    state = told["CONSILIUM_STATE"]
    (mount,) = [one for one in own_container(pod)["volumeMounts"] if one["mountPath"] == state]
    (volume,) = [one for one in pod.spec["volumes"] if one["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"]["claimName"] == "home-consilium-greeter"


def test_rooms_that_are_not_ours_are_told_to_all():
    values = {"services": VALUES["services"], "extraRooms": "tests.greeter.room:ROOM"}
    render = rendered.render(values)
    for pod in rendered.pods(render):
        if pod.kind in {"head", "worker", "greeter"}:
            assert environment(render, own_container(pod))["CONSILIUM_ROOMS"] == "tests.greeter.room:ROOM"  # fmt: skip


def test_a_new_room_is_told_to_the_others():
    def mark(values):
        return rendered.pod(rendered.render({"services": values}), "greeter").metadata["annotations"]["checksum/config"]  # fmt: skip

    assert mark({"greeter": KEEPS}) != mark(VALUES["services"])


def test_what_is_live_rolls_no_room():
    def mark(config):
        render = rendered.render({"services": VALUES["services"], "config": config})
        return rendered.pod(render, "greeter").metadata["annotations"]["checksum/config"]

    before = mark({})
    assert mark({"roles": {"poet": {"frame": "You rhyme."}}}) == before
    assert mark({"model": "tiny"}) == before
    assert mark({"gateway": {"max_n": 2}}) != before


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"storage": {"size": "1Gi"}, "replicas": 2, "module": "m"}, "services.greeter: it keeps data on one disk, so it has one pod"),
        ({"storage": {"size": "1Gi"}, "kind": "DaemonSet", "module": "m"}, "services.greeter: it keeps data on one disk, so it cannot be on every node"),
        ({"storage": {"size": "1Gi"}}, "module"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(row, why):
    with pytest.raises(Exception, match=why):
        rendered.render({"services": {"greeter": row}})


@pytest.mark.parametrize("name", ["gateway", "redis", "worker", "ray", "prefetch", "models"])
def test_names_that_the_chart_needs_are_refused(name):
    with pytest.raises(Exception, match=f"services: the name {name} is taken"):
        rendered.render({"services": {name: {"module": "m"}}})


@pytest.mark.parametrize("name", ["jobs", "retrieval", "memory", "lora_router", "gpu_metrics"])
def test_rooms_that_will_come_find_their_names_free(name):
    render = rendered.render({"services": {name: {"module": "m", "storage": {"size": "1Gi"}}}})
    seen = [(one["kind"], one["metadata"]["name"]) for one in render.objects]
    assert len(set(seen)) == len(seen)


def test_a_room_on_every_node():
    render = rendered.render({"services": {"gpu_metrics": {"module": "m", "kind": "DaemonSet"}}})
    made = render.one("DaemonSet")
    assert not {"replicas", "strategy"} & made["spec"].keys()


def test_the_page_of_a_pod_takes_its_words(render, monkeypatch):
    made = {}

    class Page:
        def __init__(self, **words):
            made.update(words)

        def start(self):
            made["started"] = True

        def stop(self):
            made["stopped"] = True

    class Ended:
        def wait(self):
            return True

    monkeypatch.setattr(pod_page, "MetricsServer", Page)
    monkeypatch.setattr(pod_page.threading, "Event", Ended)
    monkeypatch.setattr(pod_page.signal, "signal", lambda *_: None)
    for kind in ("head", "worker main"):
        pod = rendered.pod(render, kind)
        (page,) = [one for one in pod.containers if one["name"] == "page"]
        assert page["command"][:3] == ["python", "-m", "consilium.supervisor.pod_page"]
        assert pod_page.main(page["command"][3:]) == 0
        assert made["port"] == pod.ports()["page"]
        assert made["ray_url"].endswith(f":{pod.ports()['metrics']}/metrics")
        figures = environment(render, own_container(pod))["PROMETHEUS_MULTIPROC_DIR"]
        assert str(made["folder"]) == figures
        for container in (own_container(pod), page):
            assert figures in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_commands_of_every_pod_are_ours_with_words_that_they_take(every):
    import argparse

    from consilium.cli.app import COMMANDS

    for pod in rendered.pods(every):
        for container in pod.containers:
            words = container.get("command", ())
            if words[:1] != ["consilium"]:
                continue
            parser = argparse.ArgumentParser()
            importlib.import_module(COMMANDS[words[1]][0]).add(parser.add_subparsers())
            assert parser.parse_args(words[1:])

"""serveConfigV2 and consilium.yaml of a render, read by the code that reads them in the pods."""

import importlib
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from tests.unit.chart import rendered
from tests.unit.chart.told_in_pods import config_file, environment, groups, lent, own_container

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine import app as engine_app
from consilium.engine.backends.serve import app_name
from consilium.engine.config import EngineExecutor, EngineView
from consilium.engine.ports import CORE
from consilium.engine.topology import DeploymentSpec
from consilium.gateway import app as gateway_app
from consilium.kernel import config_revision
from consilium.kernel.config import load
from consilium.kernel.live_config import live_sections
from consilium.kernel.service_config import ServicesView

SHOWN = "/etc/consilium/consilium.yaml"
OTHERWISE = {
    "gpu_metrics": {"period_s": 2.0},
    "model": "tiny",
    "topology": {"kind": "replicas", "replicas": 2, "device": "cpu"},
    "engine": {"max_num_seqs": 3},
    "executors": {"far": {"url": "http://far/v1", "model": "m"}},
    "roles": {"poet": {"frame": "You rhyme."}},
    "profiles": {"slow": {"temperature": 0.1}},
    "gateway": {"max_n": 3},
    "redis": {"prefix": "other"},
    "embedding": {"dimensions": 64},
    "metrics": {"port": 9999},
    "adapters": {"sport": {"path": "org/sport"}},
    "lora_router": {"canary": False},
}
"""Another value for each section of consilium.yaml."""


def applications(render):
    return {one["name"]: one for one in render.serve_config["applications"]}


def view_of(render, model, folder, pod="head"):
    """Read consilium.yaml as a process in a pod does."""
    told = environment(render, own_container(rendered.pod(render, pod)))
    return load(model, path=config_file(render, folder), env=told).value


def test_ray_reads_it(every):
    read = ServeDeploySchema.model_validate(every.serve_config)
    assert read.model_dump(exclude_unset=True).keys() == every.serve_config.keys()
    for one in read.applications:
        assert one.model_fields_set == applications(every)[one.name].keys()
        module, _, attribute = one.import_path.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_executors_of_our_own_have_an_application_each_and_remote_ones_none(every, tmp_path):
    view = view_of(every, EngineView, tmp_path)
    ours = [CORE, *(name for name, one in view.executors.items() if isinstance(one, EngineExecutor))]  # fmt: skip
    found = applications(every)
    assert found.keys() == {gateway_app.APP, *map(app_name, ours)}
    for name in ours:
        one = found[app_name(name)]
        assert one["args"]["executor"] == name
        assert one["import_path"] == "consilium.engine.app:from_config"
    assert found[gateway_app.APP]["import_path"] == "consilium.gateway.app:from_config"


def test_a_remote_executor_has_none_whichever_way_it_is_said():
    config = {
        "topology": {"kind": "hybrid"},
        "executors": {
            "far": {"url": "http://far/v1", "model": "m"},
            "further": {"kind": "remote", "url": "http://further/v1", "model": "m"},
            "near": {"model": "tiny"},
            "nearer": {"kind": "engine", "model": "tiny"},
        },
    }
    found = applications(rendered.render({"config": config}))
    assert found.keys() == {"gateway", "executor-core", "executor-near", "executor-nearer"}


def test_only_the_gateway_has_a_route(every):
    routes = {name: one["route_prefix"] for name, one in applications(every).items()}
    assert routes.pop(gateway_app.APP) == "/"
    assert set(routes.values()) == {None}


def test_arguments_of_engines_bind(every):
    for name, one in applications(every).items():
        if name != gateway_app.APP:
            told = engine_app._Where.of(one["args"])
            assert told.model_fields_set == engine_app._Where.model_fields.keys()
            assert told.config == SHOWN


def test_the_gateway_is_made_from_its_arguments(every, tmp_path, monkeypatch):
    args = applications(every)[gateway_app.APP]["args"]
    assert args.keys() == {"config", "place", "revision"}
    assert args["config"] == SHOWN
    for name, value in environment(every, own_container(rendered.pod(every, "head"))).items():
        monkeypatch.setenv(name, value)
    made = gateway_app.from_config(args | {"config": str(config_file(every, tmp_path))})
    deployment = made._bound_deployment
    assert deployment.ray_actor_options["resources"] == {args["place"]: 1.0}
    with_place = [group for group in groups(every) if args["place"] in lent(group)]
    assert len(with_place) == 1


def test_who_is_started_again_finds_the_revision_it_was_told_beside_the_configuration(
    every, tmp_path
):
    config = config_file(every, tmp_path)
    for name, one in applications(every).items():
        who = "gateway" if name == gateway_app.APP else "engine"
        assert one["args"]["revision"]
        assert config_revision.wait_for(str(config), who, one["args"]["revision"], limit_s=0)


def test_old_files_do_not_pass_for_the_new_revision(tmp_path):
    old = rendered.render({"config": {"model": "demo"}})
    config = config_file(old, tmp_path)
    new = applications(rendered.render({"config": {"model": "tiny", "gateway": {"max_n": 3}}}))
    for name, who in ((gateway_app.APP, "gateway"), (app_name(CORE), "engine")):
        told = new[name]["args"]["revision"]
        assert not config_revision.wait_for(str(config), who, told, limit_s=0)


@pytest.mark.parametrize("model", [gateway_app.View, engine_app._View, EngineView, ServicesView])
def test_every_process_reads_the_config(every, model, tmp_path):
    kinds = {one.name for one in rendered.pods(every)} & {"head", "gateway"}
    for kind in kinds:
        assert view_of(every, model, tmp_path, kind)


def test_the_gateway_is_told_where_to_listen(every, tmp_path):
    view = view_of(every, gateway_app.View, tmp_path)
    face = every.serve_config["http_options"]
    assert (view.gateway.host, view.gateway.port) == (face["host"], face["port"])
    service = every.one("Service", every.one("RayService")["metadata"]["name"])
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert ports == {"http": view.gateway.port, "grpc": view.gateway.grpc_port}


def test_the_config_is_a_whole_consilium_yaml_beside_its_addresses(every, tmp_path):
    # `services` is what `up` and the chart write beside what its owner has written.
    load(ConsiliumConfig, path=_without(config_file(every, tmp_path), "services"), env={})


def _without(path, section):
    tree = yaml.safe_load(path.read_text())
    tree.pop(section)
    path.write_text(yaml.safe_dump(tree))
    return path


def revisions(values):
    return {
        name: one["args"]["revision"] for name, one in applications(rendered.render(values)).items()
    }


def test_another_value_is_known_for_every_section():
    assert OTHERWISE.keys() == ConsiliumConfig.model_fields.keys()


@pytest.mark.parametrize("section", OTHERWISE)
def test_what_is_live_starts_nothing_again_and_the_rest_does(section):
    before = revisions({})
    after = revisions({"config": {section: OTHERWISE[section]}})
    live = live_sections(gateway_app.View)
    assert (after["gateway"] == before["gateway"]) == (section in live)
    of_engines = section in EngineView.model_fields
    assert (after["executor-core"] != before["executor-core"]) == of_engines


def test_further_adapters_start_no_engine_again():
    for config in ({"engine": {"lora": {}}}, {"adapters": {"core": {"path": "org/core"}}}):
        before = revisions({"config": config})
        more = {**config.get("adapters", {}), **OTHERWISE["adapters"]}
        assert revisions({"config": {**config, "adapters": more}}) == before


WITH_SLOTS = {
    "slots of the core": {"engine": {"lora": {"slots": 2}}},
    "slots of an executor": {
        "topology": {"kind": "hybrid"},
        "executors": {"near": {"model": "tiny", "engine": {"lora": {}}}},
    },
}


def linked(values, folder):
    """Return where a render's engines report what they hold; nothing where there is no room."""
    view = view_of(rendered.render(values), engine_app._View, folder)
    shape = {"replicas": 1, "tensor_parallel": 1, "pipeline_parallel": 1, "nodes": 1}
    spec = DeploymentSpec("core", "/models/demo", "demo", "", "", device="cpu", bundles=({},), strategy="PACK", launch_args={}, env={}, max_num_seqs=1, max_ongoing_requests=1, lora_wait_s=1.0, **shape)  # fmt: skip
    (found,) = engine_app.linked([spec], view, Path(SHOWN))
    return found.router.get("address", "")


@pytest.mark.parametrize("name", WITH_SLOTS)
def test_a_room_of_adapters_that_comes_goes_or_moves_starts_engines_with_slots_again(
    name, tmp_path
):
    values = {"config": WITH_SLOTS[name]}
    ways = (
        values,
        values | {"adapters": {"enabled": False}},
        values | {"fullnameOverride": "elsewhere"},
    )
    addresses = [linked(way, tmp_path) for way in ways]
    told = [revisions(way)["executor-core"] for way in ways]
    assert len(set(addresses)) == len(set(told)) == len(ways)


def test_a_room_that_is_told_of_in_services_is_the_same_room_to_engines(tmp_path):
    values = {"config": WITH_SLOTS["slots of the core"]}
    own = {"services": {"lora_router": {"module": "consilium.lora_router.app"}}, "adapters": {"enabled": False}}  # fmt: skip
    assert linked(values, tmp_path) == linked(values | own, tmp_path)
    assert revisions(values)["executor-core"] == revisions(values | own)["executor-core"]


def test_a_room_of_adapters_starts_no_engine_again_that_has_no_slots():
    without = {"adapters": {"enabled": False}}
    assert revisions({})["executor-core"] == revisions(without)["executor-core"]


def test_a_chart_knows_the_live_sections_of_today():
    assert set(live_sections(gateway_app.View)) == set(live_sections(ConsiliumConfig))


def test_a_new_room_makes_the_gateway_look_again_and_no_engine():
    before = revisions({})
    after = revisions({"services": {"greeter": {"module": "tests.greeter.app"}}})
    assert after["gateway"] != before["gateway"]
    assert after["executor-core"] == before["executor-core"]


def test_another_text_of_a_chat_template_starts_its_engines_again_and_a_frame_does_not():
    config = {
        "engine": {"chat_template": "core.jinja"},
        "topology": {"kind": "hybrid"},
        "executors": {"near": {"model": "tiny", "engine": {"chat_template": "near.jinja"}}},
        "roles": {"poet": {"frame_file": "poet.md"}},
    }
    files = {"core.jinja": "a", "near.jinja": "b", "poet.md": "c"}
    before = revisions({"config": config, "configFiles": files})
    for name in ("core.jinja", "near.jinja"):
        after = revisions({"config": config, "configFiles": files | {name: "other"}})
        assert after["executor-core"] != before["executor-core"], name
    assert revisions({"config": config, "configFiles": files | {"poet.md": "other"}}) == before

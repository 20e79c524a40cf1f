"""From a spec to a Serve application: what Serve is told, without a cluster."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # ray's own

from consilium.engine import app  # noqa: E402
from consilium.engine.topology import DeploymentSpec  # noqa: E402

SPEC = DeploymentSpec(
    name="core",
    model_path="/m",
    served_name="tiny",
    revision="abc",
    note="a model for tests",
    replicas=1,
    device="cpu",
    tensor_parallel=1,
    pipeline_parallel=1,
    nodes=1,
    bundles=({"CPU": 0.5},),
    strategy="PACK",
    launch_args={"model": "/m"},
    env={"A": "b"},
    max_num_seqs=64,
    max_ongoing_requests=80,
    tool_parser="hermes",
    chat_template="/t.jinja",
)


def built(**over: Any) -> Any:
    return app.build({**asdict(replace(SPEC, **over)), "drain_s": 7})._bound_deployment


def test_one_copy_is_its_own_ingress() -> None:
    engine = built()
    assert engine.name == "Engine"
    assert engine._deployment_config.max_ongoing_requests == 80
    assert engine._deployment_config.graceful_shutdown_timeout_s == 7
    assert engine.ray_actor_options["runtime_env"] == {"env_vars": {"A": "b"}}
    assert engine._deployment_config.request_router_config.is_default_request_router()


def test_several_copies_stand_behind_a_door_and_our_router() -> None:
    door = built(replicas=2)
    assert door.name == "Door"
    engine = door.init_args[0]._bound_deployment
    assert engine.num_replicas == 2
    assert not engine._deployment_config.request_router_config.is_default_request_router()


def test_cards_are_asked_for() -> None:
    assert (
        built(bundles=({"CPU": 1.0, "GPU": 2.0},), device="gpu").ray_actor_options["num_gpus"]
        == 2.0
    )


def test_an_engine_over_nodes_gets_a_placement_group() -> None:
    engine = built(
        nodes=2, tensor_parallel=2, bundles=({"CPU": 1.0}, {"CPU": 1.0}), strategy="STRICT_SPREAD"
    )
    assert engine._replica_config.placement_group_bundles == [{"CPU": 1.0}, {"CPU": 1.0}]


def test_the_front_end_is_told_about_parsers_and_template() -> None:
    assert app.settings(SPEC)["frontend_args"] == {
        "chat_template": "/t.jinja",
        "tool_call_parser": "hermes",
        "enable_auto_tool_choice": True,
    }
    assert app.settings(replace(SPEC, tool_parser=None, chat_template=None))["frontend_args"] == {}


def test_yaml_is_read_with_the_environment_over_it(tmp_path: Path, monkeypatch: Any) -> None:
    """In Kubernetes there is no `up`: this command reads the file itself."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "t.jinja").write_text("{}")
    file = tmp_path / "consilium.yaml"
    file.write_text("model: mine\nengine: {max_num_seqs: 3, chat_template: t.jinja}\nroles: {}\n")
    monkeypatch.setenv("CONSILIUM_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("CONSILIUM_ENGINE__MAX_NUM_SEQS", "5")
    view, models = app.read_view(file)
    assert (view.model, view.engine.max_num_seqs) == (str(tmp_path / "mine"), 5)
    assert view.engine.chat_template == str(tmp_path / "t.jinja")
    assert models == tmp_path / "state" / "models"


def test_the_resolved_tree_is_read_as_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model": "tiny", "engine": {"max_num_seqs": 3}}')
    monkeypatch.setenv("CONSILIUM_ENGINE__MAX_NUM_SEQS", "5")
    view, models = app.read_view(file)
    assert (view.model, view.engine.max_num_seqs) == ("tiny", 3)
    assert models == tmp_path / "models"

"""From a configuration to running Serve applications, one per executor of our own.

    from_config(args)                               one application, planned where it will run; what a RayService names
    build(args)                                     one application that has been planned
    python -m consilium.engine.app deploy --config  submits all of them at once and returns; each replica then starts its engine

Knows the concrete classes. Does not know what fits (topology.py, planner/), and does not wait for engines: whoever wants to know asks them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import ray
from pydantic import Field, ValidationError
from ray import serve
from ray.serve.config import RequestRouterConfig

from consilium.demo.model import resolve
from consilium.engine import topology
from consilium.engine.backends import cluster_nodes
from consilium.engine.backends.serve import DEPLOYMENT, app_name
from consilium.engine.config import EngineExecutor, EngineView, from_root
from consilium.engine.deployment import Door, EngineReplica
from consilium.engine.launch_args import (
    installed_fields,
    installed_parsers,
    installed_version,
)
from consilium.engine.machine import Machine, from_ray, local
from consilium.engine.model_facts import ModelFacts, read
from consilium.engine.ports import CORE
from consilium.engine.request_router import PATH as ROUTER
from consilium.engine.topology import PINNED, DeploymentSpec
from consilium.kernel import config_revision, logs, steps_file
from consilium.kernel.config import Section, default_state, folder_of, load_view
from consilium.kernel.config_refusal import told
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import run
from consilium.kernel.service_config import ServicesView
from consilium.planner.gate_file import breaking_edit

_log = logs.get("engine")

HEALTH_PERIOD_S: Final = (
    2.0  # so soon Serve sees that a process is gone; while tokens come the question generates none
)
HEALTH_PERIOD_OVER_NODES_S: Final = 10.0  # Serve takes a connection that is broken for a moment for a dead replica, and a group over nodes starts long
HEALTH_TIMEOUT_S: Final = 90.0
DRAIN_S: Final = 600.0
STATS_PERIOD_S: Final = 1.0
STATS_TIMEOUT_S: Final = 2.0
SLACK_SHARE: Final = 8  # a replica that holds the prefix may be busier by an eighth of its batch


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the Serve application of one executor.

    args  fields of topology.DeploymentSpec, plus optionally `drain_s`: how long running calls get when a replica is stopped
    """
    args = dict(args)
    drain_s = float(args.pop("drain_s", DRAIN_S))
    spec = DeploymentSpec(**args)
    engine = (
        serve.deployment(EngineReplica, name=DEPLOYMENT)
        .options(**options(spec, drain_s))
        .bind(settings(spec), tuple(spec.cpu_lists), dict(spec.router))
    )
    if spec.replicas == 1:
        return engine
    return (
        serve.deployment(Door, name="Door").options(ray_actor_options={"num_cpus": 0}).bind(engine)
    )


def from_config(args: Mapping[str, Any]) -> serve.Application:
    """Return the Serve application of one executor, planned inside of the cluster that will run it.

    args  config    path of consilium.yaml, the same on every node
          executor  its name; "core" for the core
          nodes     nodes that will lend cores or cards; it waits for them
          gpus      cards that they will have together, likewise
          drain_s   how long running calls get when a replica is stopped
          revision  of what an engine is made from; another one makes Serve start it again, and is waited for in the pod's files

    Raises ConsiliumError: config_invalid (also for an argument that is none), model_missing, gpu_missing, does_not_fit.
    """
    logs.configure("engine")
    known = _Where.of(args)
    rows = cluster_nodes.wait_for(known.nodes, known.gpus, ray.nodes)
    machine = cluster_nodes.look(rows)
    specs = cluster_nodes.on_node(rows[0], _planned, known.config, known.revision, machine)
    for spec in specs:
        if spec.name == known.executor:
            return build({**asdict(spec), "drain_s": known.drain_s})
    raise _no_executor(known.executor)


def _planned(config: str, revision: str, machine: Machine) -> tuple[DeploymentSpec, ...]:
    """Plan on a node that has the models, once it shows this revision; makes or downloads what is missing there."""
    config_revision.wait_for(config, "engine", revision)
    view, models = read_view(Path(config))
    return linked(plan_on(view, models, machine), view, Path(config))


def linked(
    specs: Sequence[DeploymentSpec], view: ServicesView, config: Path
) -> tuple[DeploymentSpec, ...]:
    """Return the deployments with where their replicas find the room of adapters, if there is one."""
    address = view.services.get("lora_router")
    if address is None or not address.grpc:
        return tuple(specs)
    router = {"address": address.grpc, "folder": str(folder_of(config))}
    return tuple(replace(spec, router=router) if spec.lora_wait_s else spec for spec in specs)


class _Where(Section):
    """Arguments of `from_config`, as they stand in serveConfigV2."""

    config: str
    executor: str = CORE
    nodes: int = Field(1, ge=1)
    gpus: int = Field(0, ge=0)
    drain_s: float = Field(DRAIN_S, ge=0)
    revision: str = ""

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> _Where:
        try:
            return cls.model_validate(dict(args))
        except ValidationError as error:
            raise told(error, cls, None, {}) from None


def _no_executor(name: str) -> ConsiliumError:
    return ConsiliumError(
        "config_invalid",
        key=f"executors.{name}",
        reason="there is no such executor of our own",
    )


def settings(spec: DeploymentSpec) -> dict[str, Any]:
    """Return the fields of the vLLM backend's settings."""
    frontend: dict[str, Any] = {}
    if spec.chat_template is not None:
        frontend["chat_template"] = spec.chat_template
    if spec.tool_parser is not None:
        frontend |= {"tool_call_parser": str(spec.tool_parser), "enable_auto_tool_choice": True}
    return {
        "name": spec.name,
        "engine_args": dict(spec.launch_args),
        "frontend_args": frontend,
        "revision": spec.revision,
        "fallback": spec.fallback,
        "note": spec.note,
        "step_s": spec.step_s,
        "guessed_tools": spec.guessed_tools,
        **({"lora_wait_s": spec.lora_wait_s} if spec.lora_wait_s else {}),
        **({"lora_limits": dict(spec.lora_limits)} if spec.lora_limits else {}),
    }


def options(spec: DeploymentSpec, drain_s: float) -> dict[str, Any]:
    """Return the options of the Serve deployment."""
    own = spec.bundles[0]
    actor: dict[str, Any] = {
        "num_cpus": own.get("CPU", 0.0),
        "runtime_env": {"env_vars": dict(spec.env)},
    }
    if spec.python:
        actor["runtime_env"]["py_executable"] = (
            spec.python
        )  # another environment, with another build of vLLM
    if own.get("GPU"):
        actor["num_gpus"] = own["GPU"]
    if pools := {name: share for name, share in own.items() if name not in {"CPU", "GPU"}}:
        actor["resources"] = pools
    chosen: dict[str, Any] = {
        "num_replicas": spec.replicas,
        "max_ongoing_requests": spec.max_ongoing_requests,
        "health_check_period_s": HEALTH_PERIOD_S if spec.nodes == 1 else HEALTH_PERIOD_OVER_NODES_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "ray_actor_options": actor,
        "logging_config": {
            "enable_access_log": False
        },  # a line per call and per health ping of HAProxy; the gateway logs turns
    }
    if spec.replicas > 1:
        chosen["request_router_config"] = RequestRouterConfig(
            request_router_class=ROUTER,
            request_router_kwargs={"slack": max(2.0, spec.max_num_seqs / SLACK_SHARE)},
            request_routing_stats_period_s=STATS_PERIOD_S,
            request_routing_stats_timeout_s=STATS_TIMEOUT_S,
        )
    if len(spec.bundles) > 1:
        chosen |= {
            "placement_group_bundles": [dict(bundle) for bundle in spec.bundles],
            "placement_group_strategy": spec.strategy,
        }
    return chosen


def submit(specs: Sequence[DeploymentSpec], *, drain_s: float = DRAIN_S) -> None:
    """Hand all applications to Serve at once. Returns when they are accepted, long before an engine answers."""
    targets = [
        serve.RunTarget(
            target=build({**asdict(spec), "drain_s": drain_s}),
            name=app_name(spec.name),
            route_prefix=None,
        )
        for spec in specs
    ]
    serve.run_many(
        targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m consilium.engine.app")
    commands = parser.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser(
        "deploy", help="submit the executors of a configuration to Ray Serve"
    )
    deploy.add_argument(
        "--config", required=True, help="configuration: the resolved tree (.json), or YAML"
    )
    deploy.add_argument("--only", help="name of one executor")
    chosen = parser.parse_args(argv)
    logs.configure("engine")
    return run(_Deploy(Path(chosen.config), chosen.only))


class _Face(Section):
    """Where Serve's HTTP proxy listens: the gateway's address. Whoever comes first starts Serve, so both say the same."""

    model_config = Section.model_config | {"extra": "ignore"}

    host: str = "127.0.0.1"
    port: int | None = None


class _View(EngineView, ServicesView):
    """What this command reads of the tree."""

    gateway: _Face = Field(default_factory=_Face)


def read_view(config: Path) -> tuple[_View, Path]:
    """Return what this command reads of a configuration, and the folder of models.

    `up` has resolved the tree (.json) and keeps models beside it. YAML is read with the environment over it, and models lie in the state folder.

    Raises ConsiliumError(config_invalid).
    """
    view = load_view(_View, config)
    if config.suffix == ".json":
        return view, config.parent / "models"
    named = view.model_copy(update=from_root(view, config.parent))
    return named, default_state() / "models"


def plan(
    view: EngineView, models_dir: Path, here: Machine, rows: Iterable[Mapping[str, object]]
) -> tuple[DeploymentSpec, ...]:
    """Return the deployments of a configuration on this cluster.

    rows  Ray's node table

    Raises as `plan_on` does.
    """
    return plan_on(view, models_dir, from_ray(rows, here))


def plan_on(view: EngineView, models_dir: Path, machine: Machine) -> tuple[DeploymentSpec, ...]:
    """Return the deployments of a configuration on a machine. Models that are not on disk are made or downloaded.

    Raises ConsiliumError: model_missing, config_invalid, gpu_missing, does_not_fit.
    """
    names = {
        view.model,
        *(row.model for row in view.executors.values() if isinstance(row, EngineExecutor)),
    }
    models: dict[str, ModelFacts] = {}
    for name in names:
        found = resolve(name, models_dir)
        models[name] = read(found.path, found.name, revision=found.revision, note=found.note)
    broken = breaking_edit(
        view.model_dump(), lambda name: Path(models[name].path) if name in models else None
    )
    if broken is not None:
        raise ConsiliumError("config_invalid", key=broken[0], reason=broken[1])
    version = installed_version() or PINNED
    return topology.plan(
        view,
        machine,
        models,
        version=version,
        fields=installed_fields(),
        names=installed_parsers(),
        templates=_templates(view),
    )


def _templates(view: EngineView) -> dict[str, str]:
    """Return the chat templates that the settings name, by path. One that cannot be read is the engine's to refuse."""
    executors = (row for row in view.executors.values() if isinstance(row, EngineExecutor))
    named = {view.engine.chat_template, *(row.engine.chat_template for row in executors)}
    found = {}
    for path in named:
        if path is not None:
            with suppress(OSError, UnicodeDecodeError):
                found[path] = Path(path).read_text("utf-8")
    return found


class _Deploy:
    """Submit, and end: Serve brings the engines up."""

    def __init__(self, config: Path, only: str | None) -> None:
        self._config = config
        self._only = only

    async def start(self) -> None:
        view, models = read_view(self._config)
        ray.init(log_to_driver=False)
        specs = linked(plan(view, models, local(), ray.nodes()), view, self._config)
        if self._config.suffix == ".json":
            steps_file.write(self._config.parent, specs)
        if self._only is not None:
            specs = tuple(spec for spec in specs if spec.name == self._only)
            if not specs:
                raise _no_executor(self._only)
        http: dict[str, Any] = {"host": view.gateway.host}
        if view.gateway.port is not None:
            http["port"] = view.gateway.port
        serve.start(http_options=http)
        submit(specs)
        for spec in specs:
            _log.info(
                "executor_submitted",
                executor=spec.name,
                model=spec.served_name,
                replicas=spec.replicas,
                ranks=spec.ranks,
            )

    async def wait(self) -> None:
        """Nothing is left to do."""

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002  # nothing runs here that could drain
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())

"""From the configuration to deployments: how many copies of which model, on which cards and cores, with which arguments.

Pure: a view of the configuration, a machine and facts about models in, frozen specs out. Knows the three forms (replicas, sharded, hybrid) and
which engine computes where. Does not know Ray or vLLM, and leaves the exact arithmetic of memory to the planner: it refuses only what can never fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from consilium.engine import launch_args, placement, pools, sharding
from consilium.engine.config import EngineExecutor, EngineSettings, EngineView, Shape
from consilium.engine.machine import POOL, Machine
from consilium.engine.model_facts import ModelFacts, with_template
from consilium.engine.placement import BIND
from consilium.engine.ports import CORE
from consilium.kernel.errors import ConsiliumError
from consilium.planner.lora_settings import LoraSettings
from consilium.planner.step import on_processors, reading_rate

PINNED: Final = launch_args.PINNED
_QUEUE_SHARE: Final = (
    4  # a replica takes a quarter more than it runs, so that the batch is refilled at once
)

ComputesOn = Literal["cpu", "gpu"]
Cores: TypeAlias = tuple[tuple[tuple[int, ...], ...], ...]  # replica -> rank -> core ids


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """One Serve deployment: all copies of one executor.

    name                  executor's name; the core is "core"
    device                what the engine computes on ("gpu" cards may be logical: then the bundles name GPUs and the device is cpu)
    bundles, strategy     what each replica asks of Ray; the first bundle is the replica's own, the others belong to its followers
    launch_args           field -> value of vLLM's AsyncEngineArgs; across nodes `launch_args.on_node` adds rank and address
    env                   environment of the engine process
    cpu_lists             one per replica, by replica rank: VLLM_CPU_OMP_THREADS_BIND, such as "0|1"; empty = `env` says it
    max_ongoing_requests  requests in one replica, above max_num_seqs
    reasoning_parser      name of vLLM's parser, or None
    tool_parser           likewise
    guessed_tools         the tool parser is that of the model's family; nobody named it
    chat_template         path of a template that replaces the model's own, or None
    python                interpreter with the right build of vLLM, "" = this one
    notes                 sentences for the owner
    step_s                seconds that the longest step takes on cores, by estimate; 0 on cards, and where prompts are read whole
    lora_wait_s           longest that a call waits for a slot of an adapter; 0 where LoRA is off
    lora_limits           how long disks with adapters are waited for, and what may lie on one: fields of AdapterLimits; empty where LoRA is off
    router                where its replicas find the room of adapters: address, and folder of the cluster's secrets; empty = there is none
    """

    name: str
    model_path: str
    served_name: str
    revision: str
    note: str
    replicas: int
    device: ComputesOn
    tensor_parallel: int
    pipeline_parallel: int
    nodes: int
    bundles: tuple[dict[str, float], ...]
    strategy: placement.Strategy
    launch_args: dict[str, object]
    env: dict[str, str]
    max_num_seqs: int
    max_ongoing_requests: int
    cpu_lists: tuple[str, ...] = ()
    reasoning_parser: str | None = None
    tool_parser: str | None = None
    guessed_tools: bool = False
    chat_template: str | None = None
    has_template: bool = True
    is_base: bool = False
    vision: bool = False
    python: str = ""
    fallback: str | None = None
    version: str = PINNED
    notes: tuple[str, ...] = field(default=())
    step_s: float = 0.0
    lora_wait_s: float = 0.0
    lora_limits: dict[str, float] = field(default_factory=dict)
    router: dict[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Return the workers of one replica."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True, slots=True)
class _Seat:
    """One engine, where it stands in the configuration, and what was found out about it.

    key           "topology" or "executors.<name>"
    settings_key  "engine" or "executors.<name>.engine"
    device        what it computes on; takes_gpu says whether a card is booked for each rank
    pool          pool of nodes that it stays in, or nothing
    lora          slots for adapters; None = LoRA is off
    """

    name: str
    key: str
    settings_key: str
    shape: Shape
    settings: EngineSettings
    facts: ModelFacts
    device: ComputesOn
    takes_gpu: bool
    replicas: int
    fallback: str | None
    pool: str = ""
    lora: LoraSettings | None = None

    @property
    def ranks(self) -> int:
        return self.shape.tensor_parallel * self.shape.pipeline_parallel

    @property
    def per_node(self) -> int:
        return self.ranks // self.shape.nodes


def plan(
    view: EngineView,
    machine: Machine,
    models: Mapping[str, ModelFacts],
    *,
    version: str = PINNED,
    fields: frozenset[str] | None = None,
    names: launch_args.ParserNames | None = None,
    templates: Mapping[str, str] | None = None,
) -> tuple[DeploymentSpec, ...]:
    """Return the deployments of a configuration, in the order in which they should be deployed (largest first, so that room is not split).

    view     model, topology, engine settings, executors; remote executors are not deployments and are passed over
    models   facts by the model name that the configuration uses
    version  version of vLLM whose argument names are used
    fields   fields of that version's EngineArgs (`launch_args.fields_of`); None = unknown, and extra_args go unchecked
    names    parsers that the version registers; None = unknown
    templates  texts of the chat templates that the settings name, by path

    Raises ConsiliumError: config_invalid (a key cannot be kept, and which values can), gpu_missing (more cards than there are), does_not_fit
    (the weights alone are larger than the cards or the memory), model_missing (no facts for a name).
    """
    seats = _seats(view, machine, models, templates or {})
    for seat in seats:
        if names is not None:
            launch_args.check_parsers(seat.settings, names, key=seat.settings_key, version=version)
        sharding.check_shape(
            seat.shape,
            seat.facts,
            seat.settings,
            key=seat.key,
            settings_key=seat.settings_key,
            on_cores=seat.device == "cpu",
        )
        if seat.device == "gpu":
            sharding.check_weights_on_cards(
                seat.facts, seat.settings, ranks=seat.ranks, machine=machine, executor=seat.name
            )
        else:
            sharding.check_weights_in_memory(
                seat.facts, nodes=seat.shape.nodes, machine=machine, executor=seat.name
            )
    _check_room(seats, machine)
    cores = _cores(seats, machine)
    specs = [_spec(seat, machine, seats, cores.get(seat.name, ()), version) for seat in seats]
    if fields is not None:
        for seat, spec in zip(seats, specs, strict=True):
            launch_args.check_fields(
                spec.launch_args, fields, key=seat.settings_key, version=version
            )
    return tuple(sorted(specs, key=lambda spec: -(spec.ranks // spec.nodes)))


def _seats(
    view: EngineView,
    machine: Machine,
    models: Mapping[str, ModelFacts],
    templates: Mapping[str, str],
) -> list[_Seat]:
    core = view.topology
    rows: list[tuple[str, str, str, Shape, str, EngineSettings, bool, str | None]] = [
        (CORE, "topology", "engine", core, view.model, view.engine, core.kind == "replicas", None)
    ]
    for name, executor in view.executors.items():
        if isinstance(executor, EngineExecutor):
            key = f"executors.{name}"
            rows.append(
                (
                    name,
                    key,
                    f"{key}.engine",
                    executor,
                    executor.model,
                    executor.engine.over(view.engine),
                    False,
                    executor.fallback,
                )
            )
    seats = []
    for name, key, settings_key, shape, model, settings, one_per_gpu, fallback in rows:
        if model not in models:
            raise ConsiliumError(
                "model_missing", name=model, reason=f"{key} names it, and it was not found"
            )
        facts = models[model]
        if (text := templates.get(settings.chat_template or "")) is not None:
            facts = with_template(facts, text)
        takes_gpu = _takes_gpu(shape, machine, key)
        device: ComputesOn = "gpu" if takes_gpu and not machine.logical_gpus else "cpu"
        _check_build(device, machine, key)
        pool = pools.pool_of(shape, machine, device=device, takes_gpu=takes_gpu, key=key)
        there = pools.inside(machine, pool)
        replicas = _replicas(shape, settings, there, one_per_gpu=one_per_gpu, takes_gpu=takes_gpu)
        seats.append(
            _Seat(
                name,
                key,
                settings_key,
                shape,
                settings,
                facts,
                device,
                takes_gpu,
                replicas,
                fallback,
                pool,
                view.lora(name),
            )
        )
    return seats


def _takes_gpu(shape: Shape, machine: Machine, key: str) -> bool:
    only_gpu_build = machine.interpreter("cpu") is None and machine.interpreter("gpu") is not None
    wants = shape.device == "gpu" or (shape.device == "auto" and only_gpu_build)
    if wants and not machine.gpu_count:
        raise ConsiliumError(
            "gpu_missing",
            key=f"{key}.device",
            asked=shape.tensor_parallel * shape.pipeline_parallel,
            seen=0,
        )
    return shape.device != "cpu" and machine.gpu_count > 0


def _check_build(device: ComputesOn, machine: Machine, key: str) -> None:
    if machine.interpreter(device) is not None:
        return
    if not machine.builds:
        raise sharding.invalid(f"{key}.device", "no vLLM is installed here. Run 'make setup'")
    if device == "gpu":
        raise sharding.invalid(
            f"{key}.device",
            "this environment holds vLLM's CPU build only. Run 'make setup LANE=gpu', or set device: cpu",
        )
    raise sharding.invalid(
        f"{key}.device",
        "an engine on CPU needs vLLM's CPU build in an environment of its own. Run 'make setup LANE=cpu VENV=.venv-cpu', or set device: gpu",
    )


def _replicas(
    shape: Shape, settings: EngineSettings, machine: Machine, *, one_per_gpu: bool, takes_gpu: bool
) -> int:
    if shape.replicas != "auto":
        return shape.replicas
    if not one_per_gpu:
        return 1
    if takes_gpu:
        return machine.gpu_count
    cores = sum(int(node.cpus) for node in machine.nodes)
    return max(1, cores // settings.cpu_cores) if settings.cpu_cores else 1


def _check_room(seats: list[_Seat], machine: Machine) -> None:
    for seat in seats:
        have = len(pools.inside(machine, seat.pool).nodes)
        if seat.shape.nodes > have:
            can = max(
                n
                for n in sharding.working_nodes(seat.shape, on_cores=seat.device == "cpu")
                if n <= have
            )
            raise sharding.invalid(
                f"{seat.key}.nodes",
                f"{seat.shape.nodes} nodes were asked for and the cluster has {have}. Join more nodes, or set nodes: {can}",
            )
    wants = [
        placement.Want(
            s.name,
            s.replicas,
            s.shape.nodes,
            s.per_node,
            pools.indices(machine, s.pool) if s.pool else None,
        )
        for s in seats
        if s.takes_gpu
    ]
    asked = sum(want.copies * want.nodes * want.per_node for want in wants)
    if asked > machine.gpu_count:
        rows = ", ".join(
            f"{want.name}: {want.copies} x {want.nodes * want.per_node}" for want in wants
        )
        raise ConsiliumError(
            "gpu_missing", rows, key="The configuration", asked=asked, seen=machine.gpu_count
        )
    lost = placement.unplaced([len(node.gpus) for node in machine.nodes], wants)
    if lost is None:
        return
    spread = ", ".join(str(len(node.gpus)) for node in machine.nodes)
    seat = next(seat for seat in seats if seat.name == lost.name)
    key, where = seat.key, f" of the pool {seat.pool!r}" if seat.pool else ""
    needs = f"a copy needs {lost.per_node} card(s) on each of {lost.nodes} node(s){where}, and the nodes have {spread}"
    raise sharding.invalid(
        f"{key}.nodes",
        f"there are enough cards, but not together: {needs}. Raise nodes, or lower tensor_parallel or other replicas",
    )


def _cores(seats: list[_Seat], machine: Machine) -> dict[str, Cores]:
    """Return the cores of the engines that compute on them, where the ids are known: one node, and more than one rank to tell apart.

    An engine whose owner has bound it (engine.env) is left out.
    """
    known = machine.nodes[0].cores if len(machine.nodes) == 1 else ()
    pinned = [seat for seat in seats if seat.device == "cpu" and BIND not in seat.settings.env]
    ranks = sum(seat.replicas * seat.ranks for seat in pinned)
    if not known or not ranks or (ranks == 1 and pinned[0].settings.cpu_cores is None):
        return {}  # one rank alone: vLLM's own choice keeps a core for its front-end
    left, result = list(known), {}
    for seat in sorted(pinned, key=lambda s: s.settings.cpu_cores is None):
        mine = seat.replicas * seat.ranks
        spare = 1 if len(left) > ranks else 0
        per_rank = seat.settings.cpu_cores or max(1, (len(left) - spare) // ranks)
        flat = placement.core_groups(left or known, mine, per_rank)
        result[seat.name] = tuple(
            flat[i * seat.ranks : (i + 1) * seat.ranks] for i in range(seat.replicas)
        )
        left, ranks = left[mine * per_rank :], ranks - mine
    return result


def _spec(
    seat: _Seat, machine: Machine, seats: list[_Seat], cores: Cores, version: str
) -> DeploymentSpec:
    shape, settings, facts = seat.shape, seat.settings, seat.facts
    parsers = launch_args.parsers(settings, facts)
    per_node = -(-sum(s.replicas * s.shape.nodes for s in seats) // len(machine.nodes))
    booked = placement.booked_cpus(
        node_cpus=min(n.cpus for n in machine.nodes),
        engines_on_node=per_node,
        ranks_per_node=seat.per_node,
    )
    wanted = placement.bundles(
        ranks=seat.ranks,
        nodes=shape.nodes,
        gpu=seat.takes_gpu,
        cpus_per_node=booked,
        pool=f"{POOL}{seat.pool}" if seat.pool else "",
    )
    cores_each = _cores_each(seat, machine, seats, cores)
    step = None
    if seat.device == "cpu" and not _reads_whole(seat):
        step = on_processors(facts.shape, cores_each, settings.max_num_seqs)
    args = launch_args.build(
        settings=settings,
        facts=facts,
        device=seat.device,
        tensor=shape.tensor_parallel,
        pipeline=shape.pipeline_parallel,
        nodes=shape.nodes,
        version=version,
        key=seat.settings_key,
        step=step,
        lora=seat.lora,
    )
    return DeploymentSpec(
        name=seat.name,
        model_path=facts.path,
        served_name=facts.name,
        revision=facts.revision,
        note=facts.note,
        replicas=seat.replicas,
        device=seat.device,
        tensor_parallel=shape.tensor_parallel,
        pipeline_parallel=shape.pipeline_parallel,
        nodes=shape.nodes,
        bundles=wanted.bundles,
        strategy=wanted.strategy,
        launch_args=args,
        env=_environment(seat, machine, seats, pinned=bool(cores)),
        max_num_seqs=settings.max_num_seqs,
        max_ongoing_requests=settings.max_num_seqs + max(8, settings.max_num_seqs // _QUEUE_SHARE),
        cpu_lists=tuple(placement.bind_string(groups) for groups in cores),
        reasoning_parser=parsers.reasoning,
        tool_parser=parsers.tools,
        guessed_tools=settings.tool_parser is None,
        chat_template=settings.chat_template,
        has_template=facts.has_template,
        is_base=facts.is_base,
        vision=facts.vision,
        python=machine.interpreter(seat.device) or "",
        fallback=seat.fallback,
        version=version,
        notes=sharding.notes(shape),
        step_s=0.0 if step is None else _step_s(args, facts, cores_each),
        lora_wait_s=0.0 if seat.lora is None else seat.lora.max_wait_s,
        lora_limits={} if seat.lora is None else seat.lora.limits,
    )


def _reads_whole(seat: _Seat) -> bool:
    """Say whether an engine on cores may not read a prompt in pieces: by its model, or because its owner says so."""
    extra = seat.settings.extra_args
    return (
        seat.facts.whole_prompts
        or extra.get("runner") == "pooling"
        or extra.get("convert") in ("embed", "classify")
        or extra.get("enable_chunked_prefill") is False
    )


def _cores_each(seat: _Seat, machine: Machine, seats: list[_Seat], cores: Cores) -> float:
    """Return the cores that one copy of an engine computes with, over all its ranks."""
    if cores:
        return sum(len(rank) for rank in cores[0])
    engines = sum(s.replicas * s.ranks for s in seats if s.device == "cpu")
    per_node = max(1, -(-engines // len(machine.nodes)))
    share = min(node.cpus for node in machine.nodes) / per_node
    return seat.ranks * (seat.settings.cpu_cores or max(1.0, share))


def _step_s(args: dict[str, object], facts: ModelFacts, cores: float) -> float:
    """Return about how long the longest step takes that these arguments allow."""
    return round(int(str(args["max_num_batched_tokens"])) / reading_rate(facts.shape, cores), 2)


def _environment(
    seat: _Seat, machine: Machine, seats: list[_Seat], *, pinned: bool
) -> dict[str, str]:
    env = launch_args.environment(seat.settings, key=seat.settings_key)
    if seat.device == "gpu" or pinned:
        return env
    total = sum(s.replicas * s.ranks for s in seats if s.device == "cpu")
    if total == 1:
        return env
    # Cores of other machines are not known by number: count them, and leave the places to the kernel.
    per_node = -(-total // len(machine.nodes))
    threads = seat.settings.cpu_cores or max(
        1, int(min(node.cpus for node in machine.nodes)) // per_node
    )
    return {BIND: "nobind", "OMP_NUM_THREADS": str(threads), **env}

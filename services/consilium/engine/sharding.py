"""Which ways of sharing a model over cards and nodes its shape allows.

Asks the planner which cuts there are (planner/sharding.py), and adds what nodes and cores forbid; source: vLLM's `nnodes` checks. Leaves exact memory to the
planner: it refuses only what can never fit.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.config import EngineSettings, Shape
from consilium.engine.machine import Machine
from consilium.engine.model_facts import ModelFacts
from consilium.kernel.errors import ConsiliumError
from consilium.planner.sharding import Cut, objection, possible_tp
from consilium.planner.weights import of_method

_MOST_TP: Final = 16
EXPERT_PARALLEL: Final = "enable_expert_parallel"


def working_tps(facts: ModelFacts, settings: EngineSettings) -> tuple[int, ...]:
    """Return the tensor parallel sizes that the model's shape allows, up to 16."""
    whole = bool(settings.extra_args.get(EXPERT_PARALLEL)) and facts.shape.is_moe
    weights = _weights(facts, settings)
    return tuple(possible_tp(facts.shape, _MOST_TP, weights, expert_parallel=whole))


def _weights(facts: ModelFacts, settings: EngineSettings) -> str:
    """Return the format that the weights have in the engine; a method that the planner does not know changes nothing."""
    try:
        named = settings.quantization
        return of_method(named, facts.weights) if named else facts.weights
    except ConsiliumError:
        return facts.weights


def working_nodes(shape: Shape, *, on_cores: bool) -> tuple[int, ...]:
    """Return the numbers of nodes that can share the ranks of an engine, in ascending order.

    On cores a node takes one rank of several: vLLM's CPU platform counts one device per node, so the queues of a node's second rank are made as if it stood on
    another node, and the engine does not come up (0.32, MessageQueue.create_from_process_group_single_reader).
    """
    ranks = shape.tensor_parallel * shape.pipeline_parallel
    return tuple(
        n for n in range(1, ranks + 1) if ranks % n == 0 and (not on_cores or n in {1, ranks})
    )


def check_shape(
    shape: Shape,
    facts: ModelFacts,
    settings: EngineSettings,
    *,
    key: str,
    settings_key: str,
    on_cores: bool,
) -> None:
    """Raise ConsiliumError(config_invalid), naming the values that work, if the model cannot be shared like that.

    key, settings_key  where shape and settings stand in the configuration: "topology" and "engine", or "executors.<name>" and "executors.<name>.engine"
    on_cores           whether its ranks compute on cores
    """
    tensor, pipeline, nodes = shape.tensor_parallel, shape.pipeline_parallel, shape.nodes
    whole = bool(settings.extra_args.get(EXPERT_PARALLEL))
    if whole and not facts.shape.is_moe:
        raise invalid(
            f"{settings_key}.extra_args.{EXPERT_PARALLEL}",
            f"expert parallel needs a mixture of experts, and {facts.name} is none. Leave the key out",
        )
    if pipeline > facts.shape.layers:
        raise invalid(
            f"{key}.pipeline_parallel",
            f"{facts.name} has {facts.shape.layers} layers, so at most {facts.shape.layers} stages",
        )
    reason = objection(
        facts.shape, Cut(tensor, pipeline, expert_parallel=whole), _weights(facts, settings)
    )
    if reason is not None:
        works = ", ".join(map(str, working_tps(facts, settings)))
        raise invalid(f"{key}.tensor_parallel", f"{reason}. Values that work: {works}")
    if nodes not in (can := working_nodes(shape, on_cores=on_cores)):
        ranks = tensor * pipeline
        shares = (
            f"{nodes} nodes cannot share {ranks} ranks (tensor_parallel x pipeline_parallel) evenly"
        )
        if ranks % nodes == 0:
            shares = f"on cores vLLM puts one rank on each of several nodes, and {ranks} ranks (tensor_parallel x pipeline_parallel) are {ranks // nodes} on each"
        raise invalid(f"{key}.nodes", f"{shares}. Values that work: {', '.join(map(str, can))}")


def check_weights_on_cards(
    facts: ModelFacts, settings: EngineSettings, *, ranks: int, machine: Machine, executor: str
) -> None:
    """Raise ConsiliumError(does_not_fit), naming the knob, if the weights alone are larger than the largest card. Unknown sizes pass."""
    largest = max((gpu.memory_bytes for node in machine.nodes for gpu in node.gpus), default=0)
    utilisation = settings.gpu_memory_utilization
    room = largest * utilisation
    share = facts.weight_bytes / ranks
    if not room or share <= room:
        return
    works = [tp for tp in working_tps(facts, settings) if facts.weight_bytes / tp <= room]
    knob = (
        f"Set tensor_parallel to {works[0]} or more"
        if works
        else "Choose a smaller or quantised model"
    )
    reason = f"{facts.name} holds {_gib(share)} of weights per card, and a card gives {_gib(room)} at gpu_memory_utilization {utilisation}. {knob}."
    raise ConsiliumError("does_not_fit", f"executor={executor}", reason=reason)


def check_weights_in_memory(
    facts: ModelFacts, *, nodes: int, machine: Machine, executor: str
) -> None:
    """Raise ConsiliumError(does_not_fit) if the weights alone are larger than the memory of the largest node. Unknown sizes pass."""
    room = max((node.memory_bytes for node in machine.nodes), default=0)
    need = facts.weight_bytes / nodes
    if not room or need <= room:
        return
    has = f"{facts.name} holds {_gib(need)} of weights per node, and the largest node has {_gib(room)} of memory"
    raise ConsiliumError(
        "does_not_fit",
        f"executor={executor}",
        reason=f"{has}. Choose a smaller or quantised model.",
    )


def notes(shape: Shape) -> tuple[str, ...]:
    """Return sentences for the owner about a shape that works, but slowly."""
    if (
        shape.nodes > 1
        and shape.tensor_parallel > shape.tensor_parallel * shape.pipeline_parallel // shape.nodes
    ):
        return (
            "Tensor parallel crosses nodes: each layer waits for the network. Over Ethernet use pipeline_parallel between nodes.",
        )
    return ()


def invalid(key: str, reason: str) -> ConsiliumError:
    """Return the error for a key that cannot be kept."""
    return ConsiliumError("config_invalid", key=key, reason=reason)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"

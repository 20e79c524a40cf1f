"""Which ways of sharing a model over cards and nodes its shapes allow.

Pure rules over shapes and counts; sources: vLLM's parallel layers (heads, KV heads, feed-forward width) and its `nnodes` checks. Does not know the
configuration tree, and leaves exact memory to the planner: it refuses only what can never fit.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.config import Shape
from consilium.engine.machine import Machine
from consilium.engine.model_facts import ModelFacts
from consilium.kernel.errors import ConsiliumError

_TP_TRIED: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)


def working_tps(facts: ModelFacts) -> tuple[int, ...]:
    """Return the tensor parallel sizes that the model's shapes allow, up to 16."""
    return tuple(tp for tp in _TP_TRIED if tp_fits(facts, tp))


def tp_fits(facts: ModelFacts, tp: int) -> bool:
    """Whether heads, KV heads and feed-forward width can be shared by `tp` ranks. KV heads are copied where there are fewer than ranks."""
    kv = facts.kv_heads
    shares_kv = kv % tp == 0 or tp % kv == 0
    return facts.heads % tp == 0 and shares_kv and facts.intermediate % tp == 0


def working_nodes(shape: Shape, *, on_cores: bool) -> tuple[int, ...]:
    """Return the numbers of nodes that can share the ranks of an engine, in ascending order.

    On cores a node takes one rank of several: vLLM's CPU platform counts one device per node, so the queues of a node's second rank are made as if it stood on
    another node, and the engine does not come up (0.32, MessageQueue.create_from_process_group_single_reader).
    """
    ranks = shape.tensor_parallel * shape.pipeline_parallel
    return tuple(
        n for n in range(1, ranks + 1) if ranks % n == 0 and (not on_cores or n in {1, ranks})
    )


def check_shape(shape: Shape, facts: ModelFacts, *, key: str, on_cores: bool) -> None:
    """Raise ConsiliumError(config_invalid), naming the values that work, if the model cannot be shared like that.

    key       where the shape stands in the configuration: "topology" or "executors.<name>"
    on_cores  whether its ranks compute on cores
    """
    tensor, pipeline, nodes = shape.tensor_parallel, shape.pipeline_parallel, shape.nodes
    if not tp_fits(facts, tensor):
        works = ", ".join(map(str, working_tps(facts)))
        has = f"{facts.name} has {facts.heads} heads, {facts.kv_heads} KV heads and width {facts.intermediate}"
        raise invalid(
            f"{key}.tensor_parallel",
            f"{has}, which {tensor} ranks cannot share. Values that work: {works}",
        )
    if pipeline > facts.layers:
        raise invalid(
            f"{key}.pipeline_parallel",
            f"{facts.name} has {facts.layers} layers, so at most {facts.layers} stages",
        )
    if nodes not in (can := working_nodes(shape, on_cores=on_cores)):
        ranks = tensor * pipeline
        shares = (
            f"{nodes} nodes cannot share {ranks} ranks (tensor_parallel x pipeline_parallel) evenly"
        )
        if ranks % nodes == 0:
            shares = f"on cores vLLM puts one rank on each of several nodes, and {ranks} ranks (tensor_parallel x pipeline_parallel) are {ranks // nodes} on each"
        raise invalid(f"{key}.nodes", f"{shares}. Values that work: {', '.join(map(str, can))}")


def check_weights_on_cards(
    facts: ModelFacts, *, ranks: int, utilisation: float, machine: Machine, executor: str
) -> None:
    """Raise ConsiliumError(does_not_fit), naming the knob, if the weights alone are larger than the largest card. Unknown sizes pass."""
    largest = max((gpu.memory_bytes for node in machine.nodes for gpu in node.gpus), default=0)
    room = largest * utilisation
    share = facts.weight_bytes / ranks
    if not room or share <= room:
        return
    works = [tp for tp in working_tps(facts) if facts.weight_bytes / tp <= room]
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

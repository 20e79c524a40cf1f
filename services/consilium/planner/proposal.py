"""The exact configuration for a plan: consilium.yaml to paste and the same as a vLLM command; and back from a file to a question.

Writes YAML by hand, in a fixed order, so that two equal plans give equal text. Does not know the machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from consilium.planner import lora
from consilium.planner.ask import Ask
from consilium.planner.figures import GIB
from consilium.planner.rope import Reach

_QUANTIZATION = {"fp8": "fp8", "int4": "awq", "int8": "gptq", "nvfp4": "modelopt_fp4"}
_MODULES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "experts": ("experts", "gate"),
    "head": ("lm_head",),
}


def settings(ask: Ask, reach: Reach | None = None) -> dict[str, Any]:
    """Return the `engine:` block of consilium.yaml for a question."""
    batch = ask.batch
    found: dict[str, Any] = {
        "max_model_len": ask.context,
        "max_num_seqs": batch.sequences,
    }
    if (
        ask.batched_tokens is not None or not ask.on_cpu
    ):  # on processors the engine sizes its steps by its cores
        found["max_num_batched_tokens"] = batch.tokens
    if ask.on_cpu or ask.kv_bytes is not None:
        found["kv_cache_gib"] = round((ask.kv_bytes or GIB) / GIB, 3)
    if not ask.on_cpu:
        found["gpu_memory_utilization"] = round(ask.share, 4)
    if ask.kv_dtype not in {"bf16", "fp16"}:
        found["kv_cache_dtype"] = ask.kv_dtype
    if ask.weights in _QUANTIZATION:
        found["quantization"] = _QUANTIZATION[ask.weights]
    if not ask.prefix_caching:
        found["prefix_caching"] = False
    if reach is not None and reach.overrides:
        found["hf_overrides"] = reach.overrides
    if ask.cut.partition:
        found["env"] = {
            "VLLM_PP_LAYER_PARTITION": ",".join(str(count) for count in ask.cut.partition)
        }
    found |= _lora(ask)
    extra = _extra(ask)
    if extra:
        found["extra_args"] = extra
    return found


def _lora(ask: Ask) -> dict[str, Any]:
    """Return the block `lora`; nothing where LoRA is off."""
    if not ask.lora.slots:
        return {}
    found: dict[str, Any] = {
        "slots": ask.lora.slots,
        "max_rank": lora.rank_step(ask.lora.rank),
        "ram": max(ask.lora.host_adapters, ask.lora.slots),
    }
    if set(ask.lora.targets) != set(lora.GROUPS):
        found["target_modules"] = [
            module for group in ask.lora.targets for module in _MODULES[group]
        ]
    return {"lora": found}


def checkpoint_note(formats: Iterable[tuple[str, str]]) -> str:
    """Return what to mind when a file names a model in a format that its own files do not have; '' when there is nothing.

    formats  (format planned, format of the files that the name stands for) of each engine

    vLLM converts bf16 files to fp8 while it loads; every other format has to be in the files already.
    """
    foreign = sorted(
        {
            planned
            for planned, own in formats
            if planned in _QUANTIZATION and planned not in {"fp8", own}
        }
    )
    if not foreign:
        return ""
    return f"Before you start it: put the name of the {' or '.join(foreign)} checkpoint in place of the model's. vLLM does not make one from other files."


def _extra(ask: Ask) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if ask.lora.slots:
        if ask.lora.fully_sharded:
            extra["fully_sharded_loras"] = True
        if ask.lora.shared_outer:
            extra["enable_moe_shared_loras"] = True
    if ask.cut.expert_parallel:
        extra["enable_expert_parallel"] = True
    if ask.weights_to_ram:
        extra["cpu_offload_gb"] = round(ask.weights_to_ram / GIB, 3)
    if ask.kv_to_ram:
        extra["kv_offloading_size"] = round(ask.kv_to_ram / GIB, 3)
    return extra


def document(ask: Ask, model: str, replicas: int = 1, reach: Reach | None = None) -> dict[str, Any]:
    """Return the consilium.yaml tree: model, topology, engine."""
    topology: dict[str, Any] = {
        "kind": "sharded" if ask.cut.cards > 1 else "replicas",
        "replicas": replicas,
    }
    if ask.cut.tp > 1:
        topology["tensor_parallel"] = ask.cut.tp
    if ask.cut.pp > 1:
        topology["pipeline_parallel"] = ask.cut.pp
    topology["device"] = "cpu" if ask.on_cpu else "gpu"
    return {"model": model, "topology": topology, "engine": settings(ask, reach)}


def hybrid(seats: Sequence[tuple[Ask, str, int]]) -> dict[str, Any]:
    """Return the consilium.yaml tree of a core (the first seat) and executors beside it: (question, model, copies) each."""
    core, *hands = seats
    tree = document(core[0], core[1], core[2])
    tree["topology"] = {**tree["topology"], "kind": "hybrid"}
    rows: dict[str, Any] = {}
    for number, (ask, model, copies) in enumerate(hands, start=1):
        own = document(ask, model, copies)
        shape = {key: value for key, value in own["topology"].items() if key != "kind"}
        rows["hands" if len(hands) == 1 else f"hands-{number}"] = {
            "kind": "engine",
            "model": model,
            **shape,
            "engine": own["engine"],
        }
    return {**tree, "executors": rows}


def yaml_text(tree: Mapping[str, Any], indent: int = 0) -> str:
    """Return a tree of plain values as YAML. JSON scalars and lists are valid YAML."""
    lines = []
    for key, value in tree.items():
        pad = "  " * indent
        if isinstance(value, Mapping):
            lines.append(f"{pad}{key}:")
            lines.append(yaml_text(value, indent + 1).rstrip("\n"))
        else:
            lines.append(f"{pad}{key}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    if (
        isinstance(value, str)
        and value
        and all(ch.isalnum() or ch in "._/-" for ch in value)
        and not value[0].isdigit()
    ):
        return value
    return json.dumps(value, ensure_ascii=False)


def command(ask: Ask, model: str, reach: Reach | None = None) -> str:
    """Return the same as a vLLM server command, for whoever runs without Consilium."""
    engine = settings(ask, reach)
    words = [
        *(f"{name}={value}" for name, value in engine.get("env", {}).items()),
        f"vllm serve {model}",
    ]
    names = {
        "max_model_len": "--max-model-len",
        "max_num_seqs": "--max-num-seqs",
        "max_num_batched_tokens": "--max-num-batched-tokens",
        "gpu_memory_utilization": "--gpu-memory-utilization",
        "kv_cache_dtype": "--kv-cache-dtype",
        "quantization": "--quantization",
    }
    words += [f"{names[key]} {value}" for key, value in engine.items() if key in names]
    if "kv_cache_gib" in engine:
        words.append(f"--kv-cache-memory-bytes {round(engine['kv_cache_gib'] * GIB)}")
    if ask.cut.tp > 1:
        words.append(f"--tensor-parallel-size {ask.cut.tp}")
    if ask.cut.pp > 1:
        words.append(f"--pipeline-parallel-size {ask.cut.pp}")
    if "hf_overrides" in engine:
        words.append(
            f"--hf-overrides '{json.dumps(engine['hf_overrides'], separators=(',', ':'))}'"
        )
    for key, value in {**_lora_flags(engine.get("lora")), **engine.get("extra_args", {})}.items():
        flag = "--" + key.replace("_", "-")
        words.append(
            flag
            if value is True
            else f"{flag} {' '.join(value) if isinstance(value, list) else value}"
        )
    return " ".join(words)


def _lora_flags(block: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the flags of vLLM's command line for a block `engine.lora`."""
    if block is None:
        return {}
    flags = {
        "enable_lora": True,
        "max_loras": block["slots"],
        "max_lora_rank": block["max_rank"],
        "max_cpu_loras": block["ram"],
        "lora_target_modules": block.get("target_modules"),
    }
    return {name: value for name, value in flags.items() if value is not None}

"""Adapters made on the spot for the tiny model: each changes the answer in a way of its own."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from consilium.demo import tiny
from consilium.engine.adapter_ports import AdapterTarget

_SIZES = {
    "self_attn.q_proj": (tiny.HIDDEN, tiny.HEADS * tiny.HEAD_DIM),
    "self_attn.v_proj": (tiny.HIDDEN, tiny.KV_HEADS * tiny.HEAD_DIM),
    "self_attn.o_proj": (tiny.HEADS * tiny.HEAD_DIM, tiny.HIDDEN),
    "mlp.down_proj": (tiny.INTERMEDIATE, tiny.HIDDEN),
}


def make(folder: Path, seed: int, *, rank: int = 8, spread: float = 0.5) -> AdapterTarget:
    """Write an adapter and return it as a router would tell of it. spread 0 = it changes nothing."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for layer in range(tiny.LAYERS):
        for module, (taken, given) in _SIZES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            a = draw.normal(0, taken**-0.5, (rank, taken))
            b = draw.normal(0, spread, (given, rank)) if spread else np.zeros((given, rank))
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in _SIZES}),
        "base_model_name_or_path": "tiny",
    }
    sha = hashlib.sha256(f"{seed} {rank} {spread}".encode()).hexdigest()
    path = folder / sha
    path.mkdir(parents=True)
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config))
    size = sum(file.stat().st_size for file in path.iterdir())
    number = int(sha[:16], 16) % (2**31 - 1) + 1
    return AdapterTarget(f"a{seed}:{sha[:16]}", sha, number, rank, size, str(path))

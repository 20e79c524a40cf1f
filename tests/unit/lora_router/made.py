"""Adapters made on the spot, whole or broken: a configuration, tensors as arrays, and the bytes of a safetensors file under full control."""

import json
import struct

import numpy as np

TINY = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}
TINY_MOE = TINY | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
WIDTHS = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (64, 32),
    "self_attn.v_proj": (64, 32),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (64, 96),
    "mlp.up_proj": (64, 96),
    "mlp.down_proj": (96, 64),
}
EXPERT = {"gate_proj": (64, 32), "up_proj": (64, 32), "down_proj": (32, 64)}
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
SIZES = {"BF16": 2, "F16": 2, "F32": 4}


def config(**over):
    """Return what PEFT 0.21 writes, with other values; a value of `...` takes the key out."""
    found = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "Qwen/Qwen3-tiny",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "kasa_config": None,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "lora_ga_config": None,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "monteclora_config": None,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": 8,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
        "velora_config": None,
    } | over
    return {key: value for key, value in found.items() if value is not ...}


def modules(kinds=ATTENTION, layers=2):
    """Return module -> (in, out) of the tiny model."""
    return {
        f"model.layers.{layer}.{kind}": WIDTHS[kind] for layer in range(layers) for kind in kinds
    }


def expert_modules(layers=2, experts=4):
    """Return module -> (in, out) of all experts of the tiny mixture, one by one."""
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{kind}": EXPERT[kind]
        for layer in range(layers)
        for expert in range(experts)
        for kind in EXPERT
    }


def factors(named, ranks=8, seed=1, size=0.05):
    """Return tensors by name: random factors for module -> (in, out). `ranks` is a number or a function of the module."""
    rng = np.random.default_rng(seed)
    found = {}
    for module, (wide, out) in named.items():
        r = ranks(module) if callable(ranks) else ranks
        found[f"base_model.model.{module}.lora_A.weight"] = rng.normal(0, size, (r, wide))
        found[f"base_model.model.{module}.lora_B.weight"] = rng.normal(0, size, (out, r))
    return {name: values.astype(np.float32) for name, values in found.items()}


def fused_experts(r=8, layers=2, experts=4, seed=1, size=0.05):
    """Return tensors of experts that are stored together, as PEFT's target_parameters makes them."""
    named = {}
    for layer in range(layers):
        named[f"model.layers.{layer}.mlp.experts.base_layer"] = (64, 64)
        named[f"model.layers.{layer}.mlp.experts"] = (32, 64)
    return factors(named, r * experts, seed, size)


def packed(values, dtype):
    """Return an array as tensor bytes. BF16 is rounded to the nearest."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def header_and_body(tensors, dtype="F32"):
    """Return the header as a dictionary and the bytes of the tensors; broken files change the first."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        kind = dtype.get(name, "F32") if isinstance(dtype, dict) else dtype
        raw = packed(values, kind)
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    return header, body


def joined(header, body):
    """Return a safetensors file of a header (a dictionary or bytes) and a body."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def write(folder, tensors=None, *, dtype="F32", raw=None, told=None, **over):
    """Write an adapter into `folder` and return the folder.

    tensors  by name; None = rank 8 on attention
    raw      the whole safetensors file in their place
    told     the configuration in bytes in place of config(**over)
    """
    folder.mkdir(parents=True, exist_ok=True)
    if raw is None:
        raw = joined(*header_and_body(factors(modules()) if tensors is None else tensors, dtype))
    (folder / "adapter_model.safetensors").write_bytes(raw)
    (folder / "adapter_config.json").write_bytes(
        json.dumps(config(**over)).encode() if told is None else told
    )
    return folder

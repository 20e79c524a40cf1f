"""Whole adapters that do not fit, each with the code of the rule that refuses it."""

from tests.unit.lora_router import made
from tests.unit.lora_router.hostile import of_config


def of_modules(named, ranks=8, **over):
    return lambda folder: made.write(folder, made.factors(named, ranks), **over)


def without(named, part):
    return {module: widths for module, widths in named.items() if part not in module}


def half_fused(folder):
    made.write(folder, _without(made.fused_experts(), "base_layer"))


def _without(tensors, part):
    return {name: values for name, values in tensors.items() if part not in name}


def uneven(module):
    return 4 if ".experts.2." in module else 8


MISFITS = {
    "wider": (
        "shape_differs",
        "dense",
        of_modules({"model.layers.0.self_attn.q_proj": (128, 128)}),
    ),
    "in and out changed": (
        "shape_differs",
        "dense",
        of_modules({"model.layers.0.mlp.down_proj": (64, 96)}),
    ),
    "a base whose name matches and whose widths do not": (
        "shape_differs",
        "dense",
        of_modules(
            {"model.layers.0.self_attn.k_proj": (64, 64)}, base_model_name_or_path="Qwen/Qwen3-tiny"
        ),
    ),
    "B of one row": (
        "shape_differs",
        "dense",
        of_modules({"model.layers.0.self_attn.q_proj": (64, 1)}),
    ),
    "a layer beyond the last": ("layer_beyond", "dense", of_modules(made.modules(layers=3))),
    "a name that vLLM takes and skips": (
        "module_absent",
        "dense",
        of_modules({"model.layers.0.self_attnX.q_proj": (64, 64)}),
    ),
    "no layers before it": ("module_absent", "dense", of_modules({"model.q_proj": (64, 64)})),
    "the prefix of another wrapper": (
        "prefix",
        "dense",
        of_modules({"model.language_model.layers.0.self_attn.q_proj": (64, 64)}),
    ),
    "no model before it": ("prefix", "dense", of_modules({"layers.0.self_attn.q_proj": (64, 64)})),
    "what sees": (
        "vision_module",
        "fused",
        of_modules({"model.visual.blocks.0.attn.qkv": (64, 192)}),
    ),
    "packed already": (
        "module_absent",
        "dense",
        of_modules({"model.layers.0.self_attn.qkv_proj": (64, 128)}),
    ),
    "experts on a dense model": ("experts_absent", "dense", of_modules(made.expert_modules())),
    "an MLP where experts are": (
        "mlp_absent",
        "moe",
        of_modules({"model.layers.0.mlp.up_proj": (64, 96)}),
    ),
    "an expert too many": ("expert_beyond", "moe", of_modules(made.expert_modules(experts=5))),
    "experts left out": ("experts_incomplete", "moe", of_modules(made.expert_modules(experts=3))),
    "a projection left out": (
        "experts_incomplete",
        "moe",
        of_modules(without(made.expert_modules(), "up_proj")),
    ),
    "experts of several ranks": (
        "experts_ranks_differ",
        "moe",
        of_modules(made.expert_modules(), uneven, rank_pattern={r"experts\.2\.\w+": 4}),
    ),
    "experts together on an engine that has them apart": (
        "experts_3d",
        "moe",
        lambda folder: made.write(folder, made.fused_experts()),
    ),
    "experts apart on an engine that has them together": (
        "experts_2d",
        "fused",
        of_modules(
            {f"model.language_model.{name[6:]}": w for name, w in made.expert_modules().items()}
        ),
    ),
    "too many experts together": (
        "experts_count",
        "mixed",
        lambda folder: made.write(folder, made.fused_experts(experts=8)),
    ),
    "half of the experts' projections together": ("experts_incomplete", "mixed", half_fused),
    "a rank beyond the slots": ("rank_too_large", "small", of_config()),
    "a module without a slot": (
        "module_no_slot",
        "narrow",
        of_modules(made.modules(("mlp.up_proj",))),
    ),
}
"""Whole adapters that do not fit: (code, engine, maker)."""

"""The rules for adapters against the libraries that they speak of: vLLM's own reading of a configuration, of names and of slots, and transformers' own modules. No engine is started."""

import ast
import importlib.util
import json
import random
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from consilium.engine import heavy_imports
from consilium.lora_router import adapter_config, base_modules, fit
from consilium.planner.lora import RANKS
from tests.unit.lora_router import made

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

SMALL = made.TINY | {"num_hidden_layers": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED = {"shared_expert_intermediate_size": 48}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
KINDS = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {},
    "qwen3_moe": EXPERTS | {"mlp_only_layers": [1], "decoder_sparse_step": 1},
    "qwen2_moe": EXPERTS | SHARED | {"decoder_sparse_step": 2},
    "qwen3_next": EXPERTS | SHARED | LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": EXPERTS | SHARED | LINEAR,
}


@pytest.fixture(autouse=True, scope="module")
def _vllm():
    pytest.importorskip("vllm")
    heavy_imports.load("consilium.engine.backends.vllm")


def helper(**over):
    from vllm.lora.peft_helper import PEFTHelper

    return PEFTHelper.from_dict(made.config(**over))


def test_every_key_that_vllm_reads_is_known_here():
    from vllm.lora.peft_helper import PEFTHelper

    read = {field.name for field in fields(PEFTHelper) if not field.name.startswith("vllm_")}
    known = adapter_config.HONOURED | adapter_config.NEUTRAL | adapter_config.UNSUPPORTED.keys()
    assert not read - known
    needed = PEFTHelper.from_dict
    for key in ("r", "lora_alpha", "target_modules"):
        with pytest.raises(ValueError, match=key):
            needed({name: value for name, value in made.config().items() if name != key})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("alora_invocation_tokens", [1]),
        ("layer_replication", [[0, 1]]),
        ("use_bdlora", {"nblocks": 2}),
        ("use_qalora", True),
        *(
            ("init_lora_weights", name)
            for name in ("pissa", "olora", "corda", "loftq", "PiSSA_niter_4")
        ),
    ],
)
def test_what_vllm_refuses_is_refused_here(key, value):
    from consilium.kernel.errors import ConsiliumError

    assert helper(**{key: value})._validate_features()
    with pytest.raises(ConsiliumError):
        adapter_config.parse(json.dumps(made.config(**{key: value})).encode())


@pytest.mark.parametrize("init", [True, False, "gaussian", "EVA", "orthogonal", "mica", "lora_ga"])
def test_what_vllm_takes_is_taken_here(init):
    assert not helper(init_lora_weights=init)._validate_features()
    adapter_config.parse(json.dumps(made.config(init_lora_weights=init)).encode())


KEYS = (
    "q_proj",
    "self_attn.q_proj",
    r"layers\.1\.self_attn\.(q|k)_proj",
    "^model.layers.0.self_attn.q_proj",
    "layers.[0-9]+.mlp.*",
    r".*\.down_proj",
    "proj",
    "_proj",
    "experts.gate_up_proj",
    r"mlp\.experts\.down_proj",
    r"experts\.\d+\.\w+",
    "model.layers.1",
)
NAMES = (
    *made.modules(tuple(made.WIDTHS)),
    *made.expert_modules(),
    "model.layers.0.mlp.experts",
    "model.layers.0.mlp.experts.base_layer",
)


@pytest.mark.parametrize("seed", range(40))
def test_ranks_and_scales_are_those_of_vllm(seed):
    rng = random.Random(seed)
    over = {
        "r": rng.choice([1, 8, 12]),
        "lora_alpha": rng.choice([4, 16, 7.5]),
        "use_rslora": rng.random() < 0.5,
        "rank_pattern": {
            key: rng.choice([2, 4, 64]) for key in rng.sample(KEYS, rng.randint(0, 4))
        },
        "alpha_pattern": {
            key: rng.choice([1, 3, 64]) for key in rng.sample(KEYS, rng.randint(0, 4))
        },
    }
    ours, theirs = adapter_config.parse(json.dumps(made.config(**over)).encode()), helper(**over)
    for name in NAMES:
        assert ours.rank_and_scale(name) == theirs.get_rank_and_scaling(name), (over, name)
    assert ours.largest_rank == max([theirs.r, *theirs.rank_pattern.values()])


def test_names_are_read_as_vllm_reads_them(tmp_path):
    from vllm.lora.utils import parse_fine_tuned_lora_name

    from consilium.lora_router import adapter_files

    tensors = made.factors(made.modules(tuple(made.WIDTHS))) | made.fused_experts()
    for pair in adapter_files.read(made.write(tmp_path / "a", tensors)).pairs:
        assert parse_fine_tuned_lora_name(pair.a.name) == (pair.module, True)
        assert parse_fine_tuned_lora_name(pair.b.name) == (pair.module, False)


def test_the_ranks_of_slots_are_those_of_vllm():
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == RANKS
    assert RANKS[-1] == adapter_config.LARGEST_RANK


@pytest.mark.parametrize(
    "targets",
    [
        ("q_proj",),
        ("qkv_proj",),
        ("gate_proj", "o_proj"),
        ("down_proj",),
        ("gate_up_proj",),
        ("experts",),
        ("nothing",),
    ],
)
def test_slots_are_where_vllm_makes_them(targets):
    """vLLM asks for each of its own modules, in which projections are packed."""
    from vllm.lora.utils import is_in_target_modules

    packed = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    parents = {child: parent for parent, children in packed.items() for child in children}
    base = base_modules.of(made.TINY_MOE | {"mlp_only_layers": [1]}, "tiny")
    for name, widths in base.modules.items():
        head, _, last = name.partition(".experts.") if ".experts." in name else name.rpartition(".")
        own = (
            f"model.{head}.experts"
            if ".experts." in name
            else f"model.{head}.{parents.get(last, last)}"
        )
        described = made_described({f"model.{name}": (8, *widths)})
        found = fit.check(described, base, fit.Wanted(target_modules=targets))
        refused = "module_no_slot" in {refusal.code for refusal in found.refusals}
        assert refused is not is_in_target_modules(own, list(targets), packed), (name, own)


def made_described(modules):
    from consilium.lora_router.ports import Described

    return Described("0" * 64, 8, 1, modules)


@pytest.mark.parametrize("kind", KINDS)
def test_modules_and_widths_are_those_of_transformers(kind):
    """Experts stand in transformers 5 as one parameter, in adapters one by one or together: their widths are compared."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, **{key: value for key, value in (SMALL | KINDS[kind]).items() if key != "model_type"}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    theirs = {
        name.removeprefix("model."): (module.weight.shape[1], module.weight.shape[0])
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2
        and not name.endswith(("embed_tokens", "lm_head"))
    }
    base = base_modules.of(json.loads(config.to_json_string(use_diff=False)), kind)
    ours = {name: widths for name, widths in base.modules.items() if ".experts." not in name}
    assert ours == theirs
    for name, values in model.named_parameters():
        if name.endswith("experts.down_proj"):
            layer = name.removeprefix("model.").removesuffix(".down_proj")
            experts, out, wide = values.shape
            single = {
                name for name in base.modules if name.startswith(f"{layer}.") and "down" in name
            }
            assert len(single) == experts
            assert {base.modules[name] for name in single} == {(wide, out)}


MODELS = {
    "qwen3_vl": ("qwen3_vl", "Qwen3VLForConditionalGeneration"),
    "qwen3_vl_moe": ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    "qwen2_vl": ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    "qwen3_5": ("qwen3_5", "Qwen3_5ForConditionalGeneration"),
    "qwen3_5_moe": ("qwen3_5", "Qwen3_5MoeForConditionalGeneration"),
    "qwen3_5_text": ("qwen3_5", "Qwen3_5ForCausalLM"),
    "qwen3_5_moe_text": ("qwen3_5", "Qwen3_5MoeForCausalLM"),
    "qwen3_moe": ("qwen3_moe", "Qwen3MoeForCausalLM"),
    "qwen2_moe": ("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
}
"""Kind -> file and class of vLLM. They are read, not imported: those with vision need libraries that an engine on processors does not have."""


def told_in(where, what):
    """Return (prefix -> new prefix, whether experts are kept together) of a class of vLLM, from its own text and that of its parents."""
    source = Path(importlib.util.find_spec("vllm").origin).parent
    tree = ast.parse((source / "model_executor/models" / f"{where}.py").read_text())
    cls = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == what), None)
    if cls is None:
        places = {name: file for file, name in MODELS.values()}
        return told_in(places[what], what) if places.get(what, where) != where else ({}, False)
    fields = {ast.unparse(target): node.value for node in cls.body for target in targets_of(node)}
    parents = [told_in(where, base.id) for base in cls.bases if isinstance(base, ast.Name)]
    mapper, fused = fields.get("hf_to_vllm_mapper"), fields.get("is_3d_moe_weight")
    found = {}
    for node in ast.walk(mapper) if mapper else ():
        if isinstance(node, ast.Attribute) and node.attr == "hf_to_vllm_mapper":
            found |= told_in(where, node.value.id)[0]
        if isinstance(node, ast.keyword) and node.arg == "orig_to_new_prefix":
            found |= ast.literal_eval(node.value)
    if mapper is None:
        found = next((told for told, _ in parents if told), {})
    return found, ast.literal_eval(fused) if fused else any(is_3d for _, is_3d in parents)


def targets_of(node):
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) and node.value else []


@pytest.mark.parametrize("kind", MODELS)
def test_prefixes_and_layouts_are_those_of_vllm(kind):
    from vllm.model_executor.models.utils import WeightsMapper

    prefixes, fused = told_in(*MODELS[kind])
    mapper = WeightsMapper(orig_to_new_prefix=prefixes)
    sees = "ForConditional" in MODELS[kind][1]
    text = SMALL | (EXPERTS if "moe" in kind else {}) | (LINEAR if "qwen3_5" in kind else {})
    seeing = {"model_type": kind, "text_config": text, "vision_config": {}}
    base = base_modules.of(seeing if sees else text | {"model_type": kind}, kind)
    inside = "language_model.model.layers.0.x" if sees else "model.layers.0.x"
    reach = {
        prefix
        for prefix in ("model.language_model.", "model.", "")
        if mapper.map_name(f"{prefix}layers.0.x") == inside
    }
    assert set(base.prefixes) == reach
    assert base.fused is fused

"""What a model folder says about itself."""

import json

import pytest

from consilium.engine import model_facts
from consilium.engine.parsers import Parsers
from consilium.kernel.errors import ConsiliumError

QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "max_position_embeddings": 262144,
}


def folder(root, config=QWEN3_MOE, template=None, weights=1000):
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(config))
    if template is not None:
        (root / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    if weights:
        (root / "model-00001.safetensors").write_bytes(b"x" * weights)
    return root


def test_a_mixture_of_experts(tmp_path):
    facts = model_facts.read(
        folder(tmp_path, template="{% if tools %}<tool_call>{% endif %}"), "qwen"
    )
    shape = facts.shape
    assert (shape.layers, shape.heads, shape.kv_heads, shape.experts, shape.expert_width) == (
        48,
        32,
        4,
        128,
        768,
    )
    assert (facts.weights, facts.weight_bytes) == ("bf16", 1000)
    assert facts.parsers == Parsers(None, "hermes")
    assert not facts.is_base


def test_a_vision_model_keeps_its_shapes_in_text_config(tmp_path):
    facts = model_facts.read(
        folder(
            tmp_path,
            {
                "architectures": ["X"],
                "model_type": "x",
                "text_config": QWEN3_MOE,
                "vision_config": {},
            },
        ),
        "vl",
    )
    assert facts.vision
    assert facts.shape.heads == 32
    assert facts.model_type == "qwen3_moe"


def test_the_owners_template_counts_and_not_the_models_own(tmp_path):
    facts = model_facts.read(folder(tmp_path), "m")
    assert (facts.has_template, facts.parsers.tools) == (False, None)
    other = model_facts.with_template(facts, "{% for tool in tools %}<tool_call>{% endfor %}")
    assert (other.has_template, other.parsers.tools) == (True, "hermes")


def test_mistrals_own_tokenizer_brings_its_format_along(tmp_path):
    root = folder(tmp_path)
    (root / "tekken.json").write_text("{}")
    facts = model_facts.read(root, "m")
    assert (facts.is_base, facts.parsers.tools) == (False, "mistral")


def test_templates_are_found_where_they_may_be(tmp_path):
    one = folder(tmp_path / "jinja", template="from json")
    (one / "chat_template.jinja").write_text("{{ tools }}<tool_call>")
    assert model_facts.read(one, "m").parsers.tools == "hermes"
    named = folder(
        tmp_path / "named",
        template=[
            {"name": "rag", "template": "no"},
            {"name": "default", "template": "{{ tools }}[TOOL_CALLS]"},
        ],
    )
    assert model_facts.read(named, "m").parsers.tools == "mistral"


@pytest.mark.parametrize(
    ("architecture", "is_whole"),
    [
        ("Qwen3ForCausalLM", False),
        ("Qwen2_5_VLForConditionalGeneration", False),
        ("QWenLMHeadModel", False),
        ("InternVLChatModel", False),
        ("XLMRobertaModel", True),
        ("Gemma3TextModel", True),
        ("BertForMaskedLM", True),
        ("Qwen3ForSequenceClassification", True),
    ],
)
def test_what_makes_vectors_reads_its_prompts_whole(tmp_path, architecture, is_whole):
    root = folder(tmp_path, {**QWEN3_MOE, "architectures": [architecture]})
    assert model_facts.read(root, "m").whole_prompts is is_whole
    (root / "modules.json").write_text("[]")
    assert model_facts.read(root, "m").whole_prompts


@pytest.mark.parametrize(
    ("more", "is_whole"),
    [
        ({"kv_lora_rank": 512}, True),  # vLLM cuts no prompt of multi-head latent attention there
        ({"kv_lora_rank": None}, False),
        ({"model_type": "gemma3", "vision_config": {}}, True),
        ({"model_type": "gemma3"}, False),
        ({"model_type": "qwen3_vl", "vision_config": {}}, False),
    ],
)
def test_what_vllm_cannot_cut_is_read_whole(tmp_path, more, is_whole):
    assert model_facts.read(folder(tmp_path, QWEN3_MOE | more), "m").whole_prompts is is_whole


@pytest.mark.parametrize(
    ("model_type", "vocabulary", "reasoning"),
    [
        ("qwen2", '{"added_tokens": [{"content": "<think>"}]}', "deepseek_r1"),
        ("qwen2", '{"added_tokens": [{"content": "<tool_call>"}]}', "qwen3"),
        ("qwen2", None, "deepseek_r1"),
        ("ernie4_5", "{}", None),
        ("qwen3", "{}", "qwen3"),
    ],
)
def test_a_parser_of_thoughts_has_its_marks_in_the_vocabulary(
    tmp_path, model_type, vocabulary, reasoning
):
    """vLLM does not start with one that misses them, and such models worked before."""
    root = folder(tmp_path, QWEN3_MOE | {"model_type": model_type})
    (root / "chat_template.jinja").write_text("{{ messages }}<think>\n")
    if vocabulary is not None:
        (root / "tokenizer.json").write_text(vocabulary)
    facts = model_facts.read(root, "m")
    assert facts.parsers.reasoning == reasoning
    again = model_facts.with_template(facts, '{{ messages }} "<think>"')
    assert again.parsers.reasoning == reasoning


def test_base_models(tmp_path):
    assert model_facts.read(folder(tmp_path / "a"), "Qwen/Qwen3-8B").is_base, "no template"
    assert model_facts.read(folder(tmp_path / "b", template="t"), "Qwen/Qwen3-8B-Base").is_base, (
        "the name says so"
    )
    assert not model_facts.read(folder(tmp_path / "c", template="t"), "Qwen/Database-8B").is_base


def test_a_kind_that_the_planner_does_not_know_has_an_outline(tmp_path):
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "kv_lora_rank": 512,
        "n_routed_experts": 256,
        "moe_intermediate_size": 2048,
    }
    shape = model_facts.read(folder(tmp_path, config), "m").shape
    assert (shape.heads, shape.kv_heads, shape.experts, shape.expert_width) == (128, 128, 256, 2048)


@pytest.mark.parametrize("damage", ["no folder", "no weights", "not json", "no heads", "a list"])
def test_a_damaged_folder_says_what_is_missing(tmp_path, damage):
    root = tmp_path / "m"
    if damage != "no folder":
        config = {
            k: v for k, v in QWEN3_MOE.items() if damage != "no heads" or k != "num_attention_heads"
        }
        folder(root, config, weights=0 if damage == "no weights" else 10)
    if damage == "not json":
        (root / "config.json").write_text("{")
    if damage == "a list":
        (root / "config.json").write_text("[]")
    with pytest.raises(ConsiliumError) as caught:
        model_facts.read(root, "m")
    assert caught.value.code == "model_missing"
    assert str(root) in caught.value.public()

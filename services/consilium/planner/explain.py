"""Explains a configuration file line by line, for a reader who is new: what a key means, what this value says, whether it may be changed.

Knows config.json, adapter_config.json and tokenizer_config.json. consilium.yaml is explained from its own models by the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from consilium.kernel.errors import ConsiliumError
from consilium.planner import edits, kv, lora, rope, weights
from consilium.planner.figures import GIB, table, tokens_in_words
from consilium.planner.models import format_of
from consilium.planner.refusal import wrong
from consilium.planner.shapes import Shape, from_config

Kind = Literal["config", "adapter", "tokenizer"]
_WHEN: Final = {
    "lower": "Lower: ",
    "higher": "Higher: ",
    "higher_with_yarn": "Higher with YaRN: ",
    "above_experts": "Above the number of experts: ",
    "below_half": "Less than half: ",
    "yarn_within": "YaRN up to 4: ",
    "yarn_above": "YaRN above 4: ",
    "not_yarn": "Another kind: ",
    "true_to_false": "To false: ",
    "false_to_true": "To true: ",
}
_CHANGE: Final = {
    "legal": "may be changed",
    "harmful": "can be changed, to your harm",
    "silently_wrong": "loads when changed, and answers wrongly",
    "breaks": "breaks the model when changed",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One key: its value in short, its meaning, and what a change does."""

    key: str
    value: str
    meaning: str
    change: str


def kind_of(data: Mapping[str, Any]) -> Kind:
    """Return which file this is, by its keys. Raises invalid_request when it is none of the three."""
    if "peft_type" in data or ("lora_alpha" in data and "r" in data):
        return "adapter"
    if "tokenizer_class" in data or "chat_template" in data or "added_tokens_decoder" in data:
        return "tokenizer"
    if {"hidden_size", "num_hidden_layers"} & set(data) or isinstance(
        data.get("text_config"), Mapping
    ):
        return "config"
    if "_diffusers_version" in data:
        raise wrong(
            "file",
            "this belongs to a diffusion model; config.json, adapter_config.json and tokenizer_config.json of language models are explained",
        )
    raise wrong(
        "file",
        "this is none of config.json, adapter_config.json, tokenizer_config.json and consilium.yaml; give one of them",
    )


def lines(data: Mapping[str, Any]) -> list[Line]:
    """Return the explanation of every key of a file, in its own order; nested text settings are unfolded."""
    kind = kind_of(data)
    if kind != "config":
        known = table("explain")[kind]
        return [
            Line(
                key,
                short(value),
                known.get(key, {}).get("meaning", "Not in the table."),
                known.get(key, {}).get("note", ""),
            )
            for key, value in data.items()
        ]
    found = []
    for key, value in data.items():
        if key == "text_config" and isinstance(value, Mapping):
            found.append(Line(key, f"{len(value)} keys", edits.meaning(key), ""))
            found += [_config_line(inner, held, data) for inner, held in value.items()]
        else:
            found.append(_config_line(key, value, data))
    return found


def _config_line(key: str, value: object, data: Mapping[str, Any]) -> Line:
    text = data.get("text_config")
    moe = any(
        (block.get("num_experts") or block.get("num_local_experts"))
        for block in (data, text if isinstance(text, Mapping) else {})
    )
    changes: list[str] = []
    for when, verdict, sentence in edits.rules(key):
        if (when == "no_experts") is not moe or when not in {
            "no_experts",
            "within",
            "above_experts",
            "below_half",
        }:
            said = f"{_WHEN.get(when, '')}{_CHANGE[verdict]}. {sentence}"
            changes.append(said)
    return Line(
        key, short(value), edits.meaning(key) or "Not in the table.", " / ".join(changes[:3])
    )


def short(value: object) -> str:
    """Return a value in at most 48 characters."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(str(key) for key in list(value)[:3])}{', ...' if len(value) > 3 else ''}}}"
    if isinstance(value, list) and len(value) > 4:
        kinds = list(dict.fromkeys(str(item) for item in value))
        return f"{len(value)} entries: {', '.join(kinds[:2])}{', ...' if len(kinds) > 2 else ''}"
    text = (
        "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else str(value).replace("\n", " ")
    )
    return text if len(text) <= 48 else text[:45] + "..."


def summary(data: Mapping[str, Any], name: str = "") -> list[str]:
    """Return what the file as a whole says, in sentences."""
    kind = kind_of(data)
    if kind == "config":
        return _config_summary(from_config(data, name), data)
    if kind == "adapter":
        return _adapter_summary(data)
    template = str(data.get("chat_template") or "")
    if not template:
        return [
            "There is no chat template in this file: a base model, or the template lies beside it as chat_template.jinja."
        ]
    knows = [
        word
        for word, sign in (("tools", "tools"), ("thinking", "think"), ("a system role", "system"))
        if sign in template
    ]
    return [
        f"The chat template has {len(template):,} characters and knows {', '.join(knows) or 'plain turns only'}."
    ]


def _config_summary(shape: Shape, data: Mapping[str, Any]) -> list[str]:
    form = format_of(data)
    sizes = ", ".join(
        f"{name} {weights.checkpoint_bytes(shape, name) / GIB:.1f}"
        for name in ("bf16", "fp8", "int4")
    )
    found = [
        f"{shape.params() / 1e9:.2f} billion parameters, {shape.active_params() / 1e9:.2f} billion work for one token. The file is {form}. GiB by format: {sizes}."
    ]
    token = kv.token_bytes(shape, "bf16")
    found.append(
        f"Every token of context takes {token:,} bytes of KV in 16 bits; 32k tokens take {kv.request_bytes(shape, 'bf16', 32_768) / GIB:.1f} GiB."
    )
    if shape.is_moe:
        found.append(
            f"A mixture of experts: all {shape.experts} experts of a layer live in memory, {shape.experts_per_token} work for a token."
        )
    if shape.is_hybrid:
        found.append(
            f"A hybrid: {shape.full_layers} of {shape.layers} layers keep KV that grows; the others keep a state of fixed size."
        )
    if shape.vision_params:
        found.append(
            f"It sees pictures: the tower has {shape.vision_params / 1e6:.0f} million parameters."
        )
    reach = rope.reach(shape, shape.max_positions)
    found.append(
        f"It was trained for {tokens_in_words(reach.native)} tokens; its makers describe up to {tokens_in_words(reach.longest)}."
    )
    return found


def _adapter_summary(data: Mapping[str, Any]) -> list[str]:
    found = [
        f"A {data.get('peft_type', 'LORA')} adapter for {short(data.get('base_model_name_or_path'))}."
    ]
    rank = data.get("r")
    pattern = data.get("rank_pattern")
    ranks = [
        value
        for value in (rank, *(pattern.values() if isinstance(pattern, Mapping) else ()))
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    if ranks and max(ranks) >= 1:
        try:
            found.append(
                f"Rank {max(ranks)}: it needs max_lora_rank {lora.rank_step(max(ranks))}, and every slot is paid for at that rank."
            )
        except ConsiliumError as err:
            found.append(f"The engine refuses it: {err.public()}.")
    found += [f"The engine refuses it: {reason}." for reason in refusals(data)]
    return found


def refusals(data: Mapping[str, Any]) -> list[str]:
    """Return why the engine would refuse an adapter, from its configuration alone. Source: vLLM 0.32."""
    found = []
    if str(data.get("peft_type", "LORA")).upper() != "LORA":
        found.append(f"peft_type is {short(data['peft_type'])}, and only LORA is served")
    if data.get("bias") not in (None, "none"):
        found.append(
            f"bias is {short(data['bias'])}, and trained biases are not served; train with bias none"
        )
    found += [
        f"{key} is set"
        for key in (
            "use_dora",
            "use_qalora",
            "lora_bias",
            "layer_replication",
            "trainable_token_indices",
            "alora_invocation_tokens",
        )
        if data.get(key)
    ]
    saved = data.get("modules_to_save")
    if isinstance(saved, list) and set(saved) - {"classifier", "score"}:
        found.append(f"modules_to_save holds {short(saved)}; only classifier and score are served")
    start = data.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq")):
        found.append(
            f"init_lora_weights is {start}, which changes the base weights; save it converted to a plain LoRA"
        )
    return found

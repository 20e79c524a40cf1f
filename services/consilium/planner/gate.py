"""The check before an engine starts: does this model, with these settings, fit these cards or this RAM?

Pure: takes a config.json, plain settings and plain sizes. Does not look at the machine and does not know consilium.yaml's models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consilium.kernel.errors import ConsiliumError
from consilium.planner import edits, models, rope
from consilium.planner.ask import Ask
from consilium.planner.cards import Card, card
from consilium.planner.figures import GIB, constant, gib, tokens_in_words
from consilium.planner.lora import Slots, targets_named
from consilium.planner.lora_settings import counted
from consilium.planner.refusal import wrong
from consilium.planner.search import changes, longest_context
from consilium.planner.shapes import UNKNOWN_KIND, Shape, from_config
from consilium.planner.sharding import Cut
from consilium.planner.verdict import Plan, Verdict, plan
from consilium.planner.weights import of_method

LEAST_CONTEXT: Final = 1024
ALLOW_LONGER: Final = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


@dataclass(frozen=True, slots=True)
class Gate:
    """What `consilium up` needs to know.

    verdict   fits, tight (start, and warn) or no (refuse)
    sentence  the binding limit and, when it does not fit, the nearest change
    knob      key of consilium.yaml to turn, such as engine.kv_cache_dtype; empty when it fits
    value     its new value
    context   tokens per request that the engine will hold: the asked length, or the longest that fits when none was asked
    """

    verdict: Verdict
    sentence: str
    knob: str
    value: str
    context: int
    plan: Plan | None


def gate(
    config: Mapping[str, Any] | Path | str,
    engine: Mapping[str, Any],
    *,
    cards: Sequence[float | str | Card] = (),
    ram_bytes: int | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    version: str = "0.32.0",
    file_bytes: int = 0,
) -> Gate:
    """Return whether an engine may start.

    config      a config.json as dict, its path, or the folder of the checkpoint
    engine      plain values under the names of `engine:` in consilium.yaml; missing and None mean the default. extra_args are read too
    cards       cards at hand: GiB as torch reports them, names, or Card (cards.from_driver); the smallest decide; empty = a CPU engine in `ram_bytes`
    file_bytes  size of the weight files where known

    Never raises for a configuration that is merely bad: that is a `no` with its sentence. A kind of model that the planner does not know is no reason to
    refuse: that is `tight` without a plan.
    """
    try:
        return _judge(
            config,
            engine,
            cards=[_as_card(one) for one in cards],
            ram=ram_bytes,
            cut=Cut(tensor_parallel, pipeline_parallel),
            version=version,
            size=file_bytes,
        )
    except ConsiliumError as err:
        if err.fields.get("field") == UNKNOWN_KIND:  # the engine may know it: no reason to refuse
            return Gate(
                "tight",
                f"{err.public()}. Whether it fits is not known; it is started without a forecast.",
                "",
                "",
                0,
                None,
            )
        return Gate("no", err.public(), str(err.fields.get("field", "")), "", 0, None)


def _judge(
    config: Mapping[str, Any] | Path | str,
    engine: Mapping[str, Any],
    *,
    cards: list[Card],
    ram: int | None,
    cut: Cut,
    version: str,
    size: int,
) -> Gate:
    loaded, size = _config(config, size)
    overrides = engine.get("hf_overrides") or {}
    refused = edits.refusal_of_overrides(loaded, overrides)
    if refused:
        return Gate("no", refused, "engine.hf_overrides", "", 0, None)
    edited = edits.merged(loaded, overrides)
    shape = from_config(edited, Path(str(config)).name if isinstance(config, Path | str) else "")
    if len(cards) < cut.cards and cards:
        raise wrong(
            "tensor_parallel",
            f"tensor parallel {cut.tp} x pipeline parallel {cut.pp} takes {cut.cards} cards and {len(cards)} are here",
        )
    ask = settings_of(
        engine,
        Ask(
            shape=shape,
            cards=tuple(sorted(cards, key=lambda one: one.total_gib)[: cut.cards]),
            ram_bytes=ram,
            cut=cut,
            version=version,
            weights=models.format_of(loaded),
            weights_bytes=size or None,
        ),
    )
    wanted = engine.get("max_model_len")
    if wanted is None:
        return _whatever_fits(ask.with_(context=shape.max_positions))
    too_long = beyond(shape, int(wanted), engine)
    return (
        Gate("no", too_long, "engine.max_model_len", str(shape.max_positions), 0, None)
        if too_long
        else _verdict(ask.with_(context=int(wanted)))
    )


def beyond(shape: Shape, wanted: int, engine: Mapping[str, Any]) -> str:
    """Return the refusal of a context that is longer than the model's file allows, or nothing. vLLM's engine ends at its start with it."""
    if wanted <= shape.max_positions or str(
        (engine.get("env") or {}).get(ALLOW_LONGER, "0")
    ).lower() in {"1", "true"}:
        return ""
    reach = rope.reach(shape, wanted)
    way = (
        f"To stretch it, set engine.hf_overrides to {json.dumps(reach.overrides)}."
        if reach.overrides
        else reach.sentence
    )
    return f"engine.max_model_len is {wanted}, and {shape.name} allows {shape.max_positions}. Set it to at most that. {way}"


def _config(config: Mapping[str, Any] | Path | str, size: int) -> tuple[Mapping[str, Any], int]:
    if isinstance(config, Mapping):
        return config, size
    path = Path(config)
    if path.is_dir():
        model = models.from_folder(path)
        return model.config, size or model.file_bytes
    return models.read_json(path), size


def _as_card(one: float | str | Card) -> Card:
    if isinstance(one, Card):
        return one
    return card(one) if isinstance(one, str) else Card(f"{one:.1f} GiB card", float(one))


def settings_of(engine: Mapping[str, Any], ask: Ask) -> Ask:
    """Return the question with the settings of an `engine:` block, extra_args of vLLM included."""
    extra = dict(engine.get("extra_args") or {})
    quantization = engine.get("quantization") or extra.get("quantization")
    utilisation = engine.get("gpu_memory_utilization")
    kv_gib = engine.get("kv_cache_gib")
    kv_bytes = round(float(kv_gib) * GIB) if kv_gib else _amount(extra, "kv_cache_memory_bytes")
    weights = of_method(str(quantization), ask.weights) if quantization else ask.weights
    if str(engine.get("dtype") or "") == "float32":
        weights = "fp32"
    return ask.with_(
        weights=weights,
        weights_bytes=ask.weights_bytes if weights == ask.weights else None,
        kv_dtype=str(engine.get("kv_cache_dtype") or "auto") if weights != "fp32" else "fp32",
        sequences=int(engine.get("max_num_seqs") or constant("consilium_sequences")),
        batched_tokens=_int(engine.get("max_num_batched_tokens")),
        utilisation=float(utilisation)
        if utilisation is not None
        else constant("consilium_utilisation"),
        kv_bytes=int(kv_bytes) if kv_bytes else None,
        eager=bool(engine.get("enforce_eager") or ask.on_cpu),
        prefix_caching=engine.get("prefix_caching") is not False,
        lora=_lora(engine.get("lora"), extra, ask.lora),
        cut=Cut(
            ask.cut.tp,
            ask.cut.pp,
            ask.cut.dp,
            expert_parallel=bool(extra.get("enable_expert_parallel", ask.cut.expert_parallel)),
        ),
        weights_to_ram=round(_amount(extra, "cpu_offload_gb") * GIB),
        kv_to_ram=round(_amount(extra, "kv_offloading_size") * GIB),
    )


def _amount(extra: Mapping[str, Any], key: str, default: float = 0) -> float:
    """Return a number of extra_args; the default where it is left out. Raises invalid_request for anything else."""
    value = extra.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 50:
        raise wrong(f"extra_args.{key}", f"it is {str(value)[:40]!r}; give a number of 0 or more")
    return value


def _int(value: object) -> int | None:
    return int(value) if isinstance(value, int | float | str) and value else None


def _lora(block: object, extra: Mapping[str, Any], default: Slots) -> Slots:
    """Return the slots of a `lora` block; one without a number of slots is counted as if no adapter were pinned."""
    if block is None:
        return default
    if not isinstance(block, Mapping):
        raise wrong("engine.lora", f"it is {str(block)[:40]!r}; write slots, max_rank and so on")
    plain = {key: _whole(block, key) for key in ("slots", "max_rank", "ram")}
    modules = block.get("target_modules") or []
    found = counted({**plain, "target_modules": [str(module) for module in modules]}, {}, "core")
    if found is None:
        return default
    return Slots(
        found.slots,
        found.max_rank,
        targets_named(",".join(found.modules)),
        bool(extra.get("fully_sharded_loras")),
        bool(extra.get("enable_moe_shared_loras")),
        found.ram,
    )


def _whole(block: Mapping[str, Any], key: str) -> int | None:
    value = block.get(key)
    if value is None or (key == "slots" and value == "auto"):
        return None
    if key == "slots" and value == 0 and value is not False:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 16:
        raise wrong(f"engine.lora.{key}", f"it is {str(value)[:40]!r}; give a whole number from 1")
    return value


def _whatever_fits(ask: Ask) -> Gate:
    answer, note = held_length(_with_cpu_kv(ask))
    if not note:
        return _gate(answer, answer.ask.context)
    return Gate(
        "tight",
        f"{answer.binding} {note}",
        "engine.max_model_len",
        str(answer.ask.context),
        answer.ask.context,
        answer,
    )


def held_length(ask: Ask) -> tuple[Plan, str]:
    """Return what the engine does when no length is asked: the model's own (ask.context) where it fits, else the longest that does, with a sentence about it.

    A CPU engine has a fixed KV, so the length follows from it. Where nothing fits, the answer is about the least length.
    """
    whole = plan(ask)
    if whole.verdict != "no":
        return whole, ""
    longest = longest_context(ask)
    if longest is None:
        return plan(ask.with_(context=min(LEAST_CONTEXT, ask.context))), ""
    note = f"The context is {tokens_in_words(longest)} tokens, not the model's {tokens_in_words(ask.context)}; set engine.max_model_len to choose."
    return plan(ask.with_(context=longest)), note


def _with_cpu_kv(ask: Ask) -> Ask:
    return (
        ask.with_(kv_bytes=round(constant("cpu_kv_default_gib") * GIB))
        if ask.on_cpu and ask.kv_bytes is None
        else ask
    )


def _verdict(ask: Ask) -> Gate:
    return _gate(plan(_with_cpu_kv(ask)), ask.context)


_PLACES: Final = {
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "quantization": "engine.quantization",
    "max_model_len": "engine.max_model_len",
    "max_num_seqs": "engine.max_num_seqs",
    "max_loras": "engine.lora.slots",
    "tensor_parallel": "topology.tensor_parallel",
    "lora_target_modules": "engine.lora.target_modules",
    "kv_cache_gib": "engine.kv_cache_gib",
    "model": "model",
}


def _gate(answer: Plan, context: int) -> Gate:
    if answer.verdict == "fits":
        return Gate("fits", answer.binding, "", "", context, answer)
    if answer.verdict == "tight":
        return Gate(
            "tight",
            f"{answer.binding} That is tight: {gib(answer.margin):.1f} GiB to spare.",
            "",
            "",
            context,
            answer,
        )
    ask = answer.ask
    grown = _more_kv(ask)
    if grown is not None:
        return Gate(
            "no",
            f"{answer.binding} Set engine.kv_cache_gib to {grown:g}.",
            "engine.kv_cache_gib",
            f"{grown:g}",
            context,
            answer,
        )
    found = next(changes(ask, limit=1), None)
    if found is None:
        return Gate(
            "no",
            f"{answer.binding} No setting helps; choose a smaller model.",
            "model",
            "",
            context,
            answer,
        )
    key, value = found.knobs[0]
    return Gate(
        "no",
        f"{answer.binding} Nearest change: {found.words}.",
        _PLACES.get(key, key),
        value,
        context,
        answer,
    )


def _more_kv(ask: Ask) -> float | None:
    """Return the whole number of GiB of KV that would hold the requests, when only the fixed KV is too small."""
    if ask.kv_bytes is None:
        return None
    need = plan(ask).bill.kv_needed
    if ask.kv_bytes >= need:
        return None
    whole = -(-need // GIB)
    return float(whole) if plan(ask.with_(kv_bytes=whole * GIB)).verdict != "no" else None

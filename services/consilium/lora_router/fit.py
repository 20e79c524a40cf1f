"""Whether an adapter fits a base model: every module is there, has these widths, and has a slot on the engine; ranks are not too large; experts are laid out as
the engine keeps them.

vLLM takes a module by the last part of its name and copies what fits, so a misfit would be loaded, do nothing or half of it, and say nothing. What cannot be told from
shapes, such as another model of the same shapes, is remarked: then only the canary can tell. Pure. Does not know values, files or engines.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from consilium.lora_router import base_name
from consilium.lora_router.base_modules import Base
from consilium.lora_router.ports import Described, Refusal
from consilium.lora_router.refusal import as_error, shown
from consilium.planner.lora import RANKS
from consilium.planner.refusal import nearest

PACKED: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
"""Projections that vLLM keeps in one module: a slot for one is a slot for all of them."""

_LAYER: Final = re.compile(r"^layers\.(\d+)\.")
_VISION: Final = re.compile(r"(^|\.)visual\.")
_EXPERT: Final = re.compile(r"^(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)$")
_FUSED: Final = re.compile(r"^(layers\.\d+\.mlp)\.experts(\.base_layer)?$")
_ANOTHER: Final = "It was trained on another model; serve it on that one, or train it anew"
_WAYS: Final = {
    "prefix": "Save it again from the model that it was trained on",
    "vision_module": "Train it on the language model alone",
}
_CANARY: Final = "Only the canary can tell whether it does what it should"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an engine can hold.

    max_rank        engine.lora.max_rank; None = not asked
    target_modules  engine.lora.target_modules; empty = every module
    mixed_experts   whether the engine takes experts in both layouts
    """

    max_rank: int | None = None
    target_modules: tuple[str, ...] = ()
    mixed_experts: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found: the adapter fits if there is no refusal."""

    refusals: tuple[Refusal, ...] = ()
    remarks: tuple[Refusal, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether nothing refuses it."""
        return not self.refusals

    def demand(self) -> None:
        """Raise ConsiliumError(adapter_refused) with the first refusal."""
        if self.refusals:
            raise as_error(self.refusals[0])


NOTHING: Final = Wanted()


def check(described: Described, base: Base, wanted: Wanted = NOTHING) -> Fit:
    """Return whether an adapter fits a base model and its engine."""
    refusals = [*rank_refusals(described, wanted)]
    if not base.modules:
        return Fit(tuple(refusals), (_unknown(base), *_remarks(described, base, refusals)))
    inside = {module: _bare(module, base) for module in described.modules}
    missing = {module: bare for module, bare in inside.items() if not _is_there(bare, base)}
    refusals += _absent(missing, described, base)
    there = {
        bare: described.modules[module] for module, bare in inside.items() if module not in missing
    }
    refusals += _shapes(there, described, base)
    refusals += _experts(there, described, base, wanted)
    refusals += _slots(there, wanted)
    return Fit(tuple(refusals), tuple(_remarks(described, base, refusals)))


def _bare(module: str, base: Base) -> str:
    """Return a module's name without the prefix that the engine maps, "" where it has none of them."""
    found = next((prefix for prefix in base.prefixes if module.startswith(f"{prefix}layers.")), "")
    return module.removeprefix(found) if found else ""


def _is_there(module: str, base: Base) -> bool:
    fused = _FUSED.match(module)
    return module in base.modules or bool(fused and f"{fused[1]}.gate" in base.modules)


def rank_refusals(described: Described, wanted: Wanted) -> Iterator[Refusal]:
    """Yield a refusal for an adapter whose largest rank no slot of the engine holds."""
    if wanted.max_rank is not None and described.rank > wanted.max_rank:
        yield Refusal(
            "rank_too_large",
            "r",
            f"its largest rank is {described.rank}, and this engine holds {wanted.max_rank}",
            f"Set engine.lora.max_rank to {step_for(described.rank)}; every slot grows with it",
        )


def step_for(rank: int) -> int:
    """Return the engine.lora.max_rank that holds a rank."""
    return next((step for step in RANKS if step >= rank), RANKS[-1])


def sum_refusals(parts: Iterable[Described], wanted: Wanted) -> Iterator[Refusal]:
    """Yield a refusal for adapters whose sum has a rank that no slot of the engine holds: ranks of one module add up."""
    ranks: dict[str, int] = {}
    for part in parts:
        for module, (rank, _, _) in part.modules.items():
            ranks[module] = ranks.get(module, 0) + rank
    module = max(ranks, key=lambda name: ranks[name])
    if wanted.max_rank is not None and ranks[module] > wanted.max_rank:
        yield Refusal(
            "rank_too_large",
            shown(module),
            f"with its core the ranks add up to {ranks[module]}, and this engine holds {wanted.max_rank}",
            f"Set engine.lora.max_rank to {step_for(ranks[module])}; every slot grows with it",
        )


def _absent(missing: Mapping[str, str], described: Described, base: Base) -> Iterator[Refusal]:
    """Yield one refusal for each kind of absence, with its first module and the count."""
    kinds: dict[str, list[str]] = {}
    for module, bare in missing.items():
        kinds.setdefault(_kind_of_absence(module, bare, base), []).append(module)
    for code, modules in kinds.items():
        first = modules[0]
        reason = {
            "layer_beyond": f"this layer is none of {base}",
            "expert_beyond": f"this expert is none of {base}",
            "experts_absent": f"{base} has no experts",
            "vision_module": "it belongs to what sees, which has no slots, and the engine would leave it out without a word",
            "mlp_absent": f"{base} has experts in this layer, not one MLP",
            "prefix": f"modules of {base.kind} begin with {' or '.join(base.prefixes)}layers, and the engine would skip this one without a word",
            "module_absent": f"{base} has no such module, and the engine would skip it without a word; the nearest is {_like(missing[first], base)}",
        }[code]
        yield Refusal(
            code,
            shown(first),
            f"{reason}; {len(modules)} of {len(described.modules)} modules",
            _WAYS.get(code, _ANOTHER),
        )


def _kind_of_absence(module: str, bare: str, base: Base) -> str:
    layer = _LAYER.match(bare)
    if _VISION.search(module):
        return "vision_module"
    if layer is None:
        return "prefix" if re.search(r"(^|\.)layers\.\d+\.", module) else "module_absent"
    if int(layer[1]) >= base.shape.layers:
        return "layer_beyond"
    if ".mlp.experts" in bare:
        return "expert_beyond" if base.shape.experts else "experts_absent"
    if re.search(r"\.mlp\.(gate|up|down)_proj$", bare) and base.shape.experts:
        return "mlp_absent"
    return "module_absent"


def _like(module: str, base: Base) -> str:
    first = [
        name for name in base.modules if name.startswith("layers.0.") and ".experts." not in name
    ]
    return nearest(_LAYER.sub("layers.0.", module), first)


def _shapes(
    there: Mapping[str, tuple[int, int, int]], described: Described, base: Base
) -> Iterator[Refusal]:
    wrong = [
        module for module, (_, wide, out) in there.items() if (wide, out) != _widths(module, base)
    ]
    if not wrong:
        return
    first = wrong[0]
    rank, wide, out = there[first]
    wanted = _widths(first, base)
    turned = " (the other way round)" if (out, wide) == wanted else ""
    yield Refusal(
        "shape_differs",
        shown(first),
        f"A is ({rank}, {wide}) and B ({out}, {rank}), and {base} wants ({rank}, {wanted[0]}) and ({wanted[1]}, {rank}){turned}"
        f"; {len(wrong)} of {len(described.modules)} modules differ",
        f"An adapter never goes over to a model of other widths or layers. {_ANOTHER}",
    )


def _widths(module: str, base: Base) -> tuple[int, int]:
    fused = _FUSED.match(module)
    if fused is None:
        return base.modules[module]
    shape = base.shape
    return (
        (shape.hidden, 2 * shape.expert_width) if fused[2] else (shape.expert_width, shape.hidden)
    )


def _experts(
    there: Mapping[str, tuple[int, int, int]], described: Described, base: Base, wanted: Wanted
) -> Iterator[Refusal]:
    if described.is_3d:
        yield from _fused_experts(there, described, base, wanted)
        return
    single: dict[str, dict[str, dict[int, int]]] = {}
    for module, (rank, _, _) in there.items():
        if found := _EXPERT.match(module):
            single.setdefault(found[1], {}).setdefault(found[3], {})[int(found[2])] = rank
    if single and base.fused and not wanted.mixed_experts:
        yield Refusal(
            "experts_2d",
            next(iter(single)),
            f"its experts are stored one by one, and engines keep those of {base.kind} together",
            "Start the engine with enable_mixed_moe_lora_format (engine.extra_args)",
        )
    yield from _incomplete(single, base)
    for layer, projections in single.items():
        for projection, ranks in projections.items():
            if len(set(ranks.values())) > 1:
                yield Refusal(
                    "experts_ranks_differ",
                    f"{layer}.*.{projection}",
                    f"its experts have ranks {sorted(set(ranks.values()))}, and an engine stacks them with one",
                    "Fill the smaller ones up with zeros; a sum with weight 1 does that",
                )
                return


def _incomplete(
    single: Mapping[str, Mapping[str, Collection[int]]], base: Base
) -> Iterator[Refusal]:
    for layer, projections in single.items():
        for projection in ("gate_proj", "up_proj", "down_proj"):
            there = projections.get(projection, ())
            if len(there) < base.shape.experts:
                yield Refusal(
                    "experts_incomplete",
                    f"{layer}.*.{projection}",
                    f"{len(there)} of {base.shape.experts} experts have it, and an engine stops when one of the three projections of one expert is missing",
                    "Add the missing ones with B = 0",
                )
                return


def _fused_experts(
    there: Mapping[str, tuple[int, int, int]], described: Described, base: Base, wanted: Wanted
) -> Iterator[Refusal]:
    fused = {module: found for module in there if (found := _FUSED.match(module))}
    first = next(iter(fused), "experts")
    if not base.fused and not wanted.mixed_experts:
        yield Refusal(
            "experts_3d",
            first,
            f"its experts are stored together (target_parameters), and engines keep those of {base.kind} one by one",
            "Start the engine with enable_mixed_moe_lora_format (engine.extra_args), or save them one by one",
        )
    if fused and described.config.get("experts") != base.shape.experts:
        yield Refusal(
            "experts_count",
            first,
            f"it holds {described.config.get('experts')} experts, and {base} has {base.shape.experts}",
            _ANOTHER,
        )
    layers: dict[str, int] = {}
    for found in fused.values():
        layers[found[1]] = layers.get(found[1], 0) + 1
    half = next((layer for layer, count in layers.items() if count < 2), None)
    if half:
        yield Refusal(
            "experts_incomplete",
            f"{half}.experts",
            "it has gate_up_proj or down_proj and not both, and an engine stops at that",
            "Add the missing one with B = 0",
        )


def _slots(there: Iterable[str], wanted: Wanted) -> Iterator[Refusal]:
    if not wanted.target_modules:
        return
    targets = set(wanted.target_modules)
    without = [module for module in there if not _has_slot(module, targets)]
    if without:
        yield Refusal(
            "module_no_slot",
            without[0],
            f"{len(without)} modules have no slot on this engine, which would leave them out without a word",
            f"Add {_last(without[0])} to engine.lora.target_modules",
        )


def _has_slot(module: str, targets: set[str]) -> bool:
    """Whether vLLM makes a slot for a module (lora/utils.py, is_in_target_modules): by its last part, its name, or one that is packed with it."""
    last = _last(module)
    own = f"{module.partition('.experts')[0]}.experts" if last == "experts" else module
    if last in targets or f"model.{own}" in targets:
        return True
    return any(
        last in children and (parent in targets or not targets.isdisjoint(children))
        for parent, children in PACKED.items()
        if last != "experts"
    )


def _last(module: str) -> str:
    return "experts" if ".mlp.experts" in module else module.rpartition(".")[2]


def _unknown(base: Base) -> Refusal:
    return Refusal(
        "base_kind_unknown",
        base.name,
        f"the modules of {base.kind or 'this kind of model'} are not known here, so nobody compared them",
        _CANARY,
    )


def _remarks(described: Described, base: Base, refusals: Sequence[Refusal]) -> Iterator[Refusal]:
    """Yield what shapes cannot tell; nothing about an adapter that does not fit."""
    if refusals:
        return
    trained, served = base_name.plain(described.base), base_name.plain(base.name)
    if trained and served and trained != served:
        yield Refusal(
            "base_variant",
            "base_model_name_or_path",
            f"it was trained on {shown(described.base)}, and this is {base.name}: the same shapes do not make the same model",
            _CANARY,
        )
    revision = str(described.config.get("revision") or "")
    if revision and base.revision and revision not in ("main", base.revision):
        yield Refusal(
            "base_revision",
            "revision",
            f"it was trained on revision {shown(revision)}, and this is {base.revision}",
            _CANARY,
        )
    if base.weights not in ("bf16", "fp32"):
        yield Refusal(
            "base_quantised",
            base.name,
            f"its weights are {base.weights}, and some engines write nonsense with adapters over such weights",
            "Let the canary run before it answers anybody",
        )

"""Rules for the tensors of an adapter that need no model: which names they have, which pairs they make, and whether the ranks are those of the configuration.

vLLM takes names by their last part alone and copies whatever shape fits into a slot, so what is wrong here would be loaded and do nothing, or half of it.
Knows names and shapes. Does not know values, files or bases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import patterns
from consilium.lora_router.adapter_config import FILE, Settings
from consilium.lora_router.ports import Refusal
from consilium.lora_router.refusal import refused, shown
from consilium.lora_router.tensor_file import Tensor

PREFIX: Final = "base_model.model."
LONGEST_NAME: Final = 200
_NAME: Final = re.compile(
    r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight"
)
_LONG_NUMBER: Final = re.compile(r"\d{7}")
_PEFT: Final = (
    "Save it with PEFT's save_pretrained, which writes base_model.model.MODULE.lora_A.weight"
)
_PLAIN: Final = "Train plain LoRA on attention and MLP alone"

_FOREIGN: Final[Sequence[tuple[re.Pattern[str], str, str, str]]] = (
    (re.compile(r"lora_magnitude_vector"), "dora", "it is a magnitude of DoRA", _PLAIN),
    (re.compile(r"lora_embedding_[AB]"), "embedding", "it changes an embedding", _PLAIN),
    (
        re.compile(r"trainable_tokens|token_adapter"),
        "trainable_tokens",
        "it changes single tokens",
        _PLAIN,
    ),
    (re.compile(r"modules_to_save"), "modules_to_save", "it replaces a whole module", _PLAIN),
    (
        re.compile(r"(embed_tokens|wte)\."),
        "embedding",
        "it changes the embedding, which has no slot",
        _PLAIN,
    ),
    (
        re.compile(r"(^|\.)(lm_head|score|classifier)\."),
        "head",
        "it changes the head, which has no slot",
        _PLAIN,
    ),
    (
        re.compile(r"\.(bias|lora_bias)$"),
        "bias_tensor",
        "it is a bias, and engines take none",
        _PLAIN,
    ),
    (re.compile(r"lora_kasa|lora_diag|\.lora_E$"), "kasa", "it stands between A and B", _PLAIN),
    (
        re.compile(r"\.(hada_|lokr_|oft_|boft_|vera_|ia3_)"),
        "not_lora",
        "it is of another method than LoRA",
        _PLAIN,
    ),
    (
        re.compile(r"lora_[AB]\.[^.]+\.weight$"),
        "tensor_name",
        "it holds the name of an adapter between lora_A and weight",
        _PEFT,
    ),
)
"""What other methods call their tensors: (name, code, what it is, way out)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two factors of one module.

    module   as PEFT calls it, such as model.layers.0.self_attn.q_proj
    rank     of one expert, where the pair is of fused experts
    scale    alpha/r or alpha/sqrt(r)
    a        (rank, in), or (experts * rank, in)
    b        (out, rank), or (out, rank * experts)
    experts  0 = the pair is of one matrix; else experts are stored together (3D)
    """

    module: str
    rank: int
    scale: float
    a: Tensor
    b: Tensor
    experts: int = 0

    @property
    def width_in(self) -> int:
        """Width of what goes in."""
        return self.a.shape[1]

    @property
    def width_out(self) -> int:
        """Width of what comes out."""
        return self.b.shape[0]


def pairs_of(tensors: Iterable[Tensor], settings: Settings, where: str) -> tuple[Pair, ...]:
    """Return the pairs that the tensors make, by module.

    Raises ConsiliumError(adapter_refused): tensor_name, tensor_unpaired, tensor_shape, transposed, rank_differs, patterns_slow, experts_differ, or a code of _FOREIGN.
    """
    sides: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        module, side = _module_and_side(tensor, where)
        sides.setdefault(module, {})[side] = tensor
    keys = [*settings.rank_pattern, *settings.alpha_pattern]
    if (cost := patterns.steps(keys, len(sides))) > patterns.MOST_STEPS:
        raise refused(
            "patterns_slow",
            FILE,
            f"its {len(keys)} patterns for {len(sides)} modules would take {cost} comparisons at every load",
            "Use plain keys that cover several modules, such as q_proj",
        )
    found = tuple(_pair(module, sides[module], settings, where) for module in sorted(sides))
    _check_experts(found, where)
    return found


def _module_and_side(tensor: Tensor, where: str) -> tuple[str, str]:
    name, place = tensor.name, f"{where}, {shown(tensor.name)}"
    if len(name) > LONGEST_NAME or _LONG_NUMBER.search(name):
        raise refused(
            "tensor_name", place, f"its name has {len(name)} characters or a huge number", _PEFT
        )
    match = _NAME.fullmatch(name)
    for pattern, code, what, way in _FOREIGN:
        if pattern.search(name):
            raise refused(code, place, what, way)
    if match is None or PREFIX in match["module"] or ".." in name:
        raise refused("tensor_name", place, "this is no name of a LoRA factor", _PEFT)
    return match["module"], match["side"]


def _pair(module: str, sides: dict[str, Tensor], settings: Settings, where: str) -> Pair:
    place = f"{where}, {shown(module)}"
    if len(sides) < 2:
        there = next(iter(sides))
        raise refused(
            "tensor_unpaired",
            place,
            f"it has lora_{there} and no lora_{'B' if there == 'A' else 'A'}",
            "Save the adapter again: half of a pair is missing",
        )
    a, b = sides["A"], sides["B"]
    for tensor in (a, b):
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise refused(
                "tensor_shape",
                f"{where}, {shown(tensor.name)}",
                f"its shape is {tensor.shape}, and a factor is a matrix",
                _PLAIN,
            )
    rank, scale = settings.rank_and_scale(module)
    fused = module.endswith((".experts", ".experts.base_layer"))
    if a.shape[0] != b.shape[1] or (a.shape[0] % rank if fused else a.shape[0] != rank):
        raise _rank_wrong(a, b, rank, place)
    return Pair(module, rank, scale, a, b, a.shape[0] // rank if fused else 0)


def _rank_wrong(a: Tensor, b: Tensor, rank: int, place: str) -> ConsiliumError:
    shapes = f"A is {a.shape} and B is {b.shape}"
    if a.shape[1] == b.shape[0] == rank:
        return refused(
            "transposed",
            place,
            f"{shapes}: they are the other way round for rank {rank}",
            "A is (rank, in) and B is (out, rank): transpose both",
        )
    if a.shape[0] != b.shape[1]:
        return refused(
            "pair_differs", place, f"{shapes}: A has not as many rows as B has columns", _PEFT
        )
    return refused(
        "rank_differs",
        place,
        f"{shapes}, and the configuration says rank {rank}, so an engine would scale it wrongly",
        f"Set r or rank_pattern in {FILE} to {a.shape[0]}, if that was the rank of the training",
    )


def _check_experts(pairs: Iterable[Pair], where: str) -> None:
    """Raise where fused experts are counted differently, or stand beside single ones."""
    counts = {pair.experts: pair.module for pair in pairs if pair.experts}
    single = next(
        (pair.module for pair in pairs if ".experts." in pair.module and not pair.experts), ""
    )
    if len(counts) > 1:
        told = ", ".join(f"{count} in {module}" for count, module in counts.items())
        raise refused("experts_differ", where, f"it has experts by different counts: {told}", _PEFT)
    if counts and single:
        raise refused(
            "experts_mixed",
            f"{where}, {single}",
            "it has experts one by one and experts stored together",
            "Save all of them in one of the two layouts",
        )


def remarks_of(pairs: Sequence[Pair], settings: Settings) -> list[Refusal]:
    """Return what is odd and refuses nothing: modules that the configuration names and the file lacks, modules it does not name, patterns for no module."""
    names = [as_matched(pair.module) for pair in pairs]
    return [*_target_remarks(names, set(settings.targets)), *_pattern_remarks(names, settings)]


def _target_remarks(names: Sequence[str], targets: set[str]) -> Iterable[Refusal]:
    if not targets or "all-linear" in targets:
        return
    ends = {end for name in names for end in _ends(name)}
    for target in sorted(targets - ends):
        yield Refusal(
            "target_absent",
            f"{FILE}, target_modules",
            f"it names {shown(target)}, and the file has no such module",
            "Nothing to do if the base has none either; else the file was saved in part",
        )
    beside = [name for name in names if ".experts." not in name and targets.isdisjoint(_ends(name))]
    if beside:
        yield Refusal(
            "module_beside_targets",
            beside[0],
            f"{len(beside)} modules are in the file and not in target_modules: PEFT leaves them out, engines here apply them",
            "Add them to target_modules, so that both do the same",
        )


def _pattern_remarks(names: Sequence[str], settings: Settings) -> Iterable[Refusal]:
    for key in {**settings.rank_pattern, **settings.alpha_pattern}:
        if not any(patterns.first_match([key], name) for name in names):
            yield Refusal(
                "pattern_unused",
                f"{FILE}, {shown(key)}",
                "this pattern matches no module of the file",
                "Nothing to do, unless it is misspelt",
            )


def _ends(module: str) -> list[str]:
    """Return the ends of a name at its dots, the whole name first."""
    parts = module.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]


def as_matched(module: str) -> str:
    """Return the name by which PEFT matches patterns: fused experts are stored as `experts.base_layer` and `experts`."""
    if module.endswith(".experts.base_layer"):
        return module.removesuffix(".base_layer") + ".gate_up_proj"
    return f"{module}.down_proj" if module.endswith(".experts") else module

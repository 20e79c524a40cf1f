"""The question that the planner answers: one engine, its settings, its cards; and the checks that make it a question with an answer.

Does not know the answer (verdict.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from consilium.planner import kv, lora, sharding, step, weights
from consilium.planner.cards import Card
from consilium.planner.figures import GIB, constant
from consilium.planner.lora import Slots
from consilium.planner.overhead import (
    DEFAULT_VERSION,
    Batch,
    default_batch,
    default_utilisation,
    is_version,
    runner_of,
)
from consilium.planner.refusal import wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut

MAX_CONTEXT: Final = 1 << 26
MAX_SEQUENCES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Ask:
    """One engine.

    cards            tp x pp cards, stage by stage; empty for a CPU engine, which has `ram_bytes`
    context          tokens of one request, prompt and answer
    requests         requests of that length that must fit at once
    sequences        max_num_seqs, None = vLLM's default for the card; batched_tokens likewise, and on processors the engine's own (step.py)
    cores            of an engine on processors; None = not known, and the longest step is counted
    utilisation      share of the card, None = the version's default; kv_bytes fixes the KV cache instead
    engines_on_card  engines that share each card evenly
    weights_bytes    measured size of the weight files or of a boot log, replaces the formula (whole model)
    overhead_bytes   measured overhead of one card from a boot log, replaces the estimate
    weights_to_ram   bytes of weights per card that stay in host memory
    """

    shape: Shape
    cards: tuple[Card, ...] = ()
    weights: str = "bf16"
    kv_dtype: str = "bf16"
    cut: Cut = field(default_factory=Cut)
    context: int = 32_768
    requests: int = 1
    sequences: int | None = None
    batched_tokens: int | None = None
    cores: int | None = None
    utilisation: float | None = None
    kv_bytes: int | None = None
    engines_on_card: int = 1
    lora: Slots = field(default_factory=Slots)
    version: str = DEFAULT_VERSION
    runner: str | None = None
    eager: bool = False
    prefix_caching: bool = True
    ram_bytes: int | None = None
    weights_bytes: int | None = None
    overhead_bytes: int | None = None
    weights_to_ram: int = 0
    kv_to_ram: int = 0

    @property
    def on_cpu(self) -> bool:
        """Whether this is a CPU engine."""
        return not self.cards

    @property
    def batch(self) -> Batch:
        """Requests and tokens of one step, with vLLM's defaults where nothing is said."""
        if self.on_cpu:
            sequences = self.sequences or int(constant("consilium_sequences"))
            tokens = (
                step.on_processors(self.shape, self.cores, sequences).tokens
                if self.cores
                else step.most()
            )
            default = Batch(sequences, tokens)
        else:
            weakest = min(self.cards, key=lambda card: card.total_gib)
            default = default_batch(weakest.total_gib, weakest.name)
        return Batch(self.sequences or default.sequences, self.batched_tokens or default.tokens)

    @property
    def share(self) -> float:
        """Share of each card that this engine may take."""
        return (
            self.utilisation
            if self.utilisation is not None
            else default_utilisation(self.version) / self.engines_on_card
        )

    @property
    def model_runner(self) -> str:
        """V0, V1 or V2."""
        return self.runner or runner_of(self.version, self.shape, self.weights)

    def with_(self, **changes: object) -> Ask:
        """Return this question with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def checked(ask: Ask) -> Ask:
    """Return the question with names in their own spelling and ranks on vLLM's steps.

    Raises invalid_request, with what would work, for a question that has no answer.
    """
    ask = ask.with_(
        weights=weights.format_named(ask.weights), kv_dtype=kv.dtype_named(ask.kv_dtype)
    )
    _check_numbers(ask)
    lora.check(ask.shape, ask.lora, ask.cut)
    sharding.check(ask.shape, ask.cut, ask.weights)
    if ask.on_cpu:
        if not ask.ram_bytes:
            raise wrong(
                "gpu",
                "neither a card nor an amount of RAM is given; give --gpu 'RTX 4090' or --ram 64GB",
            )
        return ask
    if len(ask.cards) != ask.cut.cards:
        raise wrong(
            "tensor_parallel",
            f"tensor parallel {ask.cut.tp} x pipeline parallel {ask.cut.pp} takes {ask.cut.cards} cards and {len(ask.cards)} are given",
        )
    old = [card for card in ask.cards if 0 < card.compute_capability < constant("least_capability")]
    if old:
        raise wrong(
            "gpu",
            f"{old[0].name} has compute capability {old[0].compute_capability}, and vLLM needs 7.0 or later, such as a V100 or T4; llama.cpp still runs there",
        )
    return _with_partition(ask)


def _with_partition(ask: Ask) -> Ask:
    """Return the question with layers given to the stages by what their cards hold, where the cards of a pipeline are unequal."""
    cut = ask.cut
    sizes = [
        min(card.total_gib for card in ask.cards[index * cut.tp : (index + 1) * cut.tp])
        for index in range(cut.pp)
    ]
    if cut.partition or len(set(sizes)) == 1:
        return ask
    ends = (
        weights.checkpoint_bytes(ask.shape, ask.weights)
        / GIB
        * ask.shape.vocab
        * ask.shape.hidden
        / max(1, ask.shape.params())
        / cut.tp
    )
    room = [
        max(0.1, size * ask.share - (ends if index in {0, cut.pp - 1} else 0.0) - 1.0)
        for index, size in enumerate(sizes)
    ]
    return ask.with_(cut=replace(cut, partition=sharding.partition_for(ask.shape, room)))


def _check_numbers(ask: Ask) -> None:
    if not 16 <= ask.context <= MAX_CONTEXT:
        raise wrong(
            "context",
            f"{ask.context} tokens cannot be planned; give 16 to {MAX_CONTEXT}, such as 32k",
        )
    if not 1 <= ask.requests <= MAX_SEQUENCES:
        raise wrong(
            "requests", f"{ask.requests} requests cannot be planned; give 1 to {MAX_SEQUENCES}"
        )
    if not 1 <= ask.engines_on_card <= 16:
        raise wrong(
            "engines", f"{ask.engines_on_card} engines on one card cannot be planned; give 1 to 16"
        )
    for name, value, top in (
        ("sequences", ask.sequences, MAX_SEQUENCES),
        ("batched_tokens", ask.batched_tokens, 1 << 22),
    ):
        if value is not None and not 1 <= value <= top:
            raise wrong(name, f"{value} cannot be planned; give 1 to {top}")
    if ask.utilisation is not None and not 0.01 <= ask.utilisation <= 1.0:
        raise wrong(
            "utilisation",
            f"{ask.utilisation} is no share of a card; give 0.05 to 0.98, such as 0.9",
        )
    if ask.kv_bytes is not None and ask.kv_bytes <= 0:
        raise wrong(
            "kv_cache_gib",
            "the KV cache needs more than 0 bytes; leave the key out to take what is left",
        )
    if not is_version(ask.version) or ask.runner not in (None, "V0", "V1", "V2"):
        raise wrong(
            "version",
            f"{ask.version[:20]!r} is no vLLM version; give one such as {DEFAULT_VERSION}",
        )

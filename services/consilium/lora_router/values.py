"""Rules for the values of an adapter: finite, not nothing, not absurdly strong, alike among siblings.

Takes what factors.py weighed, pair by pair, so that nobody holds a whole adapter. Does not know a base: how strong is too strong for a matrix is told against
a typical one, and among the modules of one name.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Final

from consilium.lora_router.factors import Weighed
from consilium.lora_router.ports import Refusal
from consilium.lora_router.refusal import refused

NOTHING: Final = 1e-6
"""Share of a typical matrix below which no output in 16 bits can change: its own rounding is a thousand times larger."""

WEAK: Final = 1e-4
STRONG: Final = 3.0
ABSURD: Final = 1e4
"""Share above which an adapter is refused: alpha or its file is wrong."""

AMONG_SIBLINGS: Final = 50.0
LARGEST_F16: Final = 65_504.0
LARGEST_BF16: Final = 3.3895e38


@dataclass(slots=True)
class Values:
    """Collects the figures of all pairs, and judges at the end."""

    shares: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)
    largest: float = 0.0

    def take(self, module: str, weighed: Weighed, where: str) -> None:
        """Take one pair. Raises ConsiliumError(adapter_refused): not_finite, overflow."""
        if not weighed.finite:
            raise refused(
                "not_finite",
                f"{where}, {module}",
                "it holds NaN or infinity, which would spoil the cache of everybody on the engine",
                "Take an earlier checkpoint: the training had diverged",
            )
        if weighed.largest > LARGEST_BF16:
            raise refused(
                "overflow",
                f"{where}, {module}",
                f"its largest value, scaled, is {weighed.largest:.3g}: infinity in bfloat16",
                "Take an earlier checkpoint: the training had diverged",
            )
        self.shares[module] = weighed.share
        self.norms[module] = weighed.norm
        self.largest = max(self.largest, weighed.largest)
        if not weighed.share:
            self.zero.append(module)

    def judge(self, where: str) -> list[Refusal]:
        """Return what is odd. Raises ConsiliumError(adapter_refused): no_effect, too_strong."""
        strongest = max(self.shares, key=lambda module: self.shares[module])
        share = self.shares[strongest]
        if share < NOTHING:
            what = (
                "every B is zero"
                if not share
                else f"its strongest module, {strongest}, has {share:.1e} of a typical matrix"
            )
            raise refused(
                "no_effect",
                where,
                f"it changes nothing: {what}",
                "It was saved before its training began; save it afterwards",
            )
        if share > ABSURD:
            raise refused(
                "too_strong",
                f"{where}, {strongest}",
                f"scaled, it is {share:.1e} times as large as a typical matrix of the base",
                "Look at lora_alpha, r and use_rslora: one of them is not that of the training",
            )
        return self._remarks(strongest)

    def _remarks(self, strongest: str) -> list[Refusal]:
        found = []
        share = self.shares[strongest]
        if share > STRONG:
            found.append(
                Refusal(
                    "strong",
                    strongest,
                    f"scaled, it is {share:.1f} times as large as a typical matrix of the base",
                    "The canary tells; look at lora_alpha and use_rslora if it finds the answers broken",
                )
            )
        if share < WEAK:
            found.append(
                Refusal(
                    "weak",
                    strongest,
                    f"the strongest module has {share:.1e} of a typical matrix",
                    "The canary tells whether it does anything",
                )
            )
        if self.zero:
            found.append(
                Refusal(
                    "modules_zero",
                    self.zero[0],
                    f"{len(self.zero)} of {len(self.shares)} modules are zero",
                    "Nothing to do, unless they were trained",
                )
            )
        if self.largest > LARGEST_F16:
            found.append(
                Refusal(
                    "overflow_in_f16",
                    strongest,
                    f"its largest value, scaled, is {self.largest:.3g}: infinity on an engine that computes in float16",
                    "Serve it on an engine in bfloat16",
                )
            )
        return [*found, *self._siblings()]

    def _siblings(self) -> list[Refusal]:
        kinds: dict[str, list[str]] = {}
        for module, share in self.shares.items():
            if share:
                kinds.setdefault(module.rpartition(".")[2], []).append(module)
        for kind, modules in kinds.items():
            usual = statistics.median(self.shares[module] for module in modules)
            far = [module for module in modules if self.shares[module] > AMONG_SIBLINGS * usual]
            if len(modules) >= 4 and far:
                return [
                    Refusal(
                        "unlike_siblings",
                        far[0],
                        f"it is {self.shares[far[0]] / usual:.0f} times as strong as {kind} in other layers usually is",
                        "Look at alpha_pattern and rank_pattern; the canary tells",
                    )
                ]
        return []

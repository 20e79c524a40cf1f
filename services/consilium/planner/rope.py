"""Context lengths: what a model was trained for, what YaRN or dual chunk attention adds, and what is extrapolation.

Knows data/contexts.json. Does not know whether the KV fits (verdict.py) or how long reading takes (speed.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from consilium.planner.figures import table, tokens_in_words
from consilium.planner.shapes import Shape

Way = Literal["native", "yarn", "dual_chunk", "beyond"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How a model gets to a wanted length.

    native, longest  tokens trained for, and the most that its makers describe
    factor           YaRN factor, 1.0 without
    overrides        hf_overrides for the engine; empty when none are needed
    """

    wanted: int
    native: int
    longest: int
    way: Way
    factor: float
    overrides: dict[str, Any] = field(default_factory=dict)
    sentence: str = ""
    source: str = ""


def reach(shape: Shape, wanted: int) -> Reach:
    """Return how `shape` gets to `wanted` tokens, with the exact overrides.

    The YaRN factor is wanted / native, never larger than needed, because a larger one costs quality on short texts. Since vLLM 0.32 the factor no longer
    multiplies max_position_embeddings, so it is set as well.
    """
    if shape.yarn_from:
        return _with_yarn_inside(shape, wanted)
    row = _row(shape)
    native = int(row["native"]) if row else shape.max_positions
    longest = int(row["longest"]) if row else shape.max_positions
    source = str(row["source"]) if row else "max_position_embeddings of config.json"
    words = f"{shape.name} was trained for {tokens_in_words(native)} tokens"
    if wanted <= max(
        native,
        shape.max_positions
        if row is None or (row["way"] == "yarn" and shape.max_positions < 2 * native)
        else native,
    ):
        note = (
            f"{words}; {tokens_in_words(wanted)} need nothing."
            if wanted <= native
            else f"{words} and its file allows {tokens_in_words(shape.max_positions)} with the answer."
        )
        return Reach(wanted, native, longest, "native", 1.0, {}, note, source)
    if wanted <= longest and row is not None and row["way"] == "yarn":
        factor = round(wanted / native, 4)
        rope = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": native,
            "rope_theta": shape.rope_theta,
        }
        said = f"{words}; YaRN with factor {factor:g} stretches it to {tokens_in_words(wanted)}, with a small loss on short texts. Give it an executor or profile of its own."
        return Reach(
            wanted,
            native,
            longest,
            "yarn",
            factor,
            {"rope_parameters": rope, "max_position_embeddings": wanted},
            said,
            source,
        )
    if wanted <= longest and row is not None:
        said = f"{words}; dual chunk attention reaches {tokens_in_words(wanted)}. It needs the 1M configuration file of the model and an engine with that attention; answers thin out towards the end."
        return Reach(wanted, native, longest, "dual_chunk", 1.0, {}, said, source)
    said = (
        f"{words}, and its makers describe at most {tokens_in_words(longest)}: {tokens_in_words(wanted)} is extrapolation that nobody has shown to work. "
        "Look the text up by retrieval instead, or take a model with a longer context."
    )
    return Reach(wanted, native, longest, "beyond", 1.0, {}, said, source)


def _with_yarn_inside(shape: Shape, wanted: int) -> Reach:
    """Return the reach of a file that carries a YaRN block already: what it stretches from, and to."""
    native, longest = shape.yarn_from, shape.max_positions
    source = "rope block of config.json"
    words = f"{shape.name} was trained for {tokens_in_words(native)} tokens"
    if wanted <= longest:
        said = f"{words}, and its file carries YaRN up to {tokens_in_words(longest)}: {tokens_in_words(wanted)} need nothing more. Short texts lose a little by it too."
        return Reach(
            wanted,
            native,
            longest,
            "native" if wanted <= native else "yarn",
            round(longest / native, 4),
            {},
            said,
            source,
        )
    said = (
        f"{words}, and the YaRN in its file ends at {tokens_in_words(longest)}: {tokens_in_words(wanted)} is extrapolation. "
        "Take the file without YaRN and let the planner name the factor, or look the text up by retrieval."
    )
    return Reach(wanted, native, longest, "beyond", 1.0, {}, said, source)


def _row(shape: Shape) -> dict[str, Any] | None:
    family = shape.family.removesuffix("_text")
    for row in table("contexts")["rows"]:
        if row["family"] == family and row["max_positions"] == shape.max_positions:
            found: dict[str, Any] = row
            return found
    return None

"""Sizes and hours of a library for retrieval: pages to text, chunks, vectors, index, RAM, SSD.

Knows the formulas of HNSW memory and of UTF-8. Does not know the texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from consilium.planner.cards import Card
from consilium.planner.figures import constant
from consilium.planner.refusal import wrong

Script = Literal["latin", "cyrillic", "mixed"]
VECTOR_BYTES: Final = {"f32": 4.0, "f16": 2.0, "int8": 1.0, "binary": 1 / 8}


@dataclass(frozen=True, slots=True)
class Library:
    """Sizes in bytes, times in hours.

    ram         what searching needs
    build_peak  what building the index needs: all vectors in 32 bits beside the index
    ssd         text, ids, word index, stored vectors
    """

    pages: int
    characters: int
    text: int
    tokens: int
    chunks: int
    vector: int
    index: int
    word_index: int
    ram: int
    build_peak: int
    ssd: int
    hours_parse: float
    hours_embed: float
    hours_index: float
    notes: tuple[str, ...]


def sizes(
    pages: int,
    *,
    script: Script = "mixed",
    dimensions: int = 1024,
    vectors: str = "f16",
    card: Card | None = None,
) -> Library:
    """Return the sizes of a library of `pages` typed pages. Without a card the processor embeds."""
    if not 1 <= pages <= 10**12:
        raise wrong("pages", f"{pages} pages cannot be planned; give 1 to 10^12")
    if not 8 <= dimensions <= 65_536:
        raise wrong(
            "dimensions", f"{dimensions} is no width of a vector; give 8 to 65536, such as 1024"
        )
    if vectors not in VECTOR_BYTES:
        raise wrong("vectors", f"{vectors!r} is no format; known: {', '.join(VECTOR_BYTES)}")
    characters = round(pages * constant("library_page_characters"))
    text = round(characters * _by_script(script, "library_bytes"))
    tokens = round(characters / _by_script(script, "library_characters_per_token"))
    chunks = round(pages * constant("library_chunks_per_page"))
    vector = dimensions * VECTOR_BYTES[vectors]
    links = constant("library_hnsw_links")
    index = round(chunks * (vector + 4 * (2 + 1 / math.log(links)) * links))
    word_index = round(text * constant("library_bm25_share"))
    whole = chunks * dimensions * 4
    stored = max(whole if vectors == "binary" else 0, round(chunks * vector))
    notes = [
        "Building needs the vectors in 32 bits beside the index; build in parts where that does not fit."
    ]
    if card is not None:
        held = constant("library_embedder_gib")
        notes.append(f"The embedder takes about {held:.1f} GiB of {card.name} while it works.")
    if vectors == "binary":
        notes.append("Binary vectors find candidates; the 32-bit ones on SSD put them in order.")
    if dimensions * VECTOR_BYTES[vectors] < 64:
        notes.append(
            "Vectors this small lose much of what they should tell apart; measure the hits."
        )
    return Library(
        pages,
        characters,
        text,
        tokens,
        chunks,
        round(vector),
        index,
        word_index,
        index + round(constant("library_warm_share") * word_index),
        whole + index,
        round(chunks * constant("library_chunk_kb") * 1000) + word_index + stored,
        pages / constant("library_parse_pages_per_s") / 3600,
        _hours_embed(tokens, card),
        chunks / constant("library_hnsw_per_s") / 3600 * max(1.0, dimensions / 1024),
        tuple(notes),
    )


def _by_script(script: Script, name: str) -> float:
    if script == "mixed":
        return (constant(f"{name}_latin") + constant(f"{name}_cyrillic")) / 2
    return constant(f"{name}_{script}")


def _hours_embed(tokens: int, card: Card | None) -> float:
    flops = 2 * constant("library_embedder_params") * tokens
    peak = (
        card.bf16_tflops * constant("library_embed_share")
        if card is not None and card.bf16_tflops
        else constant("library_cpu_tflops")
    )
    return flops / (peak * 1e12) / 3600

"""Makes planner/README.md from data: what people repeat against arithmetic and measurement, and how well the planner agrees with the world.

`python -m consilium.planner.readme` writes the page; a test compares it. Figures in braces in data/claims.json are computed here.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Final

from consilium.planner import kv, library, lora, models, overhead, speed, verdict, weights
from consilium.planner.accuracy import Seen, kv_points, speed_points
from consilium.planner.ask import Ask
from consilium.planner.cards import card, cpu
from consilium.planner.figures import GIB, table, tokens_in_words
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut

PAGE: Final = Path(__file__).parent / "README.md"


def page() -> str:
    """Return the text of README.md."""
    told = facts()
    parts = [_HEAD]
    for number, claim in enumerate(table("claims")["claims"], start=1):
        parts.append(
            f"### {number}. \u201c{claim['told']}\u201d\n\n- **Arithmetic.** {claim['arithmetic'].format(**told)}\n- **Measured.** {claim['measured']} ({claim['source']})\n"
            f"- **So.** {claim['so']}\n"
        )
    return "\n".join([*parts, _accuracy(), _TAIL])


def write() -> Path:
    """Write README.md and return its path."""
    PAGE.write_text(page(), encoding="utf-8")
    return PAGE


def _gib(amount: float) -> str:
    return f"{amount / GIB:.1f}"


def _shape(name: str) -> Shape:
    return models.by_name(name).shape


def facts() -> dict[str, str]:
    """Return every computed figure of the page by its name."""
    return {**_memory(), **_speeds(), **_links(), **_library()}


def _memory() -> dict[str, str]:
    moe, dense, large, big = (
        _shape("Qwen3-30B-A3B"),
        _shape("Qwen3-8B"),
        _shape("Qwen2.5-72B"),
        card("RTX PRO 6000 96GB"),
    )

    def size(shape: Shape, name: str) -> str:
        return _gib(weights.checkpoint_bytes(shape, name))

    def slots(name: str, targets: tuple[str, ...] = lora.GROUPS) -> str:
        return f"{lora.total_bytes(_shape(name), lora.Slots(5, 16, targets), Cut()) / GIB:.2f}"

    peak = overhead.activation_peak(_with_experts(moe, 16), Cut(), 8192) - overhead.activation_peak(
        moe, Cut(), 8192
    )
    one = verdict.plan(Ask(shape=large, cards=(big,), weights="int4", sequences=64))
    two = verdict.plan(Ask(shape=large, cards=(big, big), cut=Cut(2), sequences=64))
    small = verdict.plan(
        Ask(
            shape=_shape("Qwen3-0.6B"),
            cards=(card("H100"),),
            utilisation=0.9,
            context=16_000,
            version="0.11.0",
        )
    )
    return {
        "w30_bf16": size(moe, "bf16"),
        "w30_fp8": size(moe, "fp8"),
        "w30_int4": size(moe, "int4"),
        "kv30_128k": _gib(kv.request_bytes(moe, "bf16", 131_072)),
        "kv30_1m": f"{kv.request_bytes(moe, 'bf16', 1_000_000) / GIB:.0f}",
        "l8_5": slots("Qwen3-8B"),
        "l32_5": slots("Qwen3-32B"),
        "l30_5": slots("Qwen3-30B-A3B"),
        "l30a_5": slots("Qwen3-30B-A3B", ("attention",)),
        "e30": str(moe.experts),
        "peak16": _gib(peak),
        "w72_bf16": size(large, "bf16"),
        "w72_int4": size(large, "int4"),
        "t72": tokens_in_words(one.tokens[1]),
        "t72x2": tokens_in_words(two.tokens[1]),
        "w06": size(_shape("Qwen3-0.6B"), "bf16"),
        "kv06": _gib(small.bill.kv[1]),
        "l8mb": f"{sum(lora.slot_bytes(dense, lora.Slots(1, 16, ('attention', 'mlp')), Cut()).values()) / 1e6:.0f}",
    }


def _with_experts(shape: Shape, count: int) -> Shape:

    return replace(shape, experts_per_token=count)


def _rate(rate: speed.Rate | None) -> speed.Rate:
    if rate is None:
        raise ValueError("a card on this page has no bandwidth")
    return rate


def _speeds() -> dict[str, str]:
    moe, dense, large, big, h100 = (
        _shape("Qwen3-30B-A3B"),
        _shape("Qwen3-8B"),
        _shape("Qwen2.5-72B"),
        card("RTX PRO 6000 96GB"),
        card("H100"),
    )
    processor, phi = cpu("EPYC 9554"), _shape("Phi-4")
    pair = _rate(speed.decode(large, h100, Cut(2), speed.Load(1, 640)))
    return {
        "r8": f"{_rate(speed.decode(moe, big, Cut(), speed.Load())).likely:.0f}",
        "r16": f"{_rate(speed.decode(_with_experts(moe, 16), big, Cut(), speed.Load())).likely:.0f}",
        "b1": f"{_rate(speed.decode(dense, h100, Cut(), speed.Load(1, 640))).likely:.0f}",
        "b64": f"{_rate(speed.decode(dense, h100, Cut(), speed.Load(64, 640))).likely:,.0f}",
        "r72x2": f"{pair.likely:.1f}",
        "c72x2": f"{pair.ceiling:.1f}",
        "cpu14": f"{speed.decode_on_cpu(phi, processor, speed.Load(1, 256, 'gguf:q4_k_m')).likely:.0f}",
        "cpupre": f"{speed.prefill_on_cpu(phi, processor, speed.Load(1, 4096, 'gguf:q4_k_m')).likely:,.0f}",
        "ttft1m": f"{_rate(speed.prefill(moe, big, Cut(), speed.Load(1, 1_000_000))).seconds / 60:.0f}",
    }


def _links() -> dict[str, str]:
    seventy, home = _shape("Llama-3.1-70B"), card("RTX 3090")
    moved = 2 * seventy.layers * seventy.hidden * 2
    adapter = sum(
        lora.slot_bytes(_shape("Qwen3-8B"), lora.Slots(1, 16, ("attention", "mlp")), Cut()).values()
    )
    read = speed.weight_bytes_read(seventy, speed.Load(weights="int4")) / 2
    return {
        "tpkb": f"{moved / 1e3:,.0f}",
        "tpms": f"{moved / (home.link_gb_s * 1e9) * 1e3:.2f}",
        "memms": f"{read / (home.bandwidth_gb_s * 1e9) * 1e3:.0f}",
        "pciems": f"{adapter / (home.link_gb_s * 1e9) * 1e3:.0f}",
        "ssdms": f"{adapter / 3e9 * 1e3:.0f}",
    }


def _library() -> dict[str, str]:
    latin, cyrillic = (
        library.sizes(1_000_000, script="latin"),
        library.sizes(1_000_000, script="cyrillic"),
    )

    def index(form: str) -> str:
        return f"{library.sizes(1_000_000, vectors=form).index / 1e9:.1f}"

    return {
        "lat": f"{latin.text / 1e9:.1f}",
        "cyr": f"{cyrillic.text / 1e9:.1f}",
        "v16": index("f16"),
        "v32": index("f32"),
        "v8": index("int8"),
        "build": f"{cyrillic.build_peak / 1e9:.1f}",
        "ssd": f"{cyrillic.ssd / 1e9:.0f}",
    }


def _accuracy() -> str:
    boots, writing, reading = kv_points(), speed_points("decode"), speed_points("prefill")
    sure = [seen for seen in boots if seen.sure]
    rows = [
        _kv_row("room for KV, all boot logs", sure),
        _kv_row("room for KV, held apart", [seen for seen in sure if seen.held_apart]),
        _kv_row(
            "room for KV, size of the weights not told", [seen for seen in boots if not seen.sure]
        ),
        _speed_row("writing speed, fitted", [seen for seen in writing if not seen.held_apart]),
        _speed_row("writing speed, held apart", [seen for seen in writing if seen.held_apart]),
        _speed_row("reading speed, held apart", [seen for seen in reading if seen.held_apart]),
    ]
    missed = [
        f"- {seen.id}: measured {seen.measured:.1f} GiB, told {seen.told:.1f}. {seen.why}"
        for seen in boots
        if seen.error > 1.0
    ]
    table_lines = (
        "## How well it agrees\n\n| what | points | middle error | within the bar |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
    return (
        table_lines
        + "\nBoot logs that it misses by more than 1 GiB (data/boot_logs.json):\n\n"
        + "\n".join(missed)
        + "\n"
    )


def _kv_row(name: str, points: list[Seen]) -> str:
    near = sum(seen.error <= 1.0 for seen in points)
    return f"| {name} | {len(points)} | {statistics.median(seen.error for seen in points):.2f} GiB | {near} of {len(points)} within 1 GiB |"


def _speed_row(name: str, points: list[Seen]) -> str:
    near = sum(1 / 1.5 <= seen.ratio <= 1.5 for seen in points)
    middle = statistics.median(max(seen.ratio, 1 / seen.ratio) for seen in points)
    return f"| {name} | {len(points)} | factor {middle:.2f} | {near} of {len(points)} within a factor of 1.5 |"


_HEAD: Final = """# planner: what fits, how fast, what it costs, what may be changed

Made by `python -m consilium.planner.readme` from `data/`; do not edit by hand.

    consilium plan --model Qwen3-30B-A3B --gpu "RTX PRO 6000 96GB" --context 128k --adapters 10 --rank 16
    consilium plan --gpus "2x RTX 3090, 1x RTX 4090"
    consilium plan -c consilium.yaml
    consilium plan check-config old.json new.json
    consilium plan change-base Qwen3-8B Qwen3-14B
    consilium plan calibrate engine.log
    consilium plan training --model Qwen3-8B --gpu "RTX 4090" --method qlora
    consilium plan library --pages 1M --script cyrillic
    consilium plan context --model Qwen3-30B-A3B-Instruct-2507
    consilium explain config.json
    consilium tokens "some words"

Pure functions over tables with sources. Nothing here starts an engine, asks a network or reads the environment.

## Told and measured
"""

_TAIL: Final = """Boot logs used to choose constants: p01, p02, p03, p17 (only the share of graphs under tensor parallel), p29, p31. All others were only compared with. Two
boots of one set-up differ by 0.5 to 1.2 GiB, so no formula can do better, and every figure carries a low and a high. Against other published rules on the same
points: `python -m tests.bench.planner_rules`.

## Files

| file | question |
|---|---|
| `checkpoint.py`, `shapes.py`, `vision.py`, `models.py` | the files of a model's folder; what does config.json say; which models are known |
| `weights.py`, `kv.py`, `lora.py`, `overhead.py` | bytes of each part |
| `sharding.py` | which cuts over cards are possible |
| `ask.py`, `bill.py`, `verdict.py` | a question, where every GiB goes, the answer |
| `search.py`, `topologies.py` | the nearest change that fits; what given cards can run |
| `gate.py`, `gate_file.py` | the check before an engine or a cluster starts |
| `edits.py`, `explain.py`, `tokenizer_edits.py`, `base_change.py` | what an edit, or another model, does |
| `speed.py`, `step.py`, `money.py`, `training.py`, `library.py`, `rope.py` | forecasts; the size of a step of an engine on processors |
| `calibrate.py`, `accuracy.py` | measured against told |
| `proposal.py`, `question_file.py`, `report.py` | configuration out and in, tables and bars |
"""

if __name__ == "__main__":
    write()

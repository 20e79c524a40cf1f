"""The other pages of `consilium plan`: edits of config.json, boot logs, training, library, context lengths.

Knows how a person reads them. Asks the planner for every figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from consilium.planner import base_change, edits, kv, models, report, rope, sizes, speed, verdict
from consilium.planner import calibrate as boot_logs
from consilium.planner import cards as card_table
from consilium.planner import explain as pages
from consilium.planner import library as books
from consilium.planner import training as training_run
from consilium.planner.ask import Ask
from consilium.planner.figures import GIB, tokens_in_words
from consilium.planner.lora import targets_named
from consilium.planner.overhead import default_utilisation
from consilium.planner.refusal import wrong
from consilium.planner.sharding import Cut, check
from consilium.planner.weights import checkpoint_bytes, format_named, of_method

EXIT_OK, EXIT_BREAKS = 0, 1
MOST_EPOCHS = 1000
LENGTHS = (32_768, 131_072, 300_000, 1_000_000, 2_000_000)


def check_config(args: argparse.Namespace) -> int:
    """Print what the edits between two config.json files do; 1 when one breaks the model."""
    found = edits.judge(_config_of(args.old), _config_of(args.new))
    if args.output == "json":
        print(json.dumps([asdict(edit) for edit in found], indent=2, default=str))
    elif not found:
        print("The files say the same.")
    else:
        for edit in found:
            print(
                f"{edit.effect.replace('_', ' ')}: {edit.key} {edit.old!s:.40} -> {edit.new!s:.40}\n  {edit.sentence}"
            )
    return EXIT_BREAKS if any(edit.effect == "breaks" for edit in found) else EXIT_OK


def _config_of(word: str) -> Mapping[str, Any]:
    """Return the config.json that a file, a folder or the name of a known model stands for. Raises invalid_request for any other file."""
    config = (
        models.find(word).config
        if not Path(word).expanduser().is_file()
        else models.read_json(Path(word).expanduser())
    )
    if pages.kind_of(config) != "config":
        raise wrong(
            "file", f"{word[:120]} is no config.json; give two config.json files of language models"
        )
    return config


def change_base(args: argparse.Namespace) -> int:
    """Print what a change of the base model keeps; 1 when something is lost."""
    old, new = models.find(args.old), models.find(args.new)
    found = base_change.survivors(old, new)
    if args.output == "json":
        print(
            json.dumps(
                {
                    "old": old.shape.name,
                    "new": new.shape.name,
                    "survivors": [asdict(one) for one in found],
                },
                indent=2,
            )
        )
    else:
        print(f"{old.shape.name} -> {new.shape.name}\n")
        for one in found:
            print(f"{one.what}: {one.fate}\n  {one.sentence}")
    return EXIT_BREAKS if any(one.fate == "lost" for one in found) else EXIT_OK


def calibrate(args: argparse.Namespace) -> int:
    """Print what a boot log measured beside the forecast, and keep it when asked."""
    boot = (
        boot_logs.read(sys.stdin.read()) if args.log == "-" else boot_logs.read_file(Path(args.log))
    )
    name = args.model or boot.model
    card = card_table.card(args.gpu) if args.gpu else None
    total = card.total_gib if card else boot.total_gib
    if boot.budget_gib is None and total is not None and not boot.on_cpu:
        boot = replace(
            boot, budget_gib=total * default_utilisation(boot.version or ""), total_gib=total
        )
    told = _forecast(boot, name, card)
    if args.save:
        if not name or card is None:
            raise wrong(
                "save",
                "name the card with --gpu (and the model with --model where the log does not), so that the figure can be found again",
            )
        key = boot_logs.save(Path(args.save), models.find(name).shape.name, card.name, boot)
        print(f"kept as {key} in {args.save}", file=sys.stderr)
    if args.output == "json":
        print(
            json.dumps(
                {
                    "measured": {k: v for k, v in asdict(boot).items() if v is not None},
                    "overhead_gib": boot.overhead_gib(),
                    "kv_tokens": boot.tokens(),
                    "forecast": told,
                },
                indent=2,
            )
        )
        return EXIT_OK
    rows = [
        ("weights, GiB per card", boot.weights_gib, told.get("weights_gib")),
        ("overhead, GiB per card", boot.overhead_gib(), told.get("overhead_gib")),
        ("KV cache, GiB per card", boot.kv_gib, told.get("kv_gib")),
        ("KV bytes per token and card", boot.token_bytes(), told.get("token_bytes")),
        ("KV tokens", boot.tokens(), told.get("kv_tokens")),
    ]
    print(
        f"{name or 'a model that the log does not name'}, vLLM {boot.version or 'unknown'}{', CPU' if boot.on_cpu else ''}\n"
    )
    print(
        report.table(
            ("", "measured", "forecast"),
            [(title, _figure(seen), _figure(said)) for title, seen, said in rows],
        )
    )
    return EXIT_OK


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _forecast(
    boot: boot_logs.Boot, name: str | None, card: card_table.Card | None
) -> dict[str, float]:
    """Return the forecast for what the log was started with; empty where the model is not known."""
    from consilium.kernel.errors import ConsiliumError

    if not name:
        return {}
    try:
        model = models.find(name)
        weights = (
            of_method(boot.quantization, model.weights or "bf16")
            if boot.quantization
            else model.weights or "bf16"
        )
        kv_dtype = kv.dtype_named(boot.kv_dtype or "auto")
    except ConsiliumError:
        return {}
    cut = Cut(boot.tensor_parallel or 1, boot.pipeline_parallel or 1)
    found: dict[str, float] = {"token_bytes": float(kv.token_bytes(model.shape, kv_dtype, cut.tp))}
    if boot.kv_gib is not None:
        found["kv_tokens"] = float(
            kv.room(
                model.shape, kv_dtype, boot.kv_gib * GIB, boot.max_model_len or 4096, cut.tp
            ).tokens
        )
    total = card.total_gib if card else boot.total_gib
    if total is None or boot.on_cpu:
        return found
    one = card or card_table.Card(f"{total:.1f} GiB card", total)
    share = boot.budget_gib / total if boot.budget_gib else None
    plan = verdict.plan(
        Ask(
            shape=model.shape,
            cards=(one,) * cut.cards,
            cut=cut,
            weights=weights,
            kv_dtype=kv_dtype,
            sequences=boot.sequences,
            batched_tokens=boot.batched_tokens,
            context=boot.max_model_len or 4096,
            utilisation=share,
            version=boot.version or "0.32.0",
        )
    )
    held = plan.bill.part("weights")
    found |= {
        "weights_gib": held.likely / GIB if held else 0.0,
        "overhead_gib": (plan.bill.spent() - (held.likely if held else 0.0)) / GIB,
        "kv_gib": plan.bill.kv[1] / GIB,
    }
    return found


def training(args: argparse.Namespace) -> int:
    """Print the forecast of a training run."""
    model, card = models.find(args.model), card_table.card(args.gpu)
    if not 1 <= args.epochs <= MOST_EPOCHS:
        raise wrong("epochs", f"{args.epochs} epochs cannot be trained; give 1 to {MOST_EPOCHS}")
    run = training_run.Run(
        method=args.method,
        rank=args.rank,
        targets=targets_named(args.targets),
        length=sizes.tokens(args.length, "length"),
        batch=args.batch,
        tokens=sizes.count(args.tokens, "tokens") * args.epochs,
        checkpointing=not args.no_checkpointing,
    )
    found = training_run.forecast(model.shape, card, run)
    beside = training_run.room_beside(model.shape, card, run, args.beside) if args.beside else ""
    if args.output == "json":
        print(json.dumps({**asdict(found), "beside": beside}, indent=2))
    else:
        print(
            f"{args.method} training of {model.shape.name} on {card.name}: {report.WORDS[found.verdict]}.\n"
        )
        lines = [(name, f"{size / GIB:.2f}", why) for name, size, why in found.parts]
        print(
            report.table(
                ("GiB", "", "why"),
                [*lines, ("all", f"{found.total / GIB:.2f}", f"of {found.card_bytes / GIB:.2f}")],
            )
        )
        print(f"\n{found.sentence}")
        if found.hours:
            print(
                f"{run.tokens:,} tokens take about {found.hours[1]:.1f} hours ({found.hours[0]:.1f} to {found.hours[2]:.1f})."
            )
        if beside:
            print(beside)
    return EXIT_OK if found.verdict != "no" else EXIT_BREAKS


def library(args: argparse.Namespace) -> int:
    """Print the sizes of a library."""
    card = card_table.card(args.gpu) if args.gpu else None
    found = books.sizes(
        sizes.count(args.pages, "pages"),
        script=args.script,
        dimensions=args.dimensions,
        vectors=args.vectors,
        card=card,
    )
    if args.output == "json":
        print(json.dumps(asdict(found), indent=2))
        return EXIT_OK
    giga = 1e9
    rows = [
        (
            "text",
            found.text / giga,
            f"{found.pages:,} pages, {found.characters / 1e6:,.0f} M characters, {args.script}",
        ),
        (
            "index in RAM",
            found.index / giga,
            f"{found.chunks:,} vectors of {found.vector} bytes and their links",
        ),
        ("RAM while searching", found.ram / giga, "index and a warm part of the word index"),
        ("RAM while building", found.build_peak / giga, "32-bit vectors beside the index"),
        ("SSD", found.ssd / giga, "text with ids, word index, stored vectors"),
    ]
    print(
        report.table(("GB", "", "what"), [(name, f"{size:.2f}", what) for name, size, what in rows])
    )
    who = card.name if card else "processor"
    print(
        f"\nReading {_hours(found.hours_parse)}, embedding {_hours(found.hours_embed)} ({found.tokens / 1e6:,.0f} M tokens, {who}), indexing {_hours(found.hours_index)}."
    )
    for note in found.notes:
        print(f"Mind: {note}")
    return EXIT_OK


def _hours(value: float) -> str:
    return (
        f"{value:.1f} h"
        if value >= 1
        else f"{value * 60:.0f} min"
        if value * 60 >= 1
        else "less than a minute"
    )


def context(args: argparse.Namespace) -> int:
    """Print what long contexts cost: KV, time to the first token, and what the model was trained for."""
    model, cards = models.find(args.model), card_table.cards(args.gpu)
    cut = Cut(args.tp)
    check(model.shape, cut)
    weights = format_named(args.weights or model.weights or "bf16")
    rows, dicts = [], []
    for length in LENGTHS:
        reach = rope.reach(model.shape, length)
        need = kv.request_bytes(model.shape, "bf16", length, cut.tp)
        small = kv.request_bytes(model.shape, "fp8", length, cut.tp)
        first = speed.prefill(model.shape, cards[0], cut, speed.Load(1, length, weights))
        rows.append(
            (
                tokens_in_words(length),
                f"{need / GIB:.1f}",
                f"{small / GIB:.1f}",
                f"{first.seconds:.0f}" if first else "",
                reach.way.replace("_", " "),
            )
        )
        dicts.append(
            {
                "tokens": length,
                "kv_bytes_bf16": need,
                "kv_bytes_fp8": small,
                "first_token_s": first.seconds if first else None,
                "way": reach.way,
                "sentence": reach.sentence,
            }
        )
    if args.output == "json":
        print(
            json.dumps(
                {
                    "model": model.shape.name,
                    "weights_bytes": checkpoint_bytes(model.shape, weights),
                    "lengths": dicts,
                },
                indent=2,
            )
        )
        return EXIT_OK
    print(
        f"{model.shape.name} on {cut.tp} x {cards[0].name}, {weights}: {checkpoint_bytes(model.shape, weights) / GIB:.1f} GiB of weights in all\n"
    )
    print(report.table(("tokens", "KV GiB per card", "with fp8", "s to first token", "how"), rows))
    print()
    for sentence in dict.fromkeys(str(entry["sentence"]) for entry in dicts):
        print(sentence)
    return EXIT_OK

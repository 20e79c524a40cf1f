"""The main page of `consilium plan`: verdict, table, bar, binding limit, nearest change, idle cards, configuration, speed, money.

Knows how a person reads an answer. Asks the planner for every figure.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from consilium.cli import cards_here
from consilium.cli.plan import hardware as hardware_pages
from consilium.planner import cards as card_table
from consilium.planner import (
    kv,
    models,
    money,
    report,
    rope,
    search,
    sizes,
    speed,
    topologies,
    verdict,
)
from consilium.planner.ask import Ask, checked
from consilium.planner.calibrate import Measured
from consilium.planner.cards import Card, Cpu
from consilium.planner.figures import GIB, constant, tokens_in_words
from consilium.planner.lora import Slots, targets_named
from consilium.planner.proposal import checkpoint_note, command, document, yaml_text
from consilium.planner.refusal import wrong
from consilium.planner.sharding import Cut
from consilium.planner.verdict import Plan

EXIT_OK, EXIT_DOES_NOT_FIT = 0, 1


def answer(args: argparse.Namespace) -> int:
    """Print the answer to `consilium plan`."""
    if args.prices == "show":
        print(money.example())
        return EXIT_OK
    found, ram, cpu = hardware(args)
    if args.model is not None:
        return _model(args, found, ram, cpu)
    if not found:
        raise wrong(
            "model", "name a model with --model, or cards with --gpus to see what they can run"
        )
    return hardware_pages.answer(args, found)


def hardware(args: argparse.Namespace) -> tuple[tuple[Card, ...], int | None, Cpu | None]:
    """Return cards, host memory and processor: as told, else this machine's."""
    ram = sizes.amount(args.ram) if args.ram is not None else None
    cpu = card_table.cpu(args.cpu) if args.cpu is not None else None
    if args.gpus is not None:
        return card_table.cards(args.gpus), ram, cpu
    if cpu is not None or ram is not None:
        return (), ram or 1 << 40, cpu
    return cards_here.read()[0], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None


def _cores(args: argparse.Namespace, cpu: Cpu | None) -> int | None:
    """Return the cores of the processor that is planned for: as told, else this machine's; None where only RAM was named."""
    if cpu is not None:
        return cpu.cores * cpu.sockets
    if args.ram is not None:
        return None
    import psutil

    return psutil.cpu_count(logical=False)


def _ram_in_words(args: argparse.Namespace, plan: Plan) -> str:
    """Return what of this machine's RAM is free now, for a CPU engine planned on this machine: `up` judges by that."""
    if not plan.ask.on_cpu or args.ram is not None or args.cpu is not None:
        return ""
    import psutil

    free = psutil.virtual_memory().available
    said = f"RAM: this page counts with all of this machine's {plan.bill.total / GIB:.1f} GiB; {free / GIB:.1f} GiB are free now, and `consilium up` judges by what is free."
    if plan.verdict != "no" and verdict.plan(plan.ask.with_(ram_bytes=free)).verdict == "no":
        return f"{said} As things stand it would refuse: end other programs first."
    return said


def _question(args: argparse.Namespace, ram: int | None) -> tuple[Ask, str, rope.Reach]:
    """Return the question, the name of the model, and how it reaches the asked context."""
    model = models.find(args.model)
    context = (
        sizes.tokens(args.context)
        if args.context is not None
        else min(sizes.tokens(hardware_pages.USUAL_CONTEXT), model.shape.max_positions)
    )
    reach = rope.reach(model.shape, context)
    if reach.way == "beyond":
        raise wrong("context", reach.sentence)
    ask = Ask(
        shape=model.shape,
        weights=args.weights or model.weights or "bf16",
        kv_dtype=kv.dtype_named(args.kv),
        context=context,
        requests=args.requests,
        sequences=args.sequences
        if args.sequences is not None
        else int(constant("consilium_sequences")),
        batched_tokens=args.batched_tokens,
        utilisation=args.utilisation,
        kv_bytes=sizes.gib(args.kv_gib, "kv-gib") if args.kv_gib is not None else None,
        engines_on_card=args.engines_on_card,
        eager=args.eager,
        version=args.vllm,
        ram_bytes=ram,
        lora=Slots(
            args.adapters,
            args.rank,
            targets_named(args.targets),
            args.fully_sharded,
            args.shared_outer,
            args.max_cpu_loras,
        ),
        weights_bytes=model.file_bytes or None if not args.weights else None,
        weights_to_ram=sizes.amount(args.weights_to_ram, "weights-to-ram")
        if args.weights_to_ram is not None
        else 0,
        kv_to_ram=sizes.amount(args.kv_to_ram, "kv-to-ram") if args.kv_to_ram is not None else 0,
    )
    return ask, model.hf_id or args.model, reach


def _model(
    args: argparse.Namespace, cards: tuple[Card, ...], ram: int | None, cpu: Cpu | None
) -> int:
    ask, name, reach = _question(args, ram)
    if not cards:
        ask = ask.with_(cores=_cores(args, cpu))
    replicas = 1
    if not 1 <= args.nodes <= max(1, len(cards)):
        raise wrong(
            "nodes",
            f"{args.nodes} machines with {len(cards)} cards cannot be planned; every machine has a card of the engine",
        )
    if cards:
        ask, replicas = _seat(args, ask, cards)
    elif args.tp not in {None, 1} or args.pp != 1 or args.ep:
        raise wrong("tp", "a CPU engine is planned as one rank; leave --tp, --pp and --ep out")
    elif ask.kv_bytes is None:
        ask = checked(ask)
        ask = ask.with_(kv_bytes=-(-verdict.plan(ask).bill.kv_needed // GIB) * GIB)
    ask = _with_measured(args, checked(ask))
    plan = verdict.plan(ask)
    changes = (
        [
            change
            for change in search.changes(ask, limit=6)
            if plan.verdict == "no" or change.plan.verdict == "fits"
        ][:4]
        if plan.verdict != "fits"
        else []
    )
    best = plan if plan.verdict != "no" else changes[0].plan if changes else None
    rates = rates_of(best or plan, cpu, args.nodes)
    costs = (
        money.compare(
            best or plan, rates, args.prices, hours_per_day=args.hours_per_day, replicas=replicas
        )
        if cards
        else []
    )
    idle = topologies.beside(cards, plan.ask.cards, replicas, plan.ask)
    best_reach = (
        reach
        if best is None or best.ask.context == ask.context
        else rope.reach(ask.shape, best.ask.context)
    )
    page = _Page(
        name,
        plan,
        best,
        changes,
        replicas,
        rates,
        costs,
        idle,
        _ram_in_words(args, plan),
        (reach, best_reach),
    )
    if args.output == "json":
        print(json.dumps(_page_dict(page), indent=2))
    else:
        _print_page(page, args.prices)
    return EXIT_OK if plan.verdict != "no" else EXIT_DOES_NOT_FIT


@dataclass(frozen=True, slots=True)
class _Page:
    """All that one answer says; `best` is the plan itself, or the nearest change of it that fits; `reach` is how each of the two reaches its context."""

    name: str
    plan: Plan
    best: Plan | None
    changes: list[search.Change]
    replicas: int
    rates: dict[str, speed.Rate | None]
    costs: list[money.Cost]
    idle: list[topologies.Idle]
    ram: str
    reach: tuple[rope.Reach, rope.Reach]

    def tree(self) -> dict[str, Any] | None:
        """Return the configuration to paste, or None when nothing fits."""
        return (
            document(self.best.ask, self.name, self.replicas, self.reach[1]) if self.best else None
        )

    def command(self) -> str | None:
        """Return the same as a vLLM command."""
        return command(self.best.ask, self.name, self.reach[1]) if self.best else None


def _page_dict(page: _Page) -> dict[str, Any]:
    reach = page.reach[0]
    return {
        **report.as_dict(page.plan),
        "replicas": page.replicas,
        "context_reach": {"way": reach.way, "factor": reach.factor, "sentence": reach.sentence},
        "speed": {title: report.rate_dict(rate) for title, rate in page.rates.items()},
        "changes": [
            {"words": change.words, "knobs": dict(change.knobs), "verdict": change.plan.verdict}
            for change in page.changes
        ],
        "configuration": page.tree(),
        "command": page.command(),
        "idle": [
            {"card": idle.card.name, "count": idle.count, "sentence": idle.sentence}
            for idle in page.idle
        ],
        "ram": page.ram,
        "money": [cost.as_dict() for cost in page.costs],
    }


def _print_page(page: _Page, prices: str | None) -> None:
    plan, tree = page.plan, page.tree()
    print_plan(plan, page.replicas)
    print_changes(plan, page.changes)
    for idle in page.idle:
        print(f"\nIdle: {idle.sentence}")
    print(f"\nContext: {page.reach[0].sentence}")
    _print_offload(plan)
    if page.ram:
        print(page.ram)
    changed = plan.verdict == "no" and page.best is not None
    print(
        "\n"
        + ("After the nearest change:\n\n" if changed else "")
        + report.speed_lines(page.rates.items())
    )
    if page.costs:
        print("\n" + money.lines(page.costs, prices))
    if tree is not None:
        print(
            f"\nConfiguration{' after the nearest change' if changed else ''} (consilium.yaml):\n\n{yaml_text(tree)}"
        )
        if page.best is not None and (
            note := checkpoint_note(
                [(page.best.ask.weights, models.find(page.name).weights or "bf16")]
            )
        ):
            print(f"{note}\n")
        print(f"The same by hand: {page.command()}")


def _seat(args: argparse.Namespace, ask: Ask, cards: tuple[Card, ...]) -> tuple[Ask, int]:
    """Choose the cut: as told, else the smallest one of the largest kind of card that fits."""
    if args.tp is not None or args.pp != 1 or args.ep:
        cut = Cut(1 if args.tp is None else args.tp, args.pp, 1, expert_parallel=args.ep)
        if cut.tp < 1 or cut.pp < 1:
            raise wrong("tp", "tensor and pipeline parallel are at least 1")
        if cut.cards > len(cards):
            raise wrong(
                "tp",
                f"tensor parallel {cut.tp} x pipeline parallel {cut.pp} takes {cut.cards} cards and {len(cards)} are given",
            )
        return ask.with_(cut=cut, cards=cards[: cut.cards]), len(cards) // cut.cards
    checked(ask.with_(cards=cards[:1]))
    group = topologies.groups(cards)[0]
    seat = topologies.seat(ask, group)
    return seat.plan.ask, seat.replicas


def _with_measured(args: argparse.Namespace, ask: Ask) -> Ask:
    if args.measured is None or not ask.cards:
        return ask
    kept = Measured.load(Path(args.measured))
    overhead = kept.overhead(ask.shape.name, ask.cards[0].name, ask.version)
    if overhead is None:
        raise wrong(
            "measured",
            f"{args.measured} holds nothing for {ask.shape.name} on {ask.cards[0].name} with vLLM {ask.version}; it holds {kept.names() or 'nothing'}",
        )
    return ask.with_(overhead_bytes=overhead)


def rates_of(plan: Plan, cpu: Cpu | None, nodes: int = 1) -> dict[str, speed.Rate | None]:
    """Return the speeds worth telling: one stream, the batch that fits, and reading the prompt."""
    ask = plan.ask
    short = min(ask.context, 4096)
    batch = (
        max(1, min(ask.batch.sequences, int(plan.tokens[1] / max(short, 1))))
        if plan.tokens[1]
        else 1
    )
    load = speed.Load(
        1,
        short,
        ask.weights,
        ask.kv_dtype,
        eager=ask.eager,
        nodes=nodes,
        host_bytes=ask.weights_to_ram,
    )
    many = replace(load, batch=batch)
    whole = replace(load, context=ask.context)
    words = tokens_in_words(short)
    if ask.cards:
        card, cut = ask.cards[0], ask.cut
        return {
            f"writing, one stream at {words}": speed.decode(ask.shape, card, cut, load),
            f"writing, {batch} streams at {words}": speed.decode(ask.shape, card, cut, many),
            f"reading a prompt of {tokens_in_words(ask.context)}": speed.prefill(
                ask.shape, card, cut, whole
            ),
        }
    if cpu is None:
        return {}
    return {
        f"writing, one stream at {words}": speed.decode_on_cpu(ask.shape, cpu, load),
        f"writing, {batch} streams at {words}": speed.decode_on_cpu(ask.shape, cpu, many),
        f"reading a prompt of {tokens_in_words(ask.context)}": speed.prefill_on_cpu(
            ask.shape, cpu, whole
        ),
    }


def print_plan(plan: Plan, replicas: int) -> None:
    """Print the verdict, the table, the bar, the binding limit and what to mind."""
    ask = plan.ask
    where = (
        "CPU"
        if ask.on_cpu
        else " and ".join(
            f"{count} x {name}" for name, count in Counter(card.name for card in ask.cards).items()
        )
    )
    where += f", {replicas} copies" if replicas > 1 else ""
    print(
        f"{ask.shape.name}, {ask.weights} weights, {ask.kv_dtype} KV, {tokens_in_words(ask.context)} context, on {where}: {report.WORDS[plan.verdict]}.\n"
    )
    print(report.memory_table(plan))
    print("\n" + report.bar(plan) + "\n")
    print(plan.binding)
    if plan.tokens[1] > 0:
        low, likely, high = (tokens_in_words(count) for count in plan.tokens)
        print(
            f"Room for {likely} tokens ({low} to {high}): {plan.concurrency:.1f} requests of {tokens_in_words(ask.context)} at once."
        )
    for sentence in plan.warnings:
        print(f"Mind: {sentence}")


def print_changes(plan: Plan, changes: list[search.Change]) -> None:
    """Print what makes it fit, or gives more room."""
    if not changes:
        if plan.verdict == "no":
            print("\nNo change of settings makes it fit; choose a smaller model.")
        return
    print("\nNearest change that makes it fit:" if plan.verdict == "no" else "\nMore room with:")
    for sentence in report.change_lines(changes):
        print(f"  {sentence}")


def _print_offload(plan: Plan) -> None:
    ask = plan.ask
    if ask.kv_to_ram:
        room = kv.room(
            ask.shape,
            ask.kv_dtype,
            ask.kv_to_ram / ask.cut.tp,
            ask.context,
            ask.cut.tp,
            prefix_caching=ask.prefix_caching,
        )
        print(
            f"KV parked in RAM: {tokens_in_words(room.tokens)} more tokens of finished prefixes; a running request still needs its KV on the card."
        )
    if ask.weights_to_ram:
        print(
            f"Weights in RAM: {ask.weights_to_ram / GIB:.1f} GiB per card cross the bus in every step, which caps the speed at the bus."
        )

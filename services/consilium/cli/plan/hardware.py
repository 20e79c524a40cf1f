"""The page of `consilium plan --gpus` without a model: what can this hardware run, the best topologies, in words, and as a file.

Knows how a person reads the answer. Asks the planner for every figure.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from consilium.planner import models, report, rope, sizes, topologies
from consilium.planner.cards import Card
from consilium.planner.proposal import checkpoint_note, document, hybrid, yaml_text
from consilium.planner.refusal import wrong

EXIT_OK = 0
USUAL_CONTEXT = "32k"


def answer(args: argparse.Namespace, cards: tuple[Card, ...]) -> int:
    """Print what the cards can run. Raises invalid_request when no known model fits."""
    context = args.context or USUAL_CONTEXT
    found = topologies.suggest(cards, sizes.tokens(context))
    if not found:
        raise wrong(
            "gpus",
            "none of the known models fits these cards; a larger card, or a GGUF on the processor, would work",
        )
    if args.output == "json":
        print(json.dumps([as_dict(topology, cards) for topology in found], indent=2))
        return EXIT_OK
    print(
        f"What {', '.join(f'{len(group)} x {group[0].name}' for group in topologies.groups(cards))} can run with {context} of context:\n"
    )
    for topology in found:
        print(f"{topology.kind}: {topology.good_for}.")
        for seat in topology.seats:
            print(f"  {seat.words()}")
        for card, count in left_out(topology, cards):
            print(f"  {count} x {card.name} {'stays' if count == 1 else 'stay'} idle")
        print()
    print(f"The first as consilium.yaml:\n\n{yaml_text(configuration(found[0]))}", end="")
    formats = [
        (seat.plan.ask.weights, models.by_name(seat.plan.ask.shape.name).weights or "bf16")
        for seat in found[0].seats
    ]
    if note := checkpoint_note(formats):
        print(f"\n{note}")
    return EXIT_OK


def left_out(topology: topologies.Topology, cards: tuple[Card, ...]) -> list[tuple[Card, int]]:
    """Return (card, how many) of each kind that a topology does not use."""
    used = tuple(card for seat in topology.seats for card in seat.plan.ask.cards * seat.replicas)
    return topologies.idle_cards(cards, used, 1)


def configuration(topology: topologies.Topology) -> dict[str, Any]:
    """Return the consilium.yaml tree of a topology: one model, or a core and executors."""
    seats = [
        (seat.plan.ask, models.by_name(seat.plan.ask.shape.name).hf_id, seat.replicas)
        for seat in topology.seats
    ]
    if topology.kind == "hybrid":
        return hybrid(seats)
    ask, name, copies = seats[0]
    return document(ask, name, copies, rope.reach(ask.shape, ask.context))


def as_dict(topology: topologies.Topology, cards: tuple[Card, ...]) -> dict[str, Any]:
    """Return a topology for programs."""
    return {
        "kind": topology.kind,
        "good_for": topology.good_for,
        "configuration": configuration(topology),
        "idle": [{"card": card.name, "count": count} for card, count in left_out(topology, cards)],
        "seats": [
            {
                **report.as_dict(seat.plan),
                "replicas": seat.replicas,
                "one_stream": report.rate_dict(seat.rate),
            }
            for seat in topology.seats
        ],
    }

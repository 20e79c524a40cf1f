"""The page of `consilium plan -c FILE`: every engine of a consilium.yaml, with the cards given out in order.

Knows how a person reads it. Reads the file as `consilium up` does; asks the planner for every figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from consilium.cli.plan.fit import EXIT_DOES_NOT_FIT, EXIT_OK, hardware, print_changes, print_plan
from consilium.kernel.errors import ConsiliumError
from consilium.planner import question_file, report, search, topologies
from consilium.planner.refusal import wrong


def answer(args: argparse.Namespace) -> int:
    """Print the plan of every engine of a consilium.yaml."""
    if args.model is not None:
        raise wrong("model", "the file names the models; give -c or --model, not both")
    cards, ram, _ = hardware(args)
    tree, slots = _tree(Path(args.config))
    planned = question_file.engines(tree, cards, ram, args.vllm)
    idle = topologies.idle_cards(cards[planned[-1].cards[1] :], (), 1)
    if args.output == "json":
        print(
            json.dumps(
                [
                    {
                        "engine": engine.name,
                        "replicas": engine.replicas,
                        "note": engine.note,
                        "slots_by_adapters": slots.get(engine.name, ""),
                        **report.as_dict(engine.plan),
                    }
                    for engine in planned
                ],
                indent=2,
            )
        )
    else:
        for engine in planned:
            print(f"== {engine.name}")
            print_plan(engine.plan, engine.replicas)
            if engine.note:
                print(engine.note)
            if engine.name in slots:
                print(f"{slots[engine.name]}.")
            print_changes(
                engine.plan, list(search.changes(engine.ask)) if engine.plan.verdict == "no" else []
            )
            print()
        for card, count in idle:
            print(
                f"Idle: {count} x {card.name}; an executor in topology hybrid would use {'it' if count == 1 else 'them'}."
            )
    return EXIT_OK if all(engine.plan.verdict != "no" for engine in planned) else EXIT_DOES_NOT_FIT


def _tree(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return model, topology, engine, executors and adapters of the file as plain values, checked as in `up`, and what is said of slots that nobody asked for.

    A file that is none is a wrong question.
    """
    from consilium.cli.config_tree import ConsiliumConfig
    from consilium.kernel.config import load

    try:
        loaded = load(ConsiliumConfig, path=path, env={})
    except ConsiliumError as err:
        if str(err.fields["key"]).startswith(str(path)):  # the file itself, not one of its keys
            raise wrong("config", f"{err.public()}; give a consilium.yaml") from err
        raise
    kept = {"model", "topology", "engine", "executors", "adapters"}
    return loaded.value.model_dump(include=kept), loaded.value.slots_by_adapters()

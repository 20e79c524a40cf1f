"""`consilium doctor`: what is wrong on this machine, or would be, each with the way out. Exit code 3 if something fails.

Every room brings its rows in its own doctor.py; this file only collects, asks and prints them. Starts and ends nothing. With --cluster or
--release a Kubernetes cluster is looked at in place of this machine (cluster/).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from consilium.cli import config_tree
from consilium.cli.app import EXIT_UNHEALTHY
from consilium.cli.cluster import flags
from consilium.cli.endpoint import add_output, add_state, folder_of
from consilium.kernel.config import added_rooms
from consilium.kernel.doctor import (
    Facts,
    Finding,
    Level,
    Row,
    Subject,
    Verdict,
    failure,
    gather,
    judge,
    needed,
    ok,
)
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.rooms import rooms

MODULES: Final = (
    "consilium.kernel.doctor_machine",
    "consilium.engine.doctor",
    "consilium.embedding.doctor",
    "consilium.gateway.doctor",
    "consilium.cli.doctor_start",
    "consilium.supervisor.doctor",
)
"""Where rows are, in the order in which they are shown; each module has ROWS. Rooms of the cluster's table follow with their own doctor.py."""
_COLOUR: Final = {
    Level.OK: "green",
    Level.NOTE: "cyan",
    Level.WARNING: "yellow",
    Level.FAILURE: "bold red",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Say what is wrong or would be, and the way out: on this machine, in a Kubernetes cluster, or in a release there."
    parser = subparsers.add_parser("doctor", help=text, description=text)
    config_tree.add_config_flags(parser)
    add_state(parser)
    add_output(parser)
    flags.add(parser)


def run(args: argparse.Namespace) -> int:
    """Look, and print what was found. Returns 3 if a check fails."""
    findings = flags.findings(args) if flags.is_asked(args) else _of_machine(args)
    failed = any(finding.level is Level.FAILURE for finding in findings)
    if args.output == "json":
        told = {"healthy": not failed, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(told, indent=2, ensure_ascii=False, default=str))
    else:
        _print(findings)
    return EXIT_UNHEALTHY if failed else 0


def _of_machine(args: argparse.Namespace) -> tuple[Finding, ...]:
    rows = all_rows()
    return judge(rows, gather(needed(rows), _subject(args)))


def all_rows() -> tuple[Row, ...]:
    """Return the rows of every room."""
    found = [CONFIGURATION]
    for name in (*MODULES, *_rooms_with_rows()):
        found += importlib.import_module(name).ROWS
    return tuple(found)


def _rooms_with_rows() -> list[str]:
    """Return the doctor.py of each room of the cluster's table that has one and is not listed above."""
    names = [f"{room.module.rpartition('.')[0]}.doctor" for room in rooms(added_rooms())]
    return [
        name
        for name in dict.fromkeys(names)
        if name not in MODULES and importlib.util.find_spec(name) is not None
    ]


def _subject(args: argparse.Namespace) -> Subject:
    """Return what is examined; a configuration that is not valid is a finding."""
    root = folder_of(args).root
    try:
        loaded = config_tree.load_tree(args)
        tree = config_tree.self_contained(loaded.value, config_tree.beside(args))
    except ConsiliumError as error:
        return Subject(None, root, error.public())
    return Subject(tree, root)


def _configuration(facts: Facts) -> Verdict:
    refusal = facts.subject.refusal
    return failure(refusal=refusal) if refusal else ok()


CONFIGURATION: Final = Row(
    "configuration",
    "configuration",
    (),
    _configuration,
    "{refusal}",
    "Correct what the sentence names. 'consilium config example' prints every key with its meaning.",
    "valid",
)


def _print(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        colour = _COLOUR[finding.level]
        word = f"[{colour}]{finding.level.value:8}[/]"
        said = f": {finding.sentence}" if finding.sentence else ""
        console.print(f"{word}{escape(finding.title + said)}")
        if finding.way_out and finding.level is not Level.OK:
            console.print(f"        [dim]{escape(finding.way_out)}[/]")
    console.print()
    console.print(summary(findings))


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each kind that is not well."""
    counts = {level: sum(one.level is level for one in findings) for level in Level}
    bad = [
        f"{counts[level]} {level.value}{'' if counts[level] == 1 else 's'}"
        for level in (Level.FAILURE, Level.WARNING, Level.NOTE)
        if counts[level]
    ]
    checks = f"{len(findings)} check{'' if len(findings) == 1 else 's'}"
    return f"{checks}: {', '.join(bad) or 'all well'}."

"""`consilium apply`: show what a configuration would change in a running cluster, and let the cluster take it over while answers stream.

    on this machine       the resolved tree in the state folder is written anew, and every gateway replica follows it
    from another machine  --endpoint: the gateway is given the sections, and writes its own tree

Only what running processes take over is applied; if anything else differs, nothing is. Knows trees and pages. Does not know the parts.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError

from consilium.cli import apply_adapters, config_tree, gateway_config, preflight_adapters
from consilium.cli.app import EXIT_USAGE, complain
from consilium.cli.config_tree import ConsiliumConfig
from consilium.cli.endpoint import (
    Endpoint,
    add_endpoint,
    add_output,
    endpoint_of,
    folder_of,
    is_elsewhere,
    running,
)
from consilium.cli.tables import show
from consilium.kernel.config import dump
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.live_config import Change, difference, exchange, versions
from consilium.supervisor.state_folder import Cluster, StateFolder

_SHOWN: Final = 60


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Show what a configuration changes in a running cluster, and take it over."
    parser = subparsers.add_parser(
        "apply",
        help=text,
        description=f"{text} Roles and profiles change while answers stream; what needs a restart is named and refused. "
        "Give the flags that 'up' was given.",
    )
    config_tree.add_config_flags(parser)
    add_endpoint(parser)
    add_output(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the difference, no more")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Apply a configuration. Raises ConsiliumError: config_invalid, needs_restart, not_running, not_taken_over, and what the gateway said."""
    _refuse_nothing(args)
    loaded = config_tree.load_tree(args)
    tree = config_tree.self_contained(loaded.value, config_tree.beside(args))
    endpoint = endpoint_of(args)
    target: _Target = _Elsewhere(endpoint) if is_elsewhere(args) else _Here(folder_of(args))
    changes = target.changes(tree)
    _show(changes, args)
    _refuse_restarts(changes, args)
    if {change.place[0] for change in changes} & {"adapters", "roles"}:
        target.check_adapters(tree, lambda line: print(line, file=sys.stderr))
    if not changes or args.dry_run:
        return 0
    if not args.yes and not _agreed(args):
        return EXIT_USAGE
    begun = time.monotonic()
    changed = {change.place[0] for change in changes}
    plain = dump(tree, masked=False)
    wanted = target.take({name: plain[name] for name in plain if name in changed})
    page = gateway_config.wait(endpoint, wanted)
    took_s = time.monotonic() - begun
    left_out = apply_adapters.left_out(endpoint, wanted["adapters"]) if "adapters" in changed else ()  # fmt: skip
    _tell(page, took_s, changes, left_out, args)
    for line in left_out:
        print(line, file=sys.stderr)
    return 0


def _refuse_nothing(args: argparse.Namespace) -> None:
    """Raise ConsiliumError(config_invalid) where nothing is named: then every role would be taken away, by a command in the wrong folder."""
    named = (args.model, args.port, args.grpc_port, *args.set)
    if config_tree.file_of(args) is None and not any(named):
        raise ConsiliumError(
            "config_invalid",
            key="-c",
            reason=f"no configuration is named and there is no {config_tree.FILE} in {Path.cwd()}; name the file that 'up' was given",
        )


class _Target(Protocol):
    """A cluster that a configuration is compared with, and given to."""

    def changes(self, tree: ConsiliumConfig) -> tuple[Change, ...]:
        """Return what a tree changes."""

    def check_adapters(self, tree: ConsiliumConfig, say: Callable[[str], None]) -> None:
        """Warn of adapters that cannot answer. Raises ConsiliumError(config_invalid) where a role needs one."""

    def take(self, sections: Mapping[str, Any]) -> Mapping[str, str]:
        """Exchange live sections, each whole. Return the version of each live section that every replica will hold. Raises ConsiliumError."""


class _Here:
    """The cluster of this machine, by its resolved tree."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._cluster = running(folder)
        self._held = config_tree.resolved(folder)

    def changes(self, tree: ConsiliumConfig) -> tuple[Change, ...]:
        """Return what a tree changes."""
        return difference(self._held, with_choices(tree, self._held, self._cluster))

    def check_adapters(self, tree: ConsiliumConfig, say: Callable[[str], None]) -> None:
        """Hold adapters against the models that run."""
        whole = with_choices(tree, self._held, self._cluster)
        preflight_adapters.check_adapters(whole, self._folder, say)
        preflight_adapters.check_running(self._held, whole, say)

    def take(self, sections: Mapping[str, Any]) -> Mapping[str, str]:
        """Write the sections into the resolved tree, unless somebody else has changed it since it was compared."""

        def allowed(_tree: object) -> None:
            if config_tree.resolved(self._folder) != self._held:
                reason = "The configuration was changed meanwhile. Call it again."
                raise ConsiliumError("concurrent_change", reason=reason)

        try:
            exchange(self._folder.config, sections, allowed)
        except OSError as err:
            reason = f"it cannot be written: {err.strerror or err}"
            raise ConsiliumError(
                "state_damaged", path=str(self._folder.config), reason=reason
            ) from err
        return versions(config_tree.resolved(self._folder))


class _Elsewhere:
    """A cluster that is reached through its gateway. Only live sections can be compared; the others are not told."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._page = gateway_config.ask(endpoint)

    def changes(self, tree: ConsiliumConfig) -> tuple[Change, ...]:
        """Return what a tree changes in what the gateway shows, which is masked."""
        masked = dump(tree, masked=True)
        held = {name: _section(name, value) for name, value in self._page.sections.items()}
        wanted = {name: _section(name, masked[name]) for name in held}
        return difference(tree.model_copy(update=held), tree.model_copy(update=wanted))

    def check_adapters(self, tree: ConsiliumConfig, say: Callable[[str], None]) -> None:
        """Warn of adapters that go while roles name them. Neither the files nor the models are here: at the others the cluster looks itself."""
        held = self._page.sections.get("adapters") or {}
        preflight_adapters.tell_leaving(tree, {*held} - {*tree.adapters}, say)

    def take(self, sections: Mapping[str, Any]) -> Mapping[str, str]:
        """Give the sections to the gateway."""
        return gateway_config.exchange(self._endpoint, sections, self._page.version).versions


def with_choices(tree: ConsiliumConfig, held: ConsiliumConfig, cluster: Cluster) -> ConsiliumConfig:
    """Return a tree with what `up` has chosen where nobody named anything: ports, and our own Redis."""
    chosen: dict[str, dict[str, object]] = {
        "gateway": {"port": held.gateway.port, "grpc_port": held.gateway.grpc_port},
        "metrics": {"port": held.metrics.port},
    }
    if "redis" in cluster.ports:  # our own
        chosen["redis"] = {"url": held.redis.url}
    sections = {name: getattr(tree, name) for name in chosen}
    return tree.model_copy(
        update={
            name: section.model_copy(
                update={
                    key: value
                    for key, value in chosen[name].items()
                    if getattr(section, key) is None
                }
            )
            for name, section in sections.items()
        }
    )


def _section(name: str, value: object) -> object:
    """Return a section as the tree holds it. Raises ConsiliumError(data_damaged) if the gateway's has another form."""
    try:
        return TypeAdapter(ConsiliumConfig.model_fields[name].annotation or object).validate_python(
            value
        )
    except (KeyError, ValidationError) as err:
        raise ConsiliumError(
            "data_damaged", str(err), reason=f"the gateway's section {name} has another form"
        ) from err


def _refuse_restarts(changes: Sequence[Change], args: argparse.Namespace) -> None:
    """Raise ConsiliumError(needs_restart) if anything differs that running processes do not take over."""
    fixed = [change for change in changes if not change.live]
    if not fixed:
        return
    parts = ", ".join(dict.fromkeys(change.restarts for change in fixed))
    file = config_tree.file_of(args)
    words = [
        *(["--state", str(args.state)] if args.state else []),
        *(["-c", str(file)] if file is not None else []),
    ]
    tail = "".join(f" {shlex.quote(word)}" for word in words)
    state = f" --state {shlex.quote(str(args.state))}" if args.state else ""
    raise ConsiliumError(
        "needs_restart",
        keys=", ".join(change.key for change in fixed),
        how=f"{parts} must start again, with 'consilium down{state} && consilium up{tail}'",
    )


def _agreed(args: argparse.Namespace) -> bool:
    """Ask. Nobody is asked where there is no terminal: then --yes is needed."""
    if args.output == "json" or not sys.stdin.isatty():
        complain("Nothing was changed: there is no terminal to ask at.", "Say --yes.")
        return False
    if input("Apply this? [y/N] ").strip().lower() in {"y", "yes"}:
        return True
    print("Nothing was changed.")
    return False


def _show(changes: Sequence[Change], args: argparse.Namespace) -> None:
    """Print the difference."""
    if args.output == "json":
        if args.dry_run or not changes or not all(change.live for change in changes):
            print(json.dumps(_document(changes), indent=2, ensure_ascii=False))
        return
    if not changes:
        print("Nothing differs from what the cluster runs with.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "key",
        "now",
        "new",
        "how",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for change in changes:
        how = "[green]at once[/]" if change.live else f"[red]restart of {change.restarts}[/]"
        old, new = (escape(shown(value)) for value in (change.old, change.new))
        table.add_row(change.key, old, new, how)
    table.columns[0].overflow = "fold"  # a key is what one looks for in the file
    show(table)


def shown(value: Any) -> str:
    """Return a value for a cell: short, keys that are not set left out."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        value = {name: item for name, item in value.items() if item is not None}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... ({len(text)} characters)"


def _tell(
    page: gateway_config.Page,
    seconds: float,
    changes: Sequence[Change],
    left_out: Sequence[str],
    args: argparse.Namespace,
) -> None:
    """Print who has taken it over, and how long that took."""
    if args.output == "json":
        done: dict[str, Any] = {
            "applied": True,
            "took_s": round(seconds, 2),
            "replicas": list(page.replicas),
        }
        done["adapters_left_out"] = list(left_out)
        print(json.dumps({**_document(changes), **done}, indent=2, ensure_ascii=False))
        return
    count = len(page.replicas)
    who = "The gateway holds it" if count == 1 else f"All {count} gateway replicas hold it"
    print(f"{who}, after {seconds:.1f} s. Turns that had begun end as they began.")


def _document(changes: Sequence[Change]) -> dict[str, Any]:
    rows = [{"key": change.key, **asdict(change)} for change in changes]
    for row in rows:
        del row["place"]
    return {"changes": rows, "applied": False}

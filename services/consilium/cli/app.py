"""The `consilium` command: finds the command's file, runs it, turns errors into one sentence and an exit code.

Knows the names of the commands. Does not import what only one of them needs.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

from consilium.kernel.errors import ConsiliumError

COMMANDS: Final = {
    "up": ("consilium.cli.up", "Start the cluster and wait until it answers."),
    "down": ("consilium.cli.down", "Stop the cluster."),
    "apply": (
        "consilium.cli.apply",
        "Show what a configuration changes in a running cluster, and take it over.",
    ),
    "status": ("consilium.cli.status", "Show each part: state, address, memory."),
    "top": (
        "consilium.cli.top.command",
        "Show tokens, waiting times, cards and watts, live.",
    ),
    "doctor": (
        "consilium.cli.doctor",
        "Say what is wrong or would be, and the way out: here, in Kubernetes, or in a release.",
    ),
    "drain": ("consilium.cli.drain", "Let the answers of this pod finish before it ends."),
    "logs": ("consilium.cli.logs", "Show what the parts said."),
    "chat": ("consilium.cli.chat", "Ask the model."),
    "smoke": ("consilium.cli.smoke", "Try a cluster: health, one chat over HTTP, one over gRPC."),
    "why": ("consilium.cli.why", "Show the receipt of an answer: what was done, when, and why."),
    "keys": ("consilium.cli.keys", "Make, list and revoke API keys."),
    "models": (
        "consilium.cli.models",
        "List the models, fetch them, or say where one lies on disk.",
    ),
    "adapters": (
        "consilium.cli.adapters",
        "Store adapters, place, switch and remove them, and say who would answer.",
    ),
    "metrics": ("consilium.cli.metrics", "Show every metric: name, type, labels, meaning."),
    "dashboards": (
        "consilium.cli.dashboards",
        "Write dashboards for Grafana, rules and alerts for Prometheus.",
    ),
    "config": (
        "consilium.cli.config_command",
        "Show the configuration and where each value came from.",
    ),
    "plan": ("consilium.cli.plan.command", "Say what fits on which hardware, with the arithmetic."),
    "tokens": ("consilium.cli.tokens", "Show what words look like to the model."),
    "explain": ("consilium.cli.explain", "Explain a configuration file line by line."),
}
"""Command -> (module, one line of help). Each module has `add(subparsers)` and `run(args) -> int`."""

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNHEALTHY: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_DOWN: Final = 5
EXIT_INTERRUPTED: Final = 130
_NOT_FOUND: Final = frozenset(
    {
        "receipt_unknown",
        "key_unknown",
        "model_unknown",
        "job_unknown",
        "adapter_unknown",
        "collection_unknown",
        "route_unknown",
    }
)
_PROFILE: Final = "consilium.profile"  # the field that names a profile: chat sends a name, so what is wrong with it is that nobody has it


def exit_code(err: ConsiliumError) -> int:
    """Return the exit code of an error: the catalogue's own, 4 for what was not found, else 1."""
    if err.row.exit_code != EXIT_FAILURE:
        return err.row.exit_code
    return (
        EXIT_NOT_FOUND
        if err.code in _NOT_FOUND or err.fields.get("param") == _PROFILE
        else EXIT_FAILURE
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return dispatch(words)
    except ConsiliumError as err:
        complain(err.public(), err.row.next_step)
        return exit_code(err)
    except KeyboardInterrupt as err:
        if sys.stdout.isatty():
            print()  # an answer may have been in the middle of a line
        print(f"stopped: {err}" if str(err) else "stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def dispatch(words: list[str]) -> int:
    """Parse the words and run the command. Only the module of the command that is named is imported."""
    named = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="consilium", description="A self-hosted Qwen cluster: one mind with many hands."
    )
    parser.add_argument(
        "--version", action=_ShowVersion, nargs=0, help="Show the version and leave."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    command = importlib.import_module(COMMANDS[named][0]) if named in COMMANDS else None
    for name, (_, line) in COMMANDS.items():
        if command is not None and name == named:
            command.add(subparsers)
        else:
            subparsers.add_parser(name, help=line, add_help=False)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        told = parser if command is None or named is None else subparsers.choices[named]
        told.error(f"unrecognized arguments: {' '.join(unknown)}")
    if command is None:
        parser.print_help()
        return EXIT_USAGE
    return int(command.run(args))


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: reading package metadata costs every command 30 ms."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(message=f"consilium {_version()}\n")


def complain(sentence: str, next_step: str = "") -> None:
    """Print what went wrong and what to do about it."""
    print(f"error: {sentence}", file=sys.stderr)
    if next_step:
        print(f"next: {next_step}", file=sys.stderr)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("consilium")
    except PackageNotFoundError:
        return "0 (not installed)"


if __name__ == "__main__":
    sys.exit(main())

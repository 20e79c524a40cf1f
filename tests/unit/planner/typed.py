"""The commands of the planner as somebody types them."""

from consilium.cli.app import main


def run(capsys, *words):
    """Return (exit code, what was printed, what went to stderr)."""
    code = main(list(words))
    seen = capsys.readouterr()
    return code, seen.out, seen.err

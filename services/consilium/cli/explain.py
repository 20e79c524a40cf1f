"""`consilium explain FILE`: goes through a configuration file line by line, for a reader who is new.

Model files are explained by the planner; consilium.yaml from the descriptions of its own configuration models.
"""

from __future__ import annotations

import argparse
import difflib
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilium.cli.plan.command import guarded
from consilium.kernel.errors import ConsiliumError
from consilium.planner import explain as pages
from consilium.planner import models
from consilium.planner.refusal import wrong

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

EXIT_OK = 0
_YAML = (".yaml", ".yml")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "explain",
        help="Explain a configuration file line by line.",
        description="Explain config.json, tokenizer_config.json, adapter_config.json or consilium.yaml line by line.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="The file, or the name of a known model for its config.json; several are explained in turn.",
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Explain the files in turn; 0, or 2 when one cannot be explained."""
    if len(args.files) == 1:
        return guarded(lambda: _explain(args.files, args.output))
    if args.output == "json":
        return guarded(lambda: _explain(args.files, "json"))
    codes = []
    for number, word in enumerate(args.files):
        codes.append(
            guarded(
                partial(
                    _explain, [word], args.output, title=("\n" if number else "") + f"== {word}\n"
                )
            )
        )
    return max(codes)


def _explain(words: list[str], output: str, title: str = "") -> int:
    found = [_lines_of(word) for word in words]
    if output == "json":
        pages_found = [
            {"file": word, "summary": sentences, "lines": [asdict(line) for line in lines]}
            for word, (lines, sentences) in zip(words, found, strict=True)
        ]
        print(
            json.dumps(
                pages_found if len(words) > 1 else pages_found[0], ensure_ascii=False, indent=2
            )
        )
        return EXIT_OK
    for lines, sentences in found:
        print(title, end="")
        _print(lines, sentences)
    return EXIT_OK


def _lines_of(word: str) -> tuple[list[pages.Line], list[str]]:
    path = Path(word).expanduser()
    if path.suffix in _YAML:
        return yaml_lines(path), []
    data, name = _data(path, word)
    return pages.lines(data), pages.summary(data, name)


def _print(lines: list[pages.Line], sentences: list[str]) -> None:
    for line in lines:
        print(f"{line.key}: {line.value}")
        for text in (line.meaning, line.change):
            if text:
                print(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="    "))
    if sentences:
        print()
    for sentence in sentences:
        print(sentence)


def _data(path: Path, word: str) -> tuple[Mapping[str, Any], str]:
    if path.is_dir() and word:
        path /= "config.json"
        if not path.is_file():
            raise wrong(
                "file",
                f"{path.parent} holds no config.json; give the folder of one checkpoint, or a file",
            )
    if path.is_file():
        return models.read_json(path), path.parent.name
    if path.suffix or ("/" in word and not word.count("/") == 1):
        raise wrong(
            "file",
            f"there is no file {word[:120]!r}; give config.json, tokenizer_config.json, adapter_config.json or consilium.yaml",
        )
    model = models.by_name(word)
    return model.config, model.shape.name


def yaml_lines(path: Path) -> list[pages.Line]:
    """Return the explanation of every key in a consilium.yaml, from the descriptions of the configuration models."""
    from consilium.kernel import yaml_source

    try:
        tree = yaml_source.read(path)
    except ConsiliumError as err:
        raise wrong("file", f"{err.public()}; give a consilium.yaml") from err
    if not tree:
        raise wrong(
            "file", f"{path.name} holds no keys; give a consilium.yaml with at least a model"
        )
    from consilium.cli.config_tree import ConsiliumConfig

    found: list[pages.Line] = []
    _walk(tree, ConsiliumConfig, "", found)
    return found


def _walk(
    tree: Mapping[str, Any], model: type[BaseModel] | None, prefix: str, found: list[pages.Line]
) -> None:
    fields = dict(model.model_fields) if model is not None else {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        known = fields.get(str(key))
        if model is not None and known is None:
            near = next(
                iter(difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.5)), None
            )
            found.append(
                pages.Line(
                    name,
                    pages.short(value),
                    "No such key: the cluster refuses to start with it.",
                    f"The nearest known key is {near}." if near else "",
                )
            )
            continue
        found.append(
            pages.Line(
                name, pages.short(value), _about(known, str(key), prefix), _note(known, value)
            )
        )
        if isinstance(value, Mapping):
            inner, named = _inner(known.annotation if known is not None else None)
            for below, held in value.items() if named else ():
                found.append(
                    pages.Line(f"{name}.{below}", pages.short(held), f"One entry of {key}.", "")
                )
                if isinstance(held, Mapping):
                    _walk(held, _chosen(inner, held), f"{name}.{below}.", found)
            if not named and inner:
                _walk(value, inner[0], f"{name}.", found)


def _about(field: FieldInfo | None, key: str, prefix: str) -> str:
    """Return the description of a key; an executor's engine settings are described where the common ones are."""
    from consilium.engine.config import EngineSettings

    if field is None or field.description:
        return field.description or "" if field is not None else ""
    common = EngineSettings.model_fields.get(key) if prefix.endswith(".engine.") else None
    return common.description or "" if common is not None else ""


def _note(field: FieldInfo | None, value: object) -> str:
    if (
        field is None
        or isinstance(value, Mapping)
        or field.is_required()
        or field.default_factory is not None
    ):
        return ""
    return (
        "Empty when it is left out."
        if field.default is None
        else f"The default is {pages.short(field.default)}."
    )


def _inner(annotation: object) -> tuple[list[type[BaseModel]], bool]:
    """Return the models inside an annotation, and whether they stand under names of the owner's choice (a dict)."""
    import typing

    from pydantic import BaseModel

    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation], False
    found: list[type[BaseModel]] = []
    for part in typing.get_args(annotation):
        found += _inner(part)[0]
    return found, origin is dict


def _chosen(choices: list[type[BaseModel]], value: Mapping[str, Any]) -> type[BaseModel] | None:
    # As the configuration itself does: an executor without a kind is remote when it has a url.
    said = value.get("kind", "remote" if "url" in value else "engine")
    for choice in choices:
        kind = choice.model_fields.get("kind")
        if kind is None or said == kind.default:
            return choice
    return choices[0] if choices else None

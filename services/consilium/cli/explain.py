"""`consilium explain FILE`: goes through a configuration file line by line, for a reader who is new.

Model files are explained by the planner; consilium.yaml from the descriptions of its own configuration models.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilium.cli.plan import guarded
from consilium.planner import explain as pages
from consilium.planner import models
from consilium.planner.refusal import nearest, wrong

if TYPE_CHECKING:
    from pydantic import BaseModel

EXIT_OK = 0
_YAML = (".yaml", ".yml")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "explain",
        help="Explain a configuration file line by line.",
        description="Explain config.json, tokenizer_config.json, adapter_config.json or consilium.yaml line by line.",
    )
    parser.add_argument("file", help="The file, or the name of a known model for its config.json.")
    parser.add_argument("--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    """Explain the file; 0, or 2 when it cannot be explained."""
    return guarded(lambda: _explain(args))


def _explain(args: argparse.Namespace) -> int:
    path = Path(args.file).expanduser()
    if path.suffix in _YAML:
        lines, sentences = yaml_lines(path), []
    else:
        data, name = _data(path, args.file)
        lines, sentences = pages.lines(data), pages.summary(data, name)
    if args.output == "json":
        print(json.dumps({"summary": sentences, "lines": [asdict(line) for line in lines]}, ensure_ascii=False, indent=2))
        return EXIT_OK
    for line in lines:
        print(f"{line.key}: {line.value}")
        for text in (line.meaning, line.change):
            if text:
                print(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="    "))
    if sentences:
        print()
    for sentence in sentences:
        print(sentence)
    return EXIT_OK


def _data(path: Path, word: str) -> tuple[Mapping[str, Any], str]:
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return models.read_json(path), path.parent.name
    if path.suffix or ("/" in word and not word.count("/") == 1):
        raise wrong("file", f"there is no file {word[:120]!r}; give config.json, tokenizer_config.json, adapter_config.json or consilium.yaml")
    model = models.by_name(word)
    return model.config, model.shape.name


def yaml_lines(path: Path) -> list[pages.Line]:
    """Return the explanation of every key in a consilium.yaml, from the descriptions of the configuration models."""
    import yaml

    try:
        if path.stat().st_size > models.MAX_CONFIG_BYTES:
            raise wrong("file", f"{path.name} has {path.stat().st_size >> 20} MiB; a consilium.yaml is a few kB of YAML")
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise wrong("file", f"{path} cannot be read as YAML; give a consilium.yaml") from err
    if not isinstance(tree, Mapping):
        raise wrong("file", f"{path.name} holds no keys; give a consilium.yaml with at least a model")
    from consilium.cli.tree import ConsiliumConfig

    found: list[pages.Line] = []
    _walk(tree, ConsiliumConfig, "", found)
    return found


def _walk(tree: Mapping[str, Any], model: type[BaseModel] | None, prefix: str, found: list[pages.Line]) -> None:
    fields = dict(model.model_fields) if model is not None else {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        known = fields.get(str(key))
        if model is not None and known is None:
            near = nearest(str(key), fields)
            found.append(
                pages.Line(name, pages.short(value), "No such key: the cluster refuses to start with it.", f"The nearest known key is {near}." if near else "")
            )
            continue
        default = known.default if known is not None else None
        about = (known.description or "") if known is not None else ""
        note = (
            f"The default is {pages.short(default)}."
            if known is not None and not isinstance(value, Mapping) and not known.is_required() and known.default_factory is None
            else ""
        )
        found.append(pages.Line(name, pages.short(value), about, note))
        if isinstance(value, Mapping):
            inner, named = _inner(known.annotation if known is not None else None)
            for below, held in value.items() if named else ():
                found.append(pages.Line(f"{name}.{below}", pages.short(held), f"One entry of {key}.", ""))
                if isinstance(held, Mapping):
                    _walk(held, _chosen(inner, held), f"{name}.{below}.", found)
            if not named and inner:
                _walk(value, inner[0], f"{name}.", found)


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

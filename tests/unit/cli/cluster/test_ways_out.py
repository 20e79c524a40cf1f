"""What the doctor tells people to set is there: keys of the chart's values, keys of consilium.yaml, commands of ours, files of the repository."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import yaml
from tests.unit.cli.cluster.recorded import FOLDER, release
from tests.unit.cli.cluster.test_install_findings import FIRING

from consilium.cli.app import COMMANDS
from consilium.cli.cluster import install_findings, release_findings
from consilium.cli.config_tree import ConsiliumConfig

ROOT = Path(__file__).resolve().parents[4]
VALUES = yaml.safe_load((ROOT / "helm" / "consilium" / "values.yaml").read_text())
KEY = re.compile(r"(?<![\w./-])((?:global|images|gpu|head|workers|gateway|drainSeconds|secrets|redis|models|adapters|ingress|routes|networkPolicy|monitoring|config)(?:\[[^\]]*\])?(?:\.[A-Za-z_*]+)+)")  # fmt: skip


def told():
    """Return every sentence and way out that the cases of the tests give."""
    found = [one for file in FOLDER.glob("*.json") for one in release_findings.findings(release(file.stem))]  # fmt: skip
    found += [one for _, _, has, asks, *_ in FIRING for one in install_findings.findings(has, asks)]
    return {one.way_out for one in found if one.way_out}


def is_there(path):
    parts = re.sub(r"\[[^\]]*\]", "", path).rstrip(".").split(".")
    if parts[0] == "config":
        return is_field(ConsiliumConfig.model_json_schema(), parts[1:])
    at = VALUES
    for part in parts:
        at = at[0] if isinstance(at, list) else at
        if part == "*":
            at = next(iter(at.values()))
        elif not isinstance(at, dict) or (part not in at and at):
            return False
        else:
            at = at.get(part, {})
    return True


def is_field(schema, parts):
    at = schema
    for part in parts:
        while "$ref" in at or "anyOf" in at or "allOf" in at:
            at = schema["$defs"][at["$ref"].rpartition("/")[2]] if "$ref" in at else (at.get("anyOf") or at["allOf"])[0]  # fmt: skip
        if part not in at.get("properties", {}):
            return at.get("additionalProperties", False) is not False and "properties" not in at
        at = at["properties"][part]
    return True


def test_keys_that_are_named_are_keys():
    named = {path.removesuffix(".kubernetes") for text in told() for path in KEY.findall(text)}
    named.discard("config.json")  # a file of a model
    assert len(named) > 20
    assert not [path for path in sorted(named) if not is_there(path)]


def test_commands_of_ours_parse_and_files_are_there():
    for text in told():
        for file in re.findall(r"(?<!/)\b((?:k8s|helm)/[\w./-]+\.(?:sh|yaml|md))", text):
            assert (ROOT / file).is_file(), file
        for words in re.findall(r"(consilium doctor --[\w ]+)", text):
            parser = argparse.ArgumentParser()
            importlib.import_module(COMMANDS["doctor"][0]).add(parser.add_subparsers())
            assert parser.parse_args(shlex.split(words.partition(" looks")[0])[1:])

"""No figure without a source: in the tables, and no bare constant in the rules; README.md is the page that the data makes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from consilium.planner import readme
from consilium.planner.figures import DATA, table

ROOM = DATA.parent
TABLES = sorted(path.stem for path in DATA.glob("*.json"))
EVERYDAY = {
    *range(13),
    16,
    20,
    24,
    30,
    32,
    40,
    60,
    64,
    80,
    100,
    120,
    200,
    256,
    300,
    1000,
    1024,
    3600,
    10**6,
    10**12,
    10**9,
    0.5,
    -1,
}
EVERYDAY |= {21, 22, 33, 0.02}  # versions of vLLM; from where a sentence names a part
PLACES = {
    "ask.py",
    "cards.py",
    "calibrate.py",
    "gate.py",
    "models.py",
    "explain.py",
    "tokenizer_edits.py",
    "edits.py",
    "sizes.py",
    "question_file.py",  # limits of input, not figures
    "readme.py",
    "report.py",
    "accuracy.py",  # what a page shows
    "lora.py",  # vLLM's steps of max_lora_rank
    "training.py",
    "library.py",
    "topologies.py",
    "figures.py",  # limits and defaults of input
    "vision.py",  # the tensors of a tower, counted
    "search.py",  # costs of knobs: an order of preference, no measurement
}


def sourced(value: object, above: bool) -> list[str]:
    """Return numbers that have no source on their own object or above it."""
    if isinstance(value, dict):
        here = above or any(
            isinstance(value.get(key), str) and value[key] for key in ("source", "sources")
        )
        return [f"{key}: {hit}" for key, inner in value.items() for hit in sourced(inner, here)]
    if isinstance(value, list):
        return [hit for inner in value for hit in sourced(inner, above)]
    return (
        []
        if above or isinstance(value, bool) or not isinstance(value, int | float)
        else [repr(value)]
    )


@pytest.mark.parametrize("name", TABLES)
def test_every_number_in_a_table_has_a_source(name):
    assert sourced(table(name), above=False) == []


def test_every_constant_says_its_unit_origin_and_source():
    for name, entry in table("constants")["constants"].items():
        assert set(entry) == {"value", "unit", "origin", "source"}, name
        assert entry["origin"] in {"source", "measured", "fit", "arith", "said"}, name
        assert len(entry["source"]) > 10 or entry["origin"] == "arith", name


def test_every_constant_is_used_and_every_use_is_a_constant():
    text = "".join(
        path.read_text() for path in [*ROOM.glob("*.py"), *(ROOM.parent / "cli").glob("plan*.py")]
    )
    names = table("constants")["constants"]
    dynamic = ("speed_reduce_", "library_bytes_", "library_characters_per_token_")
    assert [
        name for name in names if f'"{name}"' not in text and not name.startswith(dynamic)
    ] == []


def test_rules_hold_no_bare_figures():
    wrong = []
    for path in sorted(ROOM.glob("*.py")):
        if path.name in PLACES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, int | float)
                and not isinstance(node.value, bool)
                and node.value not in EVERYDAY
            ):
                wrong.append(f"{path.name}:{node.lineno}: {node.value}")
    assert wrong == []


def test_points_that_were_fitted_are_named():
    assert {point["id"] for point in table("boot_logs")["points"] if point["role"] == "fit"} == {
        "p01",
        "p02",
        "p03",
        "p17",
        "p29",
        "p31",
    }
    assert "p01, p02, p03, p17" in readme.page()


def test_readme_is_the_page_that_the_data_makes():
    assert readme.PAGE.read_text(encoding="utf-8") == readme.page(), (
        "run: python -m consilium.planner.readme"
    )


def test_every_figure_of_the_page_is_computed():
    text = json.dumps(table("claims"))
    for name in readme.facts():
        assert f"{{{name}}}" in text, name
    assert len(table("claims")["claims"]) >= 8
    assert Path(readme.PAGE).parent == ROOM

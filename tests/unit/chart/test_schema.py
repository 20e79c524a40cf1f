"""values.schema.json is what the models say, closed at every level of ours, and values.yaml explains and keeps each key of it."""

import json

import pytest
import yaml
from tests.unit.chart import rendered

from consilium.cli import chart_readme, chart_schema
from consilium.cli.chart_values import ChartValues
from consilium.cli.config_tree import ConsiliumConfig
from consilium.cli.example import example

SCHEMA = json.loads((rendered.CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = (rendered.CHART / "values.yaml").read_text(encoding="utf-8")
FREE = {"hf_overrides", "extra_args", "affinity", "tolerations", "callers", "parents", "Shared"}
"""Objects whose keys are not ours: the model's, vLLM's, Kubernetes', other charts' (`global`)."""


def open_levels(part, path=()):
    """Yield the place of every object of a schema that takes keys which it does not know."""
    if isinstance(part, list):
        for number, item in enumerate(part):
            yield from open_levels(item, (*path, str(number)))
    if isinstance(part, dict):
        is_closed = part.get("additionalProperties", True) is not True or "if" in part
        if part.get("type") in ("object", ["object", "null"]) and not is_closed:
            yield path
        for key, below in part.items():
            yield from open_levels(below, (*path, key))


def test_it_is_what_the_models_say():
    assert (rendered.CHART / "values.schema.json").read_text(encoding="utf-8") == chart_schema.text(), (
        "python -m consilium.cli.chart_schema > helm/consilium/values.schema.json"
    )  # fmt: skip


def test_the_readme_has_the_values_as_they_are():
    readme = (rendered.CHART / "README.md").read_text(encoding="utf-8")
    assert readme == chart_readme.with_table(readme, VALUES), (
        "python -m consilium.cli.chart_readme helm/consilium"
    )


def test_every_key_of_the_values_is_explained():
    bare = [f"{key.line}: {key.path}" for key in chart_readme.keys(VALUES) if not key.comment]
    assert not bare, "a comment that begins with '# --' should stand above it"


def test_every_key_of_the_values_is_found():
    # The reader of values.yaml knows that file's form only: so it is held against YAML's own.
    def paths(tree, owner=""):
        for key, value in tree.items():
            path = f"{owner}{key}"
            yield path
            if isinstance(value, list) and value and isinstance(value[0], dict):
                yield from paths(value[0], f"{path}[].")
            elif isinstance(value, dict):
                yield from paths(value, f"{path}.")

    told = {key.path for key in chart_readme.keys(VALUES)}
    inside = tuple(f"{key.path}{sign}" for key in chart_readme.keys(VALUES) if key.value for sign in ".[")  # fmt: skip
    there = set(paths(yaml.safe_load(VALUES)))
    assert told <= there
    missing = {path for path in there - told if not path.startswith((*inside, "config.", "gpu.tolerations[]"))}  # fmt: skip
    assert not missing


def test_every_level_of_ours_is_closed():
    assert {name for path in open_levels(SCHEMA) for name in path if name in FREE} == FREE
    assert not [path for path in open_levels(SCHEMA) if not FREE & set(path)]


def test_the_config_is_the_whole_of_consilium_yaml():
    config = SCHEMA["$defs"]["ConsiliumConfig"]
    assert config["properties"].keys() == ConsiliumConfig.model_fields.keys()
    assert "required" not in config, "what has a default need not be said"


def test_a_whole_consilium_yaml_is_taken():
    config = yaml.safe_load(example())
    for key in ("host", "port", "grpc_port"):
        del config["gateway"][key]
    rendered.render({"config": config})


def test_the_charts_own_values_and_every_preset_pass_the_models(every_name):
    over = {} if every_name == "default" else rendered.values_of(every_name)
    values = rendered.merged(yaml.safe_load(VALUES), over)
    ChartValues.model_validate(values)


def test_helm_has_it(every_name):
    with rendered.helm_python.Chart.load(str(rendered.CHART)) as chart:
        assert chart.schema == SCHEMA


def test_the_schema_is_packed():
    ignored = (rendered.CHART / ".helmignore").read_text(encoding="utf-8").split()
    assert not [line for line in ignored if "schema" in line or "json" in line]


@pytest.mark.parametrize("spelling", [2, 0.5, "2", "500m", "1.5"])
def test_cores_may_be_written_as_kubernetes_has_them(spelling):
    rendered.render({"head": {"resources": {"requests": {"cpu": spelling}, "limits": {"cpu": 8}}}})


def test_other_charts_may_share_the_globals():
    rendered.render({"global": {"domain": "home.arpa"}})

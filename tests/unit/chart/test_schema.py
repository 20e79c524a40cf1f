"""values.schema.json is what the models say, closed at every level of ours, and values.yaml explains and keeps each key of it."""

import json
import typing

import pytest
import yaml
from tests.unit.chart import rendered

from consilium.cli import chart_readme, chart_schema
from consilium.cli.chart_values import ChartValues, Room, Values
from consilium.cli.config_tree import ConsiliumConfig
from consilium.cli.example import example

SCHEMA = json.loads((rendered.CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = (rendered.CHART / "values.yaml").read_text(encoding="utf-8")
FREE = {"hf_overrides", "extra_args", "affinity", "tolerations", "callers", "parents", "Shared", "Egress", "Names"}  # fmt: skip
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
    del config["engine"]["adapter_cache_gib"]
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


def fields(model, owner=""):
    """Yield the dotted names of the keys of a model, `[]` after a list."""
    for name, field in model.model_fields.items():
        path = f"{owner}{field.alias or name}"
        below = field.annotation
        is_list = typing.get_origin(below) is list
        below = typing.get_args(below)[0] if is_list else below
        yield f"{path}[]" if is_list else path
        if isinstance(below, type) and issubclass(below, Values):
            yield from fields(below, f"{path}[]." if is_list else f"{path}.")


def test_every_key_of_the_schema_stands_in_the_values():
    def paths(tree, owner=""):
        for key, value in tree.items():
            path = f"{owner}{key}"
            yield from (path, f"{path}[]") if isinstance(value, list) else (path,)
            if isinstance(value, list) and value and isinstance(value[0], dict):
                yield from paths(value[0], f"{path}[].")
            elif isinstance(value, dict):
                yield from paths(value, f"{path}.")

    missing = set(fields(ChartValues)) - set(paths(yaml.safe_load(VALUES)))
    assert {path for path in missing if not path.endswith("ephemeral-storage")} == set()


def test_every_key_of_a_room_is_named_where_rooms_are_explained():
    (said,) = (key.comment for key in chart_readme.keys(VALUES) if key.path == "services")
    keys = {field.alias or name for name, field in Room.model_fields.items()}
    assert {key for key in keys if key not in said} == set()


def test_a_room_that_asks_the_kubelet_finds_it_where_the_distribution_has_it():
    room = {"gpu_metrics": {"module": "m", "kind": "DaemonSet", "podResources": True}}
    for name, root in (("k3s", "/var/lib/kubelet"), ("microk8s", "/var/snap/microk8s/common/var/lib/kubelet")):  # fmt: skip
        spec = rendered.pod(rendered.preset(name, {"services": room}), "gpu_metrics").spec
        (volume,) = (one for one in spec["volumes"] if one["name"] == "pod-resources")
        assert volume["hostPath"]["path"] == f"{root}/pod-resources"
        (mount,) = (one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "pod-resources")  # fmt: skip
        assert mount == {"name": "pod-resources", "mountPath": "/var/lib/kubelet/pod-resources", "readOnly": True}  # fmt: skip
    assert "hostPath" not in rendered.preset("microk8s").text

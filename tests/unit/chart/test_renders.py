"""The chart as a package: linted strictly, rendered twice alike, small, and nothing drawn by chance outside its Secret."""

import base64
import gzip
import tarfile

import helm_python
import pytest
from tests.unit.chart import rendered

VERSIONS = [f"v1.{minor}.0" for minor in range(30, 37)]
MOST_PACKED = 300_000
MOST_RELEASE = 1_048_576 // 6
NO_PICTURE = "icon is recommended"
"""Information, not a warning: the chart lies in no catalogue that would show one."""


def said(name):
    below = {} if name == "default" else rendered.values_of(name)
    return rendered.merged(rendered.UNSEEN, below)


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_lint_has_nothing_to_say(every_name, version):
    report = helm_python.lint(
        str(rendered.CHART),
        said(every_name),
        strict=True,
        namespace=rendered.NAMESPACE,
        kube_version=version,
    )
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["error"] != NO_PICTURE] == []


def test_lint_of_the_defaults_asks_for_no_cluster():
    # `helm lint helm/consilium`, as anybody calls it, sees no cluster either, and the two refusals say what to do.
    report = helm_python.lint(str(rendered.CHART), {}, strict=True)
    assert report["errors"] == []


def test_two_renders_are_equal_but_for_the_secret(every_name):
    told = {"release": "home", "namespace": "lab", "upgrade": False}
    one, two = (rendered.drawn(said(every_name), **told) for _ in range(2))
    differing = {path for path in one if one[path] != two[path]}
    assert differing == {"secret.yaml"}


def test_with_a_secret_of_ones_own_nothing_is_drawn(every_name):
    values = rendered.merged(said(every_name), {"secrets": {"existingSecret": "mine", "generate": "auto"}})  # fmt: skip
    told = {"release": "home", "namespace": "lab", "upgrade": False}
    assert rendered.drawn(values, **told) == rendered.drawn(values, **told)


def test_every_file_of_templates_is_yaml_with_names_of_their_own(every):
    seen = set()
    for one in every.objects:
        assert {"apiVersion", "kind", "metadata"} <= one.keys()
        mark = (one["apiVersion"], one["kind"], one["metadata"]["name"])
        assert mark not in seen, f"twice: {mark}"
        seen.add(mark)
        assert one["metadata"].get("namespace") is None, "helm says the namespace"


def test_every_object_has_the_labels_of_the_release(every):
    for one in every.objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == every.name, one["metadata"]["name"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_the_packed_chart_is_small_and_whole(tmp_path):
    with helm_python.Chart.load(str(rendered.CHART)) as chart:
        packed = chart.save(str(tmp_path))
    with tarfile.open(packed) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        size = (tmp_path / packed).stat().st_size
    assert size < MOST_PACKED
    assert {"Chart.yaml", "values.yaml", "files/serve.env"} <= names
    assert {f"presets/{name}.yaml" for name in rendered.PRESETS} <= names
    assert not {name for name in names if name.startswith(("ci/", "tests/"))}


def test_what_helm_keeps_of_a_release_fits_many_times_into_its_secret(every_name):
    # Helm keeps the chart, the values and the manifest in one Secret, which may hold 1,048,576 bytes: the files in base64, all of it packed, and that in base64 again.
    files = [path.read_bytes() for path in rendered.CHART.rglob("*") if path.is_file()]
    whole = rendered.preset(every_name).text.encode() + b"".join(map(base64.b64encode, files))
    assert len(base64.b64encode(gzip.compress(whole))) < MOST_RELEASE

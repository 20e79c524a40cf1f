"""Helm 3, Helm 4 and the engine that the other tests render with make the same objects of every preset, and none draws secrets where it sees no cluster."""

import os
import subprocess

import pytest
import yaml
from tests.go.kube import words_of
from tests.real.tools import tool
from tests.unit.chart import rendered
from tests.unit.chart.rendered import CHART, NAMESPACE, PRESETS, RELEASE

SEEN = ("--kube-version", "1.35.0")  # built from its module, Helm 3 does not know which it is for
OPERATOR = ("--api-versions", "ray.io/v1/RayService")
HELMS = ("helm", "helm3")
DRAWN = ("--set-string", "secrets.generate=true")


def template(program, folder, *words, ok=True):
    """Return what `helm template` writes, or what it refuses with."""
    done = subprocess.run(
        [tool(program), "template", RELEASE, str(CHART), "-n", NAMESPACE, *SEEN, *words],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout if ok else done.stderr


def objects(documents):
    """Return (kind, name) -> object, with the Secrets' values left out: they are drawn anew each time."""
    found = {}
    for one in documents:
        if one:
            named = one["kind"], one["metadata"]["name"]
            assert named not in found
            found[named] = one
            if one["kind"] == "Secret":
                one["data"] = sorted(one["data"])
    return found


@pytest.mark.parametrize("preset", ["default", *PRESETS])
def test_three_engines_make_the_same_objects(preset, tmp_path):
    values = () if preset == "default" else words_of(preset)
    ours = objects(yaml.safe_load_all(rendered.preset(preset, rendered.UNSEEN).text))
    for program in HELMS:
        made = objects(yaml.safe_load_all(template(program, tmp_path, *values, *DRAWN, *OPERATOR)))
        assert sorted(made) == sorted(ours), program
        for named, one in made.items():
            assert one == ours[named], (program, named)


@pytest.mark.parametrize("program", HELMS)
def test_where_no_cluster_is_seen_a_secret_must_be_named(program, tmp_path):
    refused = template(program, tmp_path, *OPERATOR, ok=False)
    assert "Name a Secret of yours in secrets.existingSecret" in refused
    made = template(program, tmp_path, *OPERATOR, "--set", "secrets.existingSecret=mine")
    found = objects(yaml.safe_load_all(made))
    assert not [name for kind, name in found if kind == "Secret"]
    assert ("RayService", "home-consilium") in found
    assert "name: mine" in made
    assert template(program, tmp_path, *OPERATOR, "--set", "secrets.existingSecret=mine") == made


@pytest.mark.parametrize("program", HELMS)
def test_where_no_cluster_is_seen_the_operator_is_asked_for_in_a_sentence(program, tmp_path):
    refused = template(program, tmp_path, "--set", "secrets.existingSecret=mine", ok=False)
    assert "k8s/prerequisites/install.sh" in refused
    template(program, tmp_path, "--set", "secrets.existingSecret=mine,skipChecks=true")

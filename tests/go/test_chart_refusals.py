"""Helm 4 and Helm 3, as people have them, refuse the same values as the engine of the tests, with the same words: their validators of schemas are others."""

import json
import os
import subprocess

import pytest
from helm_python import HelmError
from tests.real.tools import tool
from tests.unit.chart import rendered, test_refusals

HELMS = ("helm", "helm3")
TOLD = ("--kube-version", "1.34", "--api-versions", "ray.io/v1/RayService")
SAYS_S = 240
REFUSED = (*test_refusals.UNKNOWN[::4], *test_refusals.FORM[::4], *test_refusals.TWO_KEYS[::4], *test_refusals.IN_CONFIG[::4])  # fmt: skip


@pytest.fixture(scope="module", params=HELMS)
def helm(request, tmp_path_factory):
    """Render values with a program, and return its exit code and what it said."""
    home = tmp_path_factory.mktemp(request.param)

    def run(values):
        file = home / "values.yaml"
        file.write_text(json.dumps(rendered.merged(rendered.UNSEEN, values)), encoding="utf-8")
        done = subprocess.run(
            [tool(request.param), "template", rendered.RELEASE, str(rendered.CHART), "-n", rendered.NAMESPACE, "-f", str(file), *TOLD],
            capture_output=True, text=True, timeout=SAYS_S, check=False, env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
        return done.returncode, done.stdout if done.returncode == 0 else done.stderr

    return run


@pytest.mark.parametrize("row", REFUSED, ids=test_refusals.case_id)
def test_they_refuse_the_same_with_the_same_words(helm, row):
    with pytest.raises(HelmError) as caught:
        rendered.render(row[0])
    code, said = helm(row[0])
    assert code == 1
    for line in str(caught.value).splitlines()[2:] or [str(caught.value).partition("): ")[2]]:
        assert line.strip() in said

"""checkov over the renders of the chart: nothing but what stands in SKIPPED, each with its reason."""

import json
import subprocess

import pytest
import yaml
from tests.real.packages import CHECKOV, words
from tests.unit.chart import rendered
from tests.unit.chart.test_graph import CACHED, FULL

TAKES_S = 800.0
SKIPPED = {
    "CKV_K8S_43": "digests are a setting (images.*.digest); an image that is built at home has a tag",
    "CKV_K8S_15": "versions are pinned, and a box without the internet must start what it has; images.*.pullPolicy is a setting",
    "CKV_K8S_35": "processes read the token and Redis' address from their environment (kernel/config.py); it is theirs alone, and no command line shows it",
}
"""For every object."""
SKIPPED_FOR_RAY = {
    "CKV_K8S_8": "the operator adds the probes of Ray's containers",
    "CKV_K8S_9": "the operator adds the probes of Ray's containers",
}
SKIPPED_FOR_TEST = {
    "CKV_K8S_8": "it runs once, with a deadline",
    "CKV_K8S_9": "nobody waits for it: it asks others",
}
CASES = {
    "full": FULL,
    "cached": CACHED,
    "folder": {"models": {"storage": "hostPath"}},
    "theirs": {
        "secrets": {"existingSecret": "mine"},
        "redis": {"builtin": False, "external": {"existingSecret": "theirs"}},
    },
}


def seen(render):
    """Return the objects as checkov knows them: it knows no RayService, so the pods of Ray are written as pods."""
    made = [
        one | {"metadata": one["metadata"] | {"namespace": render.namespace}}
        for one in render.objects
        if one["kind"] != "RayService"
    ]
    for pod in rendered.pods(render):
        if pod.owner.startswith("RayService/"):
            name = "ray-" + pod.name.replace(" ", "-")
            metadata = {"name": name, "namespace": render.namespace, "labels": dict(pod.labels)}
            made.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec})
    return made


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("renders")
    renders = {name: rendered.render(values) for name, values in CASES.items()}
    renders |= {name: rendered.preset(name) for name in ("default", *rendered.PRESETS)}
    for name, render in renders.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(seen(render)), encoding="utf-8")
    done = subprocess.run(
        [*words(CHECKOV, "checkov"), "-d", str(folder), "--framework", "kubernetes", "--skip-download", "--quiet", "-o", "json"],
        capture_output=True, text=True, timeout=TAKES_S, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 1000, "it has looked at little"
    return {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}


def reason(check, resource):
    kind, _, name = resource.split(".", 2)
    if kind == "Pod" and name.startswith("ray-") and check in SKIPPED_FOR_RAY:
        return SKIPPED_FOR_RAY[check]
    if kind == "Pod" and name.endswith("-test") and check in SKIPPED_FOR_TEST:
        return SKIPPED_FOR_TEST[check]
    return SKIPPED.get(check)


def test_nothing_is_found_without_a_reason(findings):
    assert not [one for one in sorted(findings) if reason(*one) is None]


def test_every_reason_is_still_needed(findings):
    found = {check for check, _ in findings}
    assert found == SKIPPED.keys() | SKIPPED_FOR_RAY.keys() | SKIPPED_FOR_TEST.keys()

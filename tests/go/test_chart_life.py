"""The life of a release in a true control plane: upgraded, taken back, removed and installed again, on a machine that has no card to spare."""

import contextlib
import json
import shutil
import subprocess
import threading

import pytest
import yaml
from tests.go.kube import CHART, Space, cards_of, uids, words_of
from tests.real.tools import tool

PRESET = words_of("1x-rtx-pro-6000")
NAME = "mind-consilium"
RAY = "apis/ray.io/v1"
PODS = 4
"""Head, worker, Redis and the room of adapters."""
OLD = "0.0.9"
GONE_S = 240
"""What ends or comes by itself has so long: Helm returns before."""


@pytest.fixture(scope="session")
def chart_before(tmp_path_factory):
    """The chart as its last version would be: other images, and other times."""
    folder = tmp_path_factory.mktemp("before")
    made = folder / "consilium"
    shutil.copytree(CHART, made)
    about = yaml.safe_load((made / "Chart.yaml").read_text())
    (made / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": OLD, "appVersion": OLD}))
    values = (made / "values.yaml").read_text()
    assert "drainSeconds: 60" in values
    (made / "values.yaml").write_text(values.replace("drainSeconds: 60", "drainSeconds: 45"))
    subprocess.run([tool("helm"), "package", str(made), "-d", str(folder)], capture_output=True, timeout=240, check=True)  # fmt: skip
    return next(folder.glob("*.tgz"))


@pytest.fixture
def box(plane):
    """A machine with one card, which the preset needs."""
    plane.add_node("box", cpus=16, memory="64Gi", gpus=1)
    yield
    plane.api("DELETE", "/api/v1/nodes/box")


@pytest.fixture
def release(plane, box, chart, request):
    """The preset, installed in a namespace of the test's own; its pods run."""
    space = Space(plane, f"life-{request.node.name.replace('_', '-')[:40].strip('-')}")
    space.helm("install", "mind", str(getattr(request, "param", chart)), *PRESET)
    space.running(PODS)
    yield space
    space.helm("uninstall", "mind", "--ignore-not-found")
    plane.until(lambda: not space.pods(), GONE_S)


def images(pods):
    return {c["image"] for pod in pods for c in pod["spec"]["containers"] if "consilium" in c["image"]}  # fmt: skip


def versions(pods):
    return {image.rpartition(":")[2] for image in images(pods)}


def test_roles_are_changed_without_a_change_of_any_pod_or_of_what_serve_runs(release, chart):
    before, spec = release.pods(), release.rayservice()["spec"]
    jobs = uids(release.list("jobs", "apis/batch/v1"))
    release.helm("upgrade", "mind", str(chart), *PRESET, "--set", "config.roles.sage.frame=Be wise.")  # fmt: skip
    assert "Be wise." in release.get("configmaps", NAME)["data"]["consilium.yaml"]
    assert release.rayservice()["spec"] == spec
    assert uids(release.running(PODS)) == uids(before)
    assert uids(release.list("jobs", "apis/batch/v1")) == jobs


def test_quantities_may_be_written_in_any_form(plane, box, chart):
    space = Space(plane, "life-quantities")
    written = "{name: main, image: gpu, replicas: 1, gpus: 1, sharedMemory: 2048Mi, resources: {requests: {cpu: 2, memory: 1.5Gi}, limits: {cpu: 4000m, memory: 8192Mi}}}"
    values = ["--set-json", f"workers={json.dumps([yaml.safe_load(written)])}"]
    space.helm("install", "mind", str(chart), *PRESET, *values)
    before = space.running(PODS)
    space.helm(
        "upgrade", "mind", str(chart), *PRESET, *values, "--set", "config.roles.sage.frame=Be wise."
    )
    assert uids(space.running(PODS)) == uids(before)
    space.helm("uninstall", "mind")
    plane.until(lambda: not space.pods(), GONE_S)


def test_another_model_restarts_engines_in_their_pods_by_serve_alone(plane, release, chart):
    before, spec = release.pods(), release.rayservice()["spec"]
    jobs = uids(release.list("jobs", "apis/batch/v1"))
    release.helm("upgrade", "mind", str(chart), *PRESET, "--set", "config.model=Qwen/Qwen3-8B")
    now = release.rayservice()["spec"]
    assert now["rayClusterConfig"] == spec["rayClusterConfig"]
    args = [{app["name"]: app["args"] for app in yaml.safe_load(one["serveConfigV2"])["applications"]} for one in (spec, now)]  # fmt: skip
    assert args[0]["executor-core"]["revision"] != args[1]["executor-core"]["revision"]
    assert uids(release.running(PODS)) == uids(before)
    assert len(jobs) == 1
    plane.until(lambda: len(now := uids(release.list("jobs", "apis/batch/v1"))) == 1 and now != jobs, GONE_S)  # fmt: skip


def test_an_upgrade_from_the_chart_before_needs_no_second_card(plane, box, chart, chart_before):
    space = Space(plane, "life-before")
    space.helm("install", "mind", str(chart_before), *PRESET)
    before = space.running(PODS)
    assert versions(before) == {OLD}
    said = space.helm("upgrade", "mind", str(chart), *PRESET)
    new = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    ray = [pod for pod in before if "ray.io/cluster" in pod["metadata"]["labels"]]
    assert uids(ray) <= uids(space.running(PODS)), "the pods of Ray were replaced by themselves"
    assert sum(cards_of(pod) for pod in space.list("pods")) == 1
    recreate(space, said)
    after = plane.until(lambda: (found := space.running(PODS)) and versions(found) == {new} and found, GONE_S)  # fmt: skip
    assert not uids(ray) & uids(after)
    assert sum(map(cards_of, after)) == 1
    space.helm("rollback", "mind", "1")
    assert space.rayservice()["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"].endswith(OLD)  # fmt: skip
    recreate(space, said)
    plane.until(lambda: versions(space.running(PODS)) == {OLD}, GONE_S)
    space.helm("uninstall", "mind")
    plane.until(lambda: not space.pods(), GONE_S)


def recreate(space, said):
    """Do what NOTES tell after an upgrade: take the cluster of Ray away, which the operator makes again."""
    command = next(line.split() for line in said.splitlines() if "delete raycluster" in line)
    selector = command[command.index("-l") + 1]
    clusters = space.plane.list(f"/{RAY}/namespaces/{space.name}/rayclusters", labelSelector=selector)  # fmt: skip
    assert len(clusters) == 1
    space.delete("rayclusters", clusters[0]["metadata"]["name"], RAY)
    gone = clusters[0]["metadata"]["uid"]
    space.plane.until(lambda: [one for one in space.list("rayclusters", RAY) if one["metadata"]["uid"] != gone], GONE_S)  # fmt: skip
    space.plane.until(lambda: gone not in uids(space.list("rayclusters", RAY)), GONE_S)


def test_secrets_and_disks_outlive_the_release_and_are_taken_up_again(plane, box, chart):
    space = Space(plane, "life-again")
    space.helm("install", "mind", str(chart), *PRESET)
    space.running(PODS)
    secret = space.get("secrets", NAME)["data"]
    disks = {claim["metadata"]["name"]: claim["spec"]["volumeName"] for claim in space.list("persistentvolumeclaims")}  # fmt: skip
    assert set(disks) == {f"{NAME}-models", f"data-{NAME}-redis-0", f"{NAME}-lora-router"}
    space.helm("uninstall", "mind")
    plane.until(lambda: not space.pods(), GONE_S)
    assert space.get("secrets", NAME)["data"] == secret
    space.helm("install", "mind", str(chart), *PRESET)
    space.running(PODS)
    assert space.get("secrets", NAME)["data"] == secret
    assert {claim["metadata"]["name"]: claim["spec"]["volumeName"] for claim in space.list("persistentvolumeclaims")} == disks  # fmt: skip
    space.helm("uninstall", "mind")
    plane.until(lambda: not space.pods(), GONE_S)


def test_going_back_is_asked_of_the_program_that_is_gone_back_to(plane, release, chart):
    release.helm(
        "upgrade", "mind", str(chart), *PRESET, "--set", "config.roles.sage.frame=Be wise."
    )
    hook = f"{NAME}-rollback"
    with refusing(release, hook) as seen:
        said = release.helm("rollback", "mind", "1", ok=False)
    assert hook in said
    assert seen == [hook]
    assert "Be wise." in release.get("configmaps", NAME)["data"]["consilium.yaml"]
    assert "pending-rollback" in release.helm("history", "mind")
    release.helm("upgrade", "mind", str(chart), *PRESET, ok=False)  # as the README says
    release.helm("rollback", "mind", "2")
    assert "Be wise." in release.get("configmaps", NAME)["data"]["consilium.yaml"]
    # The commands of the refusal: the pods of Ray go, and going back makes them again.
    release.delete("rayservices", NAME, RAY)
    plane.until(lambda: len(release.pods()) == 2, GONE_S)
    release.helm("rollback", "mind", "1")
    assert "Be wise." not in release.get("configmaps", NAME)["data"]["consilium.yaml"]
    release.running(PODS)


@contextlib.contextmanager
def refusing(space, job):
    """Let the pod of a Job fail, as it does where it refuses; no machine takes it meanwhile. Gives the Jobs that it was done to."""
    seen = []
    cordon(space.plane, yes=True)

    def fail():
        found = space.plane.until(lambda: space.list("pods", **{"job-name": job}), GONE_S)[0]
        name, ended = found["metadata"]["name"], {"exitCode": 1, "reason": "Error"}
        status = {
            "phase": "Failed",
            "containerStatuses": [
                {
                    "name": "rollback",
                    "image": "x",
                    "imageID": "x",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ],
        }
        space.patch("pods", f"{name}/status", {"status": status})
        seen.append(job)

    helper = threading.Thread(target=fail)
    helper.start()
    try:
        yield seen
    finally:
        helper.join(GONE_S + 10)
        cordon(space.plane, yes=False)


def cordon(plane, *, yes):
    plane.api(
        "PATCH",
        "/api/v1/nodes/box",
        {"spec": {"unschedulable": yes}},
        content_type="application/merge-patch+json",
    )

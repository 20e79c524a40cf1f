"""Every pod of the chart passes PodSecurity's restricted, and what our own reading of that standard refuses is what Kubernetes refuses."""

import copy

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.pod_security import refused
from tests.unit.chart.test_graph import CACHED, FULL

GOOD = {
    "metadata": {"name": "x"},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "a", "emptyDir": {}}],
        "containers": [
            {
                "name": "c",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    },
}
EXCEPTIONS = {
    "podResources": "the kubelet's socket belongs to root and lies on the node: the exporter that joins cards with pods, opt-in",
}
"""What admits no restricted pod, and why."""


def put(path, value):
    """Return the good pod with another value: spec.containers.0.ports."""
    made = copy.deepcopy(GOOD)
    *above, last = path.split(".")
    place = made
    for part in above:
        place = place[int(part)] if part.isdecimal() else place.setdefault(part, {})
    place[last] = value
    return made


C = "spec.containers.0."


@pytest.mark.parametrize(
    ("path", "value", "level"),
    [
        ("spec.hostNetwork", True, "baseline"),
        ("spec.hostPID", True, "baseline"),
        ("spec.hostIPC", True, "baseline"),
        ("spec.volumes", [{"name": "h", "hostPath": {"path": "/"}}], "baseline"),
        (C + "securityContext.privileged", True, "baseline"),
        (C + "securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "baseline"),
        (C + "securityContext.procMount", "Unmasked", "baseline"),
        (C + "ports", [{"containerPort": 1, "hostPort": 1}], "baseline"),
        (C + "livenessProbe", {"httpGet": {"port": 1, "host": "1.2.3.4"}}, "baseline"),
        (C + "securityContext.seccompProfile", {"type": "Unconfined"}, "baseline"),
        (C + "securityContext.appArmorProfile", {"type": "Unconfined"}, "baseline"),
        (C + "securityContext.seLinuxOptions", {"type": "spc_t"}, "baseline"),
        (C + "securityContext.windowsOptions", {"hostProcess": True}, "baseline"),
        ("spec.securityContext.seLinuxOptions", {"user": "root"}, "baseline"),
        ("spec.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "baseline"),
        ("metadata.annotations", {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}, "baseline"),
        ("spec.initContainers", [{"name": "i", "securityContext": {"privileged": True}}], "baseline"),
        ("spec.initContainers", [{"name": "i"}], "restricted"),
        ("spec.volumes", [{"name": "n", "nfs": {"server": "a", "path": "/"}}], "restricted"),
        ("spec.securityContext.runAsNonRoot", None, "restricted"),
        ("spec.securityContext.runAsNonRoot", False, "restricted"),
        ("spec.securityContext.runAsUser", 0, "restricted"),
        ("spec.securityContext.seccompProfile", None, "restricted"),
        (C + "securityContext.runAsUser", 0, "restricted"),
        (C + "securityContext.runAsNonRoot", False, "restricted"),
        (C + "securityContext.allowPrivilegeEscalation", None, "restricted"),
        (C + "securityContext.capabilities", {"drop": ["NET_RAW"]}, "restricted"),
        (C + "securityContext.capabilities", {"drop": ["ALL"], "add": ["CHOWN"]}, "restricted"),
        (C + "securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, None),
        (C + "securityContext.seccompProfile", {"type": "Localhost"}, None),
        ("spec.securityContext.sysctls", [{"name": "net.ipv4.tcp_syncookies", "value": "1"}], None),
        ("spec.volumes", [{"name": "p", "persistentVolumeClaim": {"claimName": "x"}}], None),
        ("spec.securityContext.runAsUser", 10001, None),
    ],
)  # fmt: skip
def test_what_is_refused_at_which_level(path, value, level):
    made = put(path, value)
    assert bool(refused(made, "baseline")) == (level == "baseline")
    assert bool(refused(made, "restricted")) == (level is not None)


def as_pod(pod):
    return {"metadata": pod.metadata, "spec": pod.spec}


@pytest.mark.parametrize("values", [FULL, CACHED], ids=["full", "cached"])
def test_every_pod_with_everything_on_is_restricted(values):
    for pod in rendered.pods(rendered.render(values)):
        assert refused(as_pod(pod), "restricted") == [], pod.name


def test_every_pod_of_every_preset_is_what_its_row_says(every_name):
    row = rendered.EXPECTED.get(every_name, {"admitted": "restricted"})
    assert row["admitted"] == "restricted", "say the reason here, in EXCEPTIONS, as well"
    for pod in rendered.pods(rendered.preset(every_name)):
        assert refused(as_pod(pod), "restricted") == [], pod.name


def test_the_exceptions_are_those_that_stand_here():
    row = {"module": "m", "podResources": True}
    render = rendered.render({"services": {"gpu_metrics": row, "other": {"module": "m"}}})
    for pod in rendered.pods(render):
        found = refused(as_pod(pod), "restricted")
        if pod.kind == "gpu_metrics":
            assert EXCEPTIONS["podResources"]
            assert "hostPath volume pod-resources" in found
            only_root = {one for one in found if "AsNonRoot" not in one and "runAsUser 0" not in one}  # fmt: skip
            assert only_root == {"hostPath volume pod-resources"}
        else:
            assert found == [], pod.name


def test_roots_are_read_only_and_users_are_none_of_the_nodes(every):
    for pod in rendered.pods(every):
        said = pod.spec["securityContext"]
        assert said["runAsUser"] >= 10_000
        assert said["runAsGroup"] >= 10_000
        for container in pod.containers:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, (pod.name, container["name"])
            assert not {"runAsUser", "runAsNonRoot", "privileged"} & own.keys()
            paths = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in paths or pod.kind == "redis", "what writes to a read-only root?"


def test_every_container_says_what_it_needs(every):
    for pod in rendered.pods(every):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), pod.name


def test_every_disk_in_memory_or_on_the_node_has_a_limit(every):
    for pod in rendered.pods(every):
        for volume in pod.spec.get("volumes", ()):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], (pod.name, volume["name"])

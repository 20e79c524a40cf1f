"""k8s/prerequisites/install.sh with a kubectl and a helm that write down how they are called: what it says first, what it does, what it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from consilium.cli.cluster import pins

SCRIPT = Path(__file__).resolve().parents[3] / "k8s" / "prerequisites" / "install.sh"
LIMIT_S = 30

KUBECTL = """#!/usr/bin/env bash
printf 'kubectl %s\\n' "$*" >> "$CALLS"
case "$*" in
  *"get --raw /readyz"*) [ -z "${DOWN:-}" ] ;;
  *"get nodes"*) echo "$NODES" ;;
  *"get daemonsets"*) echo "${DAEMONSETS:-}" ;;
  *"get runtimeclass nvidia"*) [ -n "${RUNTIME:-}" ] ;;
  *current-context*) echo lab ;;
  *"create namespace"*) echo 'kind: Namespace' ;;
  *apply*-f\\ -) cat >> "$APPLIED" ;;
esac
"""
HELM = """#!/usr/bin/env bash
printf 'helm %s\\n' "$*" >> "$CALLS"
case "$*" in
  version*) echo "${HELM_VERSION:-v4.2.4+g1}" ;;
  *"show crds"*) echo 'kind: CustomResourceDefinition' ;;
esac
"""
PLAIN = 'v1.35.4 Debian GNU/Linux 13 {"kubernetes.io/os":"linux"}'
KNOWN = {
    "k3s": 'v1.35.4+k3s1 Ubuntu 24.04 {"node.kubernetes.io/instance-type":"k3s"}',
    "talos": "v1.35.4 Talos (v1.12.0) {}",
    "microk8s": 'v1.35.4 Ubuntu 24.04 {"microk8s.io/cluster":"true"}',
}


class Run:
    """What the script said, how it ended, and what it called."""

    def __init__(self, folder, words, env, *, tools=("kubectl", "helm")):
        folder.mkdir(exist_ok=True)
        place = folder / "bin"
        place.mkdir()
        for name, text in (("kubectl", KUBECTL), ("helm", HELM)):
            if name in tools:
                (place / name).write_text(text)
                (place / name).chmod(0o755)
        for name in ("bash", "env", "cat", "grep", "head"):
            (place / name).symlink_to(shutil.which(name))
        self._calls, self._applied = folder / "calls", folder / "applied"
        done = subprocess.run(
            [shutil.which("bash"), str(SCRIPT), *words],
            capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL,
            env={"PATH": str(place), "HOME": os.environ["HOME"], "NODES": PLAIN, "CALLS": str(self._calls), "APPLIED": str(self._applied), **env},
        )  # fmt: skip
        self.code, self.said, self.complained = done.returncode, done.stdout, done.stderr

    @property
    def calls(self):
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    @property
    def changes(self):
        """Calls that change something."""
        return [
            call
            for call in self.calls
            if (" apply " in call or " upgrade " in call or " label " in call)
            and "--dry-run" not in call
        ]

    @property
    def applied(self):
        return self._applied.read_text() if self._applied.exists() else ""


@pytest.fixture
def run(tmp_path):
    made = []

    def start(*words, tools=("kubectl", "helm"), **env):
        made.append(Run(tmp_path / f"run{len(made)}", words, env, tools=tools))
        return made[-1]

    return start


def test_it_installs_what_is_pinned(run):
    done = run("--yes")
    assert done.code == 0, done.complained
    helm = [call for call in done.changes if call.startswith("helm")]
    assert len(helm) == 2
    assert "upgrade --install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ --version 1.6.2 --namespace kuberay-system" in helm[0]  # fmt: skip
    assert "--skip-crds" in helm[0]
    assert "--version 0.17.4 --namespace nvidia-device-plugin" in helm[1]
    assert "gfd.enabled=true" in helm[1]
    assert "CustomResourceDefinition" in done.applied
    assert "kind: RuntimeClass" in done.applied
    assert any("label namespace nvidia-device-plugin" in call and "privileged" in call for call in done.changes)  # fmt: skip
    assert all("--server-side" in call for call in done.changes if " apply " in call)
    assert "consilium doctor --cluster" in done.said


def test_a_second_run_makes_no_runtime_class_again(run):
    done = run("--yes", RUNTIME="there")
    assert "RuntimeClass" not in done.applied
    assert done.code == 0


def test_dry_run_says_all_and_changes_nothing(run):
    done = run("--dry-run", "--monitoring", "--gateway-api")
    assert done.code == 0, done.complained
    assert not done.changes
    for words in ("KubeRay operator 1.6.2", "device plugin 0.17.4", "kube-prometheus-stack 79.12.0", "Gateway API v1.4.0", "+ helm upgrade --install kuberay-operator", "Nothing was done."):  # fmt: skip
        assert words in done.said


@pytest.mark.parametrize(
    ("tools", "env", "said"),
    [
        (("kubectl",), {}, "helm is not on the PATH"),
        (("kubectl", "helm"), {"HELM_VERSION": "v3.9.1+gaf"}, "this helm is older than 3.14"),
    ],
)
def test_dry_run_needs_no_helm_and_warns(run, tools, env, said):
    done = run("--dry-run", tools=tools, **env)
    assert done.code == 0, done.complained
    assert f"warning: {said}" in done.complained
    assert "get-helm-4" in done.complained
    assert "+ helm upgrade --install kuberay-operator" in done.said
    assert "Nothing was done." in done.said


def test_it_asks_and_where_nobody_can_answer_it_says_so(run):
    done = run()
    assert done.code == 1
    assert not done.changes
    assert "--yes" in done.complained


def test_monitoring_and_routes_are_asked_for(run):
    done = run("--yes", "--no-gpu", "--monitoring", "--gateway-api")
    text = "\n".join(done.changes)
    assert "kube-prometheus-stack" in text
    assert "podMonitorSelectorNilUsesHelmValues=false" in text
    assert "ruleSelectorNilUsesHelmValues=false" in text
    assert "gateway-api/releases/download/v1.4.0/standard-install.yaml" in text
    assert "nvidia" not in text


def test_another_context_goes_to_both_programs(run):
    done = run("--yes", "--context", "far")
    assert all("--context far" in call or "--kube-context far" in call for call in done.changes)
    assert "cluster of far" in done.said


@pytest.mark.parametrize("kind", KNOWN)
def test_it_knows_which_kubernetes_this_is(run, kind):
    done = run("--dry-run", NODES=KNOWN[kind])
    assert f"presets/{kind}.yaml" in done.said


@pytest.mark.parametrize("theirs", ["kube-system/nvidia-device-plugin-daemonset", "gpu-operator-resources/nvidia-device-plugin-daemonset"])  # fmt: skip
def test_a_device_plugin_of_others_is_left_alone(run, theirs):
    done = run("--yes", NODES=KNOWN["microk8s"], DAEMONSETS=f"kube-system/calico-node\n{theirs}")
    assert theirs in done.said
    assert "nvidia-device-plugin --repo" not in "\n".join(done.calls)
    again = run("--yes", DAEMONSETS="nvidia-device-plugin/nvidia-device-plugin")
    assert any("upgrade --install nvidia-device-plugin" in call for call in again.calls)


@pytest.mark.parametrize(
    ("words", "env", "tools", "said", "way_out"),
    [
        ((), {}, ("helm",), "kubectl is not on the PATH", "kubernetes.io/docs"),
        ((), {}, ("kubectl",), "helm is not on the PATH", "helm.sh/docs"),
        ((), {"HELM_VERSION": "v3.9.1+gaf"}, None, "this helm is older than 3.14", "helm.sh/docs"),
        (
            (),
            {"DOWN": "1"},
            None,
            "the cluster does not answer",
            "sudo cat /etc/rancher/k3s/k3s.yaml > ~/.kube/config",
        ),
        (("--gpu",), {}, None, "there is no option --gpu", "--no-gpu"),
        (("--context",), {}, None, "--context needs a name", "get-contexts"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_missing_is_said_with_the_way_out(run, words, env, tools, said, way_out):  # noqa: PLR0917  one case
    done = run("--yes", *words, tools=tools or ("kubectl", "helm"), **env)
    assert done.code == 1
    assert f"error: {said}" in done.complained
    assert way_out in done.complained + done.said
    assert not done.changes


def test_the_pins_are_those_of_the_doctor():
    text = SCRIPT.read_text()
    for name, version in (
        ("KUBERAY", ".".join(map(str, pins.KUBERAY))),
        ("DEVICE_PLUGIN", pins.DEVICE_PLUGIN),
        ("KUBE_PROMETHEUS_STACK", pins.KUBE_PROMETHEUS_STACK),
        ("GATEWAY_API", pins.GATEWAY_API),
    ):
        assert f"\n{name}={version}\n" in text


def test_the_script_is_clean():
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(program), str(SCRIPT)], capture_output=True, text=True, timeout=LIMIT_S, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout

"""What `consilium doctor --cluster` looks at before an installation: versions, the operator, the network, storage, monitoring, routes.

Rows over two facts: what the cluster has, and what the values ask for. Nodes and cards are in install_nodes.py. Does not ask the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from consilium.cli.cluster import volumes
from consilium.cli.cluster.inventory import Inventory, version_of
from consilium.cli.cluster.objects import Object, is_true, labels_of, name_of, quantity, status_of
from consilium.cli.cluster.pins import (
    KUBERAY,
    KUBERAY_OLDEST,
    KUBERNETES_OLDEST,
    KUBERNETES_TRIED,
)
from consilium.cli.cluster.wanted import Wanted
from consilium.kernel.doctor import Fact, Facts, Row, Verdict, failure, note, ok, warning

_INSTALL: Final = "k8s/prerequisites/install.sh"
_DEFAULT: Final = "storageclass.kubernetes.io/is-default-class"
_SKEW: Final = 3
"""A kubelet may be three minor versions older than its API server, and never newer."""


def _given(_subject: object) -> Any:
    raise LookupError("it is read by the command")


INVENTORY: Final[Fact[Inventory]] = Fact("inventory", "The cluster", _given)
WANTED: Final[Fact[Wanted]] = Fact("wanted", "The values", _given)
Rule = Callable[[Inventory, Wanted], Verdict]


def told(
    verdict: Callable[..., Verdict], said: str, way_out: str = "nothing needs to be done"
) -> Verdict:
    """Return a verdict whose sentence and way out the rule chose itself."""
    return verdict(said=said, way_out=way_out)


def row(
    id_: str,
    title: str,
    rule: Rule,
    when: Callable[[Inventory, Wanted], bool] = lambda _has, _asks: True,
    reads: tuple[str, ...] = (),
) -> Row:
    """Return a row over what the cluster has and what is asked of it.

    reads  lists without which it says nothing; that they could not be read is told apart
    """

    def applies(facts: Facts) -> bool:
        has = facts[INVENTORY]
        return has.is_read(*reads) and when(has, facts[WANTED])

    return Row(
        id_,
        title,
        (INVENTORY, WANTED),
        lambda facts: rule(facts[INVENTORY], facts[WANTED]),
        "{said}",
        "{way_out}",
        "{said}",
        when=applies,
    )


def _kubernetes(has: Inventory, _asks: Wanted) -> Verdict:
    version = version_of(has.version)
    if version[:2] < KUBERNETES_OLDEST:
        return told(failure, f"{has.version} is older than {_dots(KUBERNETES_OLDEST)}, which the chart asks for", "Upgrade the cluster, one minor version at a time: first the control plane, then the nodes.")  # fmt: skip
    if version[:2] > (KUBERNETES_TRIED[0], KUBERNETES_TRIED[1] + 2):
        return told(note, f"{has.version} is newer than what was tried ({_dots(KUBERNETES_TRIED)})", "Most likely all is well; helm install --dry-run=server shows whether the API server takes every object.")  # fmt: skip
    return told(ok, has.version)


def _kubelets(has: Inventory, _asks: Wanted) -> Verdict:
    own = version_of(has.version)[1]
    seen = {name_of(node): str((status_of(node).get("nodeInfo") or {}).get("kubeletVersion", "")) for node in has.nodes}  # fmt: skip
    wrong = [
        f"{name} {text}"
        for name, text in seen.items()
        if version_of(text)[1] and not own - _SKEW <= version_of(text)[1] <= own
    ]
    if wrong:
        return told(warning, f"{', '.join(wrong)} beside an API server {has.version}: Kubernetes supports kubelets of the same minor version or up to {_SKEW} older", "Upgrade those nodes; on k3s run its installer there again with the same INSTALL_K3S_VERSION as the server.")  # fmt: skip
    return told(ok, ", ".join(sorted(set(seen.values()))) or "none is told")


def _dots(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _operators(has: Inventory) -> list[Object]:
    return [one for one in has.deployments if "kuberay-operator" in name_of(one)]


def _operator(has: Inventory, _asks: Wanted) -> Verdict:
    if "ray.io/v1 RayService" not in has.kinds:
        return told(failure, "the KubeRay operator is not here: the API server knows no ray.io/v1 RayService", f"{_INSTALL} installs {_dots(KUBERAY)}")  # fmt: skip
    found = _operators(has)
    if not found:
        return told(failure, "its kinds are here, and no Deployment of the KubeRay operator looks after them", f"{_INSTALL} installs it, or see where it went: kubectl get deployments -A | grep kuberay")  # fmt: skip
    one = found[0]
    where = f"{one['metadata'].get('namespace')}/{name_of(one)}"
    containers = one["spec"]["template"]["spec"]["containers"]
    text = str(containers[0]["image"]).rpartition(":")[2]
    version = version_of(text)
    if not status_of(one).get("availableReplicas"):
        return told(failure, f"{where} is not available", f"kubectl -n {one['metadata'].get('namespace')} describe pods -l app.kubernetes.io/name=kuberay-operator")  # fmt: skip
    return _operator_version(where, text, version)


def _operator_version(where: str, text: str, version: tuple[int, int, int]) -> Verdict:
    if version == (0, 0, 0):
        return told(note, f"{where} does not say its version ({text}); {_dots(KUBERAY)} was tried")
    if version < KUBERAY_OLDEST:
        return told(failure, f"{where} is {text}; token authentication needs {_dots(KUBERAY_OLDEST)}, and {_dots(KUBERAY)} was tried", f"{_INSTALL} upgrades it; Helm upgrades no CRDs, the script does.")  # fmt: skip
    if version != KUBERAY:
        return told(note, f"{where} is {text}; {_dots(KUBERAY)} was tried", f"{_INSTALL} installs what was tried.")  # fmt: skip
    return told(ok, f"{where} {text}")


def _operator_reach(has: Inventory, asks: Wanted) -> Verdict:
    """Whether our NetworkPolicies let the operator in: it asks the head how Serve fares."""
    wanted: Mapping[str, str] = asks.values["networkPolicy"]["operatorNamespace"]
    space = str(_operators(has)[0]["metadata"].get("namespace"))
    labels = {"kubernetes.io/metadata.name": space}
    labels |= next((labels_of(one) for one in has.namespaces if name_of(one) == space), {})
    if all(labels.get(key) == value for key, value in wanted.items()):
        return told(ok, f"our policies let {space} in")
    return told(failure, f"our policies let pods of {dict(wanted)} ask the head, and the operator is in {space}: the RayService would never become ready", f"--set networkPolicy.operatorNamespace.kubernetes\\.io/metadata\\.name={space}")  # fmt: skip


def _dns(has: Inventory, asks: Wanted) -> Verdict:
    peers = asks.values["networkPolicy"]["egress"]["dns"]["to"]
    wanted = [(one["podSelector"] or {}).get("matchLabels") or {} for one in peers if "podSelector" in one]  # fmt: skip
    if not wanted:
        return told(ok, "networkPolicy.egress.dns names no pods, so who answers is not looked at")
    found = [pod for pod in has.pods if any(one.items() <= labels_of(pod).items() for one in wanted)]  # fmt: skip
    ready = [pod for pod in found if is_true(pod, "Ready")]
    if ready:
        return told(ok, f"{len(ready)} of {len(found)} pods are ready")
    said = ",".join(f"{key}={value}" for key, value in wanted[0].items())
    if found:
        return told(failure, f"none of {len(found)} DNS pods is ready, so no pod finds another", f"kubectl describe pods -A -l {said}")  # fmt: skip
    way_out = "Say in networkPolicy.egress.dns who answers names there, or set networkPolicy.enabled: false. microk8s: microk8s enable dns"  # fmt: skip
    return told(failure, f"no pod has the label {said}: there is no DNS, or our policies would not let pods ask it", way_out)  # fmt: skip


_ENFORCING: Final = {
    "calico-node": "Calico", "canal": "Canal", "rke2-canal": "Canal", "cilium": "Cilium", "antrea-agent": "Antrea",
    "kube-router": "kube-router", "weave-net": "Weave Net", "aws-node": "Amazon VPC CNI", "anetd": "GKE Dataplane V2", "kindnet": "kindnet",
}  # fmt: skip


def _policies(has: Inventory, _asks: Wanted) -> Verdict:
    names = {name_of(one) for one in has.daemonsets}
    known = sorted({title for name, title in _ENFORCING.items() if name in names})
    if known:
        return told(ok, f"enforced by {', '.join(known)}")
    if "+k3s" in has.version:
        return told(ok, "enforced by k3s itself (unless it was started with --disable-network-policy)")  # fmt: skip
    if names & {"kube-flannel", "kube-flannel-ds"}:
        return told(warning, "flannel alone enforces no NetworkPolicy: they are accepted, and every pod reaches every other, Redis and Ray's ports among them", "Put kube-router or Calico beside it, or install Cilium in its place (Talos: cluster.network.cni.name: none).")  # fmt: skip
    return told(note, "which network plugin this is cannot be told, so it is not known whether NetworkPolicies are enforced", "Try it: a pod of another namespace must not reach the release's Redis on port 6379.")  # fmt: skip


def _pod_security(has: Inventory, asks: Wanted) -> Verdict:
    found = next((one for one in has.namespaces if name_of(one) == has.namespace), None)
    if found is None:
        return told(note, f"the namespace {has.namespace} is not there yet", f"helm install ... -n {has.namespace} --create-namespace makes it; then: kubectl label namespace {has.namespace} pod-security.kubernetes.io/enforce=restricted")  # fmt: skip
    level = labels_of(found).get("pod-security.kubernetes.io/enforce")
    if level is None:
        return told(note, f"the namespace {has.namespace} enforces no level; pods of the chart keep to restricted", f"kubectl label namespace {has.namespace} pod-security.kubernetes.io/enforce=restricted")  # fmt: skip
    if level != "privileged" and asks.cards and asks.values["gpu"]["metrics"]["podResources"]:
        return told(failure, f"{has.namespace} enforces {level}, and gpu.metrics.podResources needs a folder of the node: the exporter of the cards' figures would not start", f"--set gpu.metrics.podResources=false, or: kubectl label namespace {has.namespace} --overwrite pod-security.kubernetes.io/enforce=privileged")  # fmt: skip
    return told(ok, f"{has.namespace} enforces {level}, which pods of the chart keep to")


def _classes(has: Inventory, asks: Wanted) -> Verdict:
    known = {name_of(one) for one in has.classes}
    default = next((name_of(one) for one in has.classes if (one["metadata"].get("annotations") or {}).get(_DEFAULT) == "true"), "")  # fmt: skip
    there = f"there are: {', '.join(sorted(known))}" if known else "there is none at all"
    for key, wanted in asks.classes:
        if wanted and wanted not in known:
            return told(failure, f"{key} is {wanted}, and there is no StorageClass of that name; {there}", "Name one of those, or install its provisioner.")  # fmt: skip
        if not wanted and not default:
            return told(failure, f"{key} names no StorageClass and the cluster has no default one; {there}", f"Make one the default: kubectl annotate storageclass NAME {_DEFAULT}=true. On bare metal install local-path-provisioner first, or set models.storage: hostPath.")  # fmt: skip
    names = dict.fromkeys(wanted or f"{default} (the default)" for _, wanted in asks.classes)
    return told(ok, ", ".join(names) or "no claim of the chart needs one")


def _quota(has: Inventory, asks: Wanted) -> Verdict:
    sums: dict[str, float] = {}
    for pod in asks.pods:
        for what, much in pod.requests.items():
            sums[f"requests.{what}"] = sums.get(f"requests.{what}", 0.0) + much
        for what, much in pod.limits.items():
            sums[f"limits.{what}"] = sums.get(f"limits.{what}", 0.0) + much
    sums |= {"pods": float(len(asks.pods)), "cpu": sums.get("requests.cpu", 0), "memory": sums.get("requests.memory", 0)}  # fmt: skip
    for quota in has.quotas:
        status = status_of(quota)
        for what, hard in (status.get("hard") or {}).items():
            left = quantity(hard) - quantity((status.get("used") or {}).get(what, 0))
            if sums.get(what, 0.0) > left:
                return told(failure, f"the quota {name_of(quota)} of {has.namespace} leaves {left:g} of {what}, and the values ask for {sums[what]:g}", f"kubectl -n {has.namespace} edit resourcequota {name_of(quota)}, or install into another namespace.")  # fmt: skip
    return told(ok, "every quota has room" if has.quotas else f"{has.namespace} has none")


def _monitoring(has: Inventory, asks: Wanted) -> Verdict:
    if "monitoring.coreos.com/v1 PodMonitor" not in has.kinds:
        return told(failure, "monitoring.podMonitor.enabled is true, and the Prometheus operator is not here", f"{_INSTALL} --monitoring, or set it to false.")  # fmt: skip
    if not has.prometheuses:
        return told(warning, "the Prometheus operator is here, and no Prometheus that would read our PodMonitor", f"{_INSTALL} --monitoring makes one.")  # fmt: skip
    labels: Mapping[str, str] = asks.values["monitoring"]["podMonitor"]["labels"]
    missing: list[str] = []
    for one in has.prometheuses:
        selector = (one.get("spec") or {}).get("podMonitorSelector")
        if selector is None:
            missing.append(f"{name_of(one)} selects no PodMonitor at all")
            continue
        wanted = selector.get("matchLabels") or {}
        if all(labels.get(key) == value for key, value in wanted.items()):
            return _scraped(has, asks, one)
        missing.append(f"{name_of(one)} takes those with {', '.join(f'{k}={v}' for k, v in wanted.items())}")  # fmt: skip
    first = ((has.prometheuses[0].get("spec") or {}).get("podMonitorSelector") or {}).get("matchLabels") or {"release": "prometheus"}  # fmt: skip
    flags = " ".join(f"--set monitoring.podMonitor.labels.{k}={v}" for k, v in first.items())
    return told(failure, f"no Prometheus would take our PodMonitor: {'; '.join(missing)}", flags)


def _scraped(has: Inventory, asks: Wanted, prometheus: Object) -> Verdict:
    """Say whether a Prometheus that takes our PodMonitor also looks into our namespace and is let in."""
    spaces = (prometheus.get("spec") or {}).get("podMonitorNamespaceSelector")
    own = str(prometheus["metadata"].get("namespace"))
    wanted = (spaces or {}).get("matchLabels") or {}
    labels = next((labels_of(one) for one in has.namespaces if name_of(one) == has.namespace), {})
    labels = {**labels, "kubernetes.io/metadata.name": has.namespace}
    sees = own == has.namespace if spaces is None else all(labels.get(k) == v for k, v in wanted.items())  # fmt: skip
    if not sees:
        return told(failure, f"{name_of(prometheus)} takes our PodMonitor, but does not look into {has.namespace}", "Widen its podMonitorNamespaceSelector ({} is every namespace), or label the namespace as it asks.")  # fmt: skip
    peers: Mapping[str, str] = asks.values["networkPolicy"]["monitoringNamespace"]
    labels = {"kubernetes.io/metadata.name": own}
    labels |= next((labels_of(one) for one in has.namespaces if name_of(one) == own), {})
    if asks.values["networkPolicy"]["enabled"] and any(labels.get(k) != v for k, v in peers.items()):  # fmt: skip
        return told(failure, f"{name_of(prometheus)} runs in {own}, and our policies let only {dict(peers)} read metrics", f"--set networkPolicy.monitoringNamespace.kubernetes\\.io/metadata\\.name={own}")  # fmt: skip
    return told(ok, f"{own}/{name_of(prometheus)} will read our pages")


def _released(has: Inventory, _asks: Wanted) -> Verdict:
    left = list(volumes.left_behind(has.volumes, has.namespace))
    if not left:
        return told(ok, "none is left from earlier claims")
    first = name_of(left[0])
    told_of = ", ".join(f"{name_of(one)} (of {volumes.claim_of(one)})" for one in left)
    return told(note, f"Released in {has.namespace}: {told_of}; {volumes.NOBODYS}", f"{volumes.again(first)} gives it to the next claim of that name, so a release of the same name finds what it had. {volumes.forget(first)}")  # fmt: skip


def _routes(has: Inventory, asks: Wanted) -> Verdict:
    wanted = ("HTTPRoute", "GRPCRoute")
    missing = [kind for kind in wanted if f"gateway.networking.k8s.io/v1 {kind}" not in has.kinds]
    if missing:
        return told(failure, f"routes.enabled is true, and the API server knows no {' and no '.join(missing)}", f"{_INSTALL} --gateway-api installs the kinds; a controller that serves them is yours to choose.")  # fmt: skip
    known = {name_of(one) for one in has.gateways}
    parents = [str(one.get("name")) for one in asks.values["routes"]["parents"]]
    lost = [name for name in parents if name not in known]
    if lost or not parents:
        return told(failure, f"routes.parents names {', '.join(lost) or 'no Gateway'}; there are: {', '.join(sorted(known)) or 'none'}", "kubectl get gateways -A; name one in routes.parents, with its namespace.")  # fmt: skip
    return told(ok, ", ".join(parents))


def _ingress(has: Inventory, asks: Wanted) -> Verdict:
    known = {name_of(one) for one in has.ingress_classes}
    wanted = asks.values["ingress"]["className"]
    default = any((one["metadata"].get("annotations") or {}).get("ingressclass.kubernetes.io/is-default-class") == "true" for one in has.ingress_classes)  # fmt: skip
    if wanted in known or (not wanted and default):
        return told(ok, wanted or "the default class")
    said = f"there is no IngressClass {wanted!r}" if wanted else "ingress.className is empty and the cluster has no default class"  # fmt: skip
    return told(failure, f"{said}; there are: {', '.join(sorted(known)) or 'none'}", "Set ingress.className to one of those (k3s: traefik, microk8s: public), or install an ingress controller.")  # fmt: skip


ROWS: Final = (
    row("kubernetes_version", "Kubernetes", _kubernetes),
    row("kubelet_version", "kubelets", _kubelets, reads=("nodes",)),
    row("operator", "KubeRay operator", _operator, reads=("deployments",)),
    row(
        "operator_reach",
        "the operator's way to the head",
        _operator_reach,
        lambda has, asks: bool(_operators(has)) and asks.values["networkPolicy"]["enabled"],
        reads=("deployments",),
    ),
    row("dns", "DNS", _dns, reads=("pods",)),
    row(
        "network_policies",
        "NetworkPolicies",
        _policies,
        lambda _has, asks: asks.values["networkPolicy"]["enabled"],
        reads=("daemonsets",),
    ),
    row("pod_security", "PodSecurity", _pod_security, reads=("namespaces",)),
    row("storage_class", "StorageClass", _classes, reads=("classes",)),
    row("released_volumes", "volumes", _released, reads=("volumes",)),
    row("quota", "ResourceQuota", _quota, reads=("quotas",)),
    row(
        "pod_monitor",
        "Prometheus",
        _monitoring,
        lambda _has, asks: asks.values["monitoring"]["podMonitor"]["enabled"],
        reads=("prometheuses",),
    ),
    row(
        "gateway_api",
        "Gateway API",
        _routes,
        lambda _has, asks: asks.values["routes"]["enabled"],
        reads=("gateways",),
    ),
    row(
        "ingress_class",
        "IngressClass",
        _ingress,
        lambda _has, asks: asks.values["ingress"]["enabled"],
        reads=("ingress_classes",),
    ),
)

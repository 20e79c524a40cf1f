"""What `consilium doctor --cluster` looks at in the nodes: cards, the driver, the runtime, memory, disks, and whether every pod finds a place.

Rows over two facts: what the cluster has, and what the values ask for. Does not ask the cluster, and sees no driver: only what nodes say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from consilium.cli.cluster.install_rows import row, told
from consilium.cli.cluster.inventory import Inventory, admits, takes_pods
from consilium.cli.cluster.objects import Object, is_true, labels_of, name_of, quantity, status_of
from consilium.cli.cluster.pins import DRIVER_MAJOR
from consilium.cli.cluster.wanted import Pod, Wanted
from consilium.kernel.doctor import Verdict, failure, note, ok, warning

GB: Final = 1e9
GIB: Final = 2.0**30
GPU_IMAGE_BYTES: Final = 60 * GB
"""The GPU image takes 10 to 25 GB, twice while it is unpacked, and the next version must find room beside it."""
CPU_IMAGE_BYTES: Final = 20 * GB
LITTLE_SHM_BYTES: Final = GIB
_INSTALL: Final = "k8s/prerequisites/install.sh"
_DRIVER: Final = ("nvidia.com/cuda.driver-version.major", "nvidia.com/cuda.driver.major")
_NVIDIA_PCI: Final = ("feature.node.kubernetes.io/pci-10de.present", "feature.node.kubernetes.io/pci-0300_10de.present", "feature.node.kubernetes.io/pci-0302_10de.present")  # fmt: skip


def _needs_cards(_has: Inventory, asks: Wanted) -> bool:
    return asks.cards > 0


def _ready(has: Inventory, _asks: Wanted) -> Verdict:
    away = [name_of(node) for node in has.nodes if not takes_pods(node)]
    pressed = [
        f"{name_of(node)} ({kind})"
        for node in has.nodes
        for kind in ("DiskPressure", "MemoryPressure", "PIDPressure")
        if is_true(node, kind)
    ]
    if len(away) == len(has.nodes):
        return told(failure, "no node is ready and takes pods", "kubectl get nodes; kubectl describe nodes | grep -A8 Conditions")  # fmt: skip
    if away or pressed:
        said = [f"{', '.join(away)} not ready or cordoned"] * bool(away) + [f"under pressure: {', '.join(pressed)}"] * bool(pressed)  # fmt: skip
        return told(warning, "; ".join(said), "kubectl describe node says why; a cordoned one comes back by kubectl uncordon.")  # fmt: skip
    return told(ok, f"{len(has.nodes)} ready")


def _offered(node: Object, resource: str) -> float:
    return quantity((status_of(node).get("allocatable") or {}).get(resource, 0))


def _plugin(has: Inventory, asks: Wanted) -> Verdict:
    offering = [name_of(node) for node in has.nodes if _offered(node, asks.resource)]
    if offering:
        return told(ok, f"{', '.join(offering)} offer {asks.resource}")
    carded = [name_of(node) for node in has.nodes if any(labels_of(node).get(key) == "true" for key in _NVIDIA_PCI)]  # fmt: skip
    running = [one for one in has.daemonsets if "device-plugin" in name_of(one) and "nvidia" in name_of(one)]  # fmt: skip
    others = sorted({what for node in has.nodes for what in status_of(node).get("allocatable") or {} if "gpu" in what or "mig" in what})  # fmt: skip
    if others:
        return told(failure, f"no node offers {asks.resource}; they offer {', '.join(others)}", f"Set gpu.resourceName to {others[0]}, if those are the cards that are meant.")  # fmt: skip
    if running:
        space, name = running[0]["metadata"].get("namespace"), name_of(running[0])
        return told(failure, f"the device plugin runs and finds no card on any node{_with(carded)}", f"kubectl -n {space} logs ds/{name} says why: the driver is missing, or its pod lacks the NVIDIA runtime (runtimeClassName: nvidia).")  # fmt: skip
    return told(failure, f"no node offers {asks.resource}, and no device plugin runs{_with(carded)}", f"{_INSTALL} installs it. The driver comes first: nvidia-smi on the node must show the card.")  # fmt: skip


def _with(carded: list[str]) -> str:
    return f"; NVIDIA cards are seen in {', '.join(carded)}" if carded else ""


def _runtime(has: Inventory, asks: Wanted) -> Verdict:
    wanted = asks.values["gpu"]["runtimeClassName"]
    known = {name_of(one) for one in has.runtimes}
    if wanted and wanted not in known:
        return told(failure, f"gpu.runtimeClassName is {wanted}, and there is no such RuntimeClass; there are: {', '.join(sorted(known)) or 'none'}", f"{_INSTALL} makes the RuntimeClass nvidia; the node needs nvidia-container-toolkit for it.")  # fmt: skip
    if wanted:
        return told(ok, wanted)
    if "nvidia" in known:
        return told(warning, "there is a RuntimeClass nvidia, and gpu.runtimeClassName is empty: unless nvidia is containerd's default, pods get cards and no driver", "--set gpu.runtimeClassName=nvidia (k3s, Talos, microk8s: their presets say so)")  # fmt: skip
    return told(note, "gpu.runtimeClassName is empty and there is no RuntimeClass nvidia: it must be containerd's default runtime on nodes with cards", f"Where it is not, {_INSTALL} makes the RuntimeClass, and gpu.runtimeClassName: nvidia asks for it.")  # fmt: skip


def _driver(has: Inventory, _asks: Wanted) -> Verdict:
    seen = {name_of(node): labels_of(node)[key] for node in has.nodes for key in _DRIVER if labels_of(node).get(key)}  # fmt: skip
    old = [f"{name} {major}" for name, major in seen.items() if major.isdigit() and int(major) < DRIVER_MAJOR]  # fmt: skip
    if old:
        return told(failure, f"the driver is older than {DRIVER_MAJOR}, which the engine's CUDA 13 needs: {', '.join(old)}", "Update NVIDIA's driver on those nodes and restart them.")  # fmt: skip
    if not seen:
        return told(note, "no node says which driver it has", f"On the node: nvidia-smi; it must be {DRIVER_MAJOR} or newer. {_INSTALL} installs the device plugin with GPU feature discovery, which writes labels.")  # fmt: skip
    return told(ok, ", ".join(f"{name}: {major}" for name, major in seen.items()))


def _cards(has: Inventory, asks: Wanted) -> Verdict:
    free = {name: max(0, int(room.get(asks.resource, 0))) for name, room in has.free().items()}
    kinds = {name_of(node): labels_of(node).get("nvidia.com/gpu.product", "") for node in has.nodes}
    there = ", ".join(f"{name} {n}{' ' + kinds[name] if kinds.get(name) else ''}" for name, n in free.items() if n or kinds.get(name))  # fmt: skip
    if sum(free.values()) >= asks.cards:
        return told(ok, f"{sum(free.values())} free ({there}), {asks.cards} asked for")
    held = ", ".join(f"{name} ({n})" for name, n in has.holders(asks.resource))
    return told(failure, f"{sum(free.values())} of {asks.resource} are free{f' ({there})' if there else ''}, and the values ask for {asks.cards}", f"Held by: {held}. End one of them, or choose a smaller preset." if held else "Choose a preset with fewer cards (helm/consilium/presets), or add a node.")  # fmt: skip


def _tells_figures(_has: Inventory, asks: Wanted) -> bool:
    gpu = asks.values["gpu"]
    return asks.cards > 0 and gpu["metrics"]["enabled"] and asks.resource.startswith("nvidia.com/")


def _figures(has: Inventory, asks: Wanted) -> Verdict:
    """Say which nodes with cards the exporter would not run on: the chart asks for these labels (consilium.nodesWithCards)."""
    own = asks.values["gpu"]["metrics"]["nodeSelector"] or {}
    terms = [own] if own else [{"nvidia.com/gpu.present": "true"}, {_NVIDIA_PCI[0]: "true"}, *(pod.node_selector for pod in asks.pods if pod.is_gpu and pod.node_selector)]  # fmt: skip

    def is_found(node: Object) -> bool:
        labels = labels_of(node)
        by_product = not own and "nvidia.com/gpu.product" in labels
        return by_product or any(term.items() <= labels.items() for term in terms)

    carded = [node for node in has.nodes if _offered(node, asks.resource)]
    silent = [name_of(node) for node in carded if not is_found(node)]
    if silent:
        label = " ".join(f"{key}={value}" for key, value in terms[0].items())
        return told(warning, f"no pod would tell what the cards of {', '.join(silent)} do: no label says that they have some", f"kubectl label node {' '.join(silent)} {label}; GPU feature discovery, which {_INSTALL} brings, does it by itself.")  # fmt: skip
    return told(ok, f"told by a pod on {len(carded)} node{'' if len(carded) == 1 else 's'}")


def placed(has: Inventory, asks: Wanted) -> Iterator[tuple[Pod, dict[str, list[str]]]]:
    """Yield pods that find no node, with what each node lacks; the largest pods choose first."""
    left = has.free()
    nodes = {name_of(node): node for node in has.nodes if name_of(node) in left}
    order = sorted(asks.pods, key=lambda pod: (-pod.requests.get(asks.resource, 0), -pod.requests.get("memory", 0)))  # fmt: skip
    for pod in order:
        lacks: dict[str, list[str]] = {}
        for name, node in nodes.items():
            if not admits(node, pod):
                lacks[name] = ["labels or taints"]
                continue
            short = [what for what, much in pod.requests.items() if left[name].get(what, 0.0) < much]  # fmt: skip
            if not short:
                for what, much in pod.requests.items():
                    left[name][what] -= much
                break
            lacks[name] = short
        else:
            yield pod, lacks


def _room(has: Inventory, asks: Wanted) -> Verdict:
    homeless = list(placed(has, asks))
    if not homeless:
        return told(ok, f"all {len(asks.pods)} pods find one")
    pod, lacks = homeless[0]
    asked = f"{pod.requests.get('cpu', 0):g} cores and {_gib(pod.requests.get('memory', 0))}"
    cards = int(pod.requests.get(asks.resource, 0))
    asked += f" and {cards} card{'' if cards == 1 else 's'}" if cards else ""
    why = "; ".join(f"{name}: {', '.join(short)}" for name, short in lacks.items()) or "there is no node"  # fmt: skip
    more = f", and {len(homeless) - 1} more pods neither" if len(homeless) > 1 else ""
    return told(failure, f"{pod.name} asks for {asked} and no node has that left ({why}){more}", f"Lower {pod.knob}.requests, give the node's labels and taints their nodeSelector and tolerations, or free some room.")  # fmt: skip


def _memory(has: Inventory, asks: Wanted) -> Verdict:
    largest = max((quantity((status_of(node).get("allocatable") or {}).get("memory", 0)) for node in has.nodes), default=0.0)  # fmt: skip
    for pod in asks.pods:
        limit = pod.limits.get("memory", 0.0)
        if limit and pod.shm_bytes >= limit:
            return told(failure, f"{pod.name}: sharedMemory {_gib(pod.shm_bytes)} comes out of its memory, whose limit is {_gib(limit)}", f"Raise {pod.knob}.limits.memory above it.")  # fmt: skip
        if pod.requests.get(asks.resource, 0) > 1 and pod.shm_bytes < LITTLE_SHM_BYTES:
            return told(warning, f"{pod.name} has {int(pod.requests[asks.resource])} cards and {_gib(pod.shm_bytes)} of /dev/shm: engines over several cards exchange through it", "Set workers[].sharedMemory: 8Gi.")  # fmt: skip
        if limit > largest:
            return told(warning, f"{pod.name} may grow to {_gib(limit)}, and the largest node has {_gib(largest)}: the node would end it first", f"Lower {pod.knob}.limits.memory.")  # fmt: skip
    return told(ok, f"the largest node has {_gib(largest)}")


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _disks(has: Inventory, asks: Wanted) -> Verdict:
    needs = GPU_IMAGE_BYTES if asks.cards else CPU_IMAGE_BYTES
    little = []
    for node in has.nodes:
        disk = quantity((status_of(node).get("allocatable") or {}).get("ephemeral-storage", 0))
        pulls = bool(_offered(node, asks.resource)) if asks.cards else takes_pods(node)
        if pulls and disk and disk < needs:
            little.append(f"{name_of(node)} {disk / GB:.0f} GB")
    if little:
        return told(failure if asks.cards else warning, f"the image of the engines needs {needs / GB:.0f} GB of the node's own disk, and there is less: {', '.join(little)}", "Give the node a larger disk under /var/lib (k3s: --data-dir), or remove images there: crictl rmi --prune")  # fmt: skip
    return told(ok, f"{needs / GB:.0f} GB for the image of the engines everywhere")


def _machines(has: Inventory, _asks: Wanted) -> Verdict:
    kinds = {str((status_of(node).get("nodeInfo") or {}).get("architecture") or "") for node in has.nodes}  # fmt: skip
    if "amd64" in kinds or not any(kinds):
        return told(ok, ", ".join(sorted(filter(None, kinds))) or "not told")
    return told(warning, f"every node is {', '.join(sorted(kinds))}; the images are made and tried for amd64", "Build them on such a node (k8s/images), or add one with amd64.")  # fmt: skip


ROWS: Final = (
    row("nodes", "nodes", _ready, reads=("nodes",)),
    row("architecture", "processors", _machines, reads=("nodes",)),
    row("device_plugin", "device plugin", _plugin, _needs_cards, reads=("nodes", "daemonsets")),
    row("runtime_class", "RuntimeClass", _runtime, _needs_cards, reads=("runtimes",)),
    row("driver", "NVIDIA driver", _driver, _needs_cards, reads=("nodes",)),
    row("cards_free", "free cards", _cards, _needs_cards, reads=("nodes", "pods")),
    row("card_figures", "figures of the cards", _figures, _tells_figures, reads=("nodes",)),
    row("places", "a node for every pod", _room, reads=("nodes", "pods")),
    row("memory", "memory and /dev/shm", _memory, reads=("nodes",)),
    row("disk", "disk of the nodes", _disks, reads=("nodes",)),
)

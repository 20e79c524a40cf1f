"""Each preset becomes what stands beside it, fits the machines that it names, and its models fit their cards."""

import re

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.reach import matches
from tests.unit.chart.rendered import EXPECTED, PRESETS

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine import topology
from consilium.engine.config import EngineView
from consilium.engine.launch_args import PINNED
from consilium.engine.machine import POOL, Gpu, Machine, Node
from consilium.engine.model_facts import ModelFacts
from consilium.planner import cards, models, question_file

GIB = 2**30
UNITS = {"": 1, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": GIB, "Ti": 2**40}
SYSTEM = {"cpus": 0.5, "memory": GIB}
"""What a node keeps for the system and the pods of Kubernetes itself."""
PRESENT = "nvidia.com/gpu.present"
FILES = {path.stem for path in (rendered.CHART / "presets").glob("*.yaml")} - {"expected"}
WHOLE = [name for name in PRESETS if "with" not in EXPECTED[name]]


def amount(quantity):
    """Return a quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity)).groups()
    return float(number) * UNITS[unit]


def asked(pod):
    """Return the cores, the memory, the cards and the labels that the scheduler must find for a pod."""
    needs = [one.get("resources", {}).get("requests", {}) for one in pod.spec["containers"]]
    first = [one["resources"]["requests"] for one in pod.spec.get("initContainers", ())]
    cpus, memory = (
        max(
            sum(amount(need[what]) for need in needs),
            max((amount(need[what]) for need in first), default=0),
        )
        for what in ("cpu", "memory")
    )
    return cpus, memory, rendered.cards_of(pod), pod.spec.get("nodeSelector", {})


def lasting(render):
    """Return the pods that stay."""
    return [pod for pod in rendered.pods(render) if pod.kind not in {"test", "rollback"}]


def placed(nodes, wants):
    """Return whether every pod finds a node: largest first, cards before memory, as few cards left over as can be."""
    left = [([n["cpus"] - SYSTEM["cpus"], amount(n["memory"]) - SYSTEM["memory"], n["gpus"]], n.get("labels", {})) for n in nodes]  # fmt: skip
    for *want, labels in sorted(wants, key=lambda want: (-want[2], -want[1])):
        fitting = [
            have
            for have, found in left
            if labels.items() <= found.items()
            and all(h >= w for h, w in zip(have, want, strict=True))
        ]
        if not fitting:
            return False
        node = min(fitting, key=lambda have: (have[2], -have[1]))
        for at, need in enumerate(want):
            node[at] -= need
    return True


def copies(pod, nodes):
    """Return how many pods there are on these machines, where NVIDIA's discovery labels those with cards."""
    if pod.copies:
        return pod.copies
    terms = pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]  # fmt: skip
    found = [node.get("labels", {}) | ({PRESENT: "true"} if node["gpus"] else {}) for node in nodes]
    return sum(any(matches(term, labels) for term in terms) for labels in found)


def wants_of(name):
    nodes = EXPECTED[name]["nodes"]
    return [asked(pod) for pod in lasting(rendered.preset(name)) for _ in range(copies(pod, nodes))]


def test_every_file_is_expected():
    assert set(PRESETS) == FILES


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_becomes_what_stands_beside_it(name):
    said, found = EXPECTED[name], lasting(rendered.preset(name))
    kinds = {*said["pods"], *(pod.kind for pod in found if pod.kind != "prefetch")}
    counted = {
        kind: sum(copies(pod, said["nodes"]) for pod in found if pod.kind == kind) for kind in kinds
    }
    assert counted == said["pods"]
    assert sum(pod.copies * rendered.cards_of(pod) for pod in found) == said["cards"]
    assert sum(node["gpus"] for node in said["nodes"]) == said["cards"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_head_of_a_preset_says_its_pods_and_cards(name):
    text = (rendered.CHART / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    head = " ".join(line.removeprefix("# ") for line in text.partition("config:")[0].splitlines())
    said, count = EXPECTED[name], sum(EXPECTED[name]["pods"].values())
    assert f"{count} pods, {said['cards']} card{'' if said['cards'] == 1 else 's'}." in head


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_finds_room_on_its_machines(name):
    assert placed(EXPECTED[name]["nodes"], wants_of(name))


@pytest.mark.parametrize("name", [name for name in PRESETS if EXPECTED[name]["cards"]])
def test_a_preset_finds_none_with_a_card_less(name):
    nodes = EXPECTED[name]["nodes"]
    for at, node in enumerate(nodes):
        fewer = [*nodes[:at], {**node, "gpus": node["gpus"] - 1}, *nodes[at + 1 :]]
        assert not placed(fewer, wants_of(name))


@pytest.mark.parametrize("name", [name for name in PRESETS if len(EXPECTED[name]["nodes"]) > 1])
def test_a_pod_cannot_land_on_a_machine_whose_cards_are_not_for_it(name):
    # Kubernetes counts cards and knows no kinds: unlike cards are told apart by labels, or a large model lands on a small card.
    nodes = EXPECTED[name]["nodes"]
    groups = [pod for pod in lasting(rendered.preset(name)) if pod.kind == "worker"]
    for pod in groups:
        labels = pod.spec.get("nodeSelector", {}).items()
        kinds = {node["card"] for node in nodes if labels <= node.get("labels", {}).items()}
        assert len(kinds) == 1, f"{pod.name} may land on {kinds}"


@pytest.mark.parametrize("name", PRESETS)
def test_the_planner_says_that_every_model_fits_its_cards(name):
    tree = ConsiliumConfig.model_validate(rendered.values_of(name)["config"])
    said = tree.model_dump(include={"model", "topology", "engine", "executors"})
    nodes = EXPECTED[name]["nodes"]
    have = [cards.card(node["card"]) for node in nodes for _ in range(node["gpus"])]
    memory = None if have else int(sum(amount(node["memory"]) for node in nodes))
    engines = question_file.engines(said, have, memory, PINNED)
    for engine in engines:
        assert engine.plan.verdict == "fits", f"{engine.name}: {engine.plan.binding}"
        assert engine.plan.concurrency >= 2, f"{engine.name}: a second caller would wait"
    assert engines[-1].cards[1] == len(have), "a card is left over"


def facts(name):
    """Return what an engine would read in a model's folder, as the planner knows it without one."""
    known = models.find(name)
    return ModelFacts(
        name, "", known.shape, weights=known.weights or "bf16", weight_bytes=known.file_bytes
    )


def machine(name):
    """Return the cluster as Ray sees it: a node for each pod of a group, with the cards of the machine that it lands on."""
    nodes = []
    for pod in lasting(rendered.preset(name)):
        if pod.kind != "worker":
            continue
        labels = pod.spec.get("nodeSelector", {}).items()
        box = next(
            node for node in EXPECTED[name]["nodes"] if labels <= node.get("labels", {}).items()
        )
        limits = next(one for one in pod.containers if one["name"] == "ray-worker")["resources"][
            "limits"
        ]
        count = rendered.cards_of(pod)
        found = tuple(Gpu(box["card"], cards.card(box["card"]).total_bytes) for _ in range(count))
        build = "gpu" if count else "cpu"
        nodes += [
            Node(
                address=f"10.0.0.{len(nodes) + copy}", gpus=found, cpus=amount(limits["cpu"]), memory_bytes=int(amount(limits["memory"])),
                pools=frozenset({pod.labels["consilium/pool"]}), builds=((build, ""),),
            )
            for copy in range(pod.copies)
        ]  # fmt: skip
    builds = sorted({build for node in nodes for build in node.builds})
    return Machine(nodes=tuple(nodes), builds=tuple(builds))


@pytest.mark.parametrize("name", PRESETS)
def test_the_engines_find_their_cards_in_the_pods_and_take_all_of_them(name):
    view = EngineView.model_validate(rendered.values_of(name)["config"])
    named = {view.model, *(executor.model for executor in view.executors.values())}
    specs = topology.plan(view, machine(name), {model: facts(model) for model in named})
    taken = sum(spec.replicas * bundle.get("GPU", 0) for spec in specs for bundle in spec.bundles)
    assert taken == EXPECTED[name]["cards"]
    pools = {"core": view.topology.pool, **{key: one.pool for key, one in view.executors.items()}}
    for spec in specs:
        assert {key for bundle in spec.bundles for key in bundle if key.startswith(POOL)} == ({f"{POOL}{pools[spec.name]}"} if pools[spec.name] else set())  # fmt: skip

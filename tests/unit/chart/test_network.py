"""The policies let through what helm/consilium/README.md says in its table, and nothing else."""

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.reach import Network, Place, matches, network, places

NETWORK_PORTS = (53, 80, 443, 6379, 8000, 8080, 8265, 9000, 9400, 10001, 30000, 44217, 44227)
OWN = ("head", "worker", "gateway", "room", "lora_router", "redis", "prefetch", "test", "rollback")
ROOM = {"services": {"room": {"module": "m"}, "other_room": {"module": "m"}}}
APART = ROOM | {"gateway": {"worker": ""}}
"""A gateway in pods of its own, so that it has a row and a column of its own."""
STRANGERS = {
    "operator": Place("operator", {"app": "kuberay"}, "kuberay-system", {"kubernetes.io/metadata.name": "kuberay-system"}),
    "monitoring": Place("monitoring", {"app": "prometheus"}, "monitoring", {"kubernetes.io/metadata.name": "monitoring"}),
    "caller": Place("caller", {"app": "n8n"}, "agents", {"kubernetes.io/metadata.name": "agents"}),
    "dns": Place("dns", {"k8s-app": "kube-dns"}, "kube-system", {"kubernetes.io/metadata.name": "kube-system"}),
    "internet": Place("internet", address="93.184.216.34"),
}  # fmt: skip


def table():
    """Return (row, column) -> text of the table in the README; empty cells are nobody's business."""
    lines = (rendered.CHART / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| from |"))
    columns = cells(lines[start])[1:]
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        row, *texts = cells(line)
        found |= {(row, column): text for column, text in zip(columns, texts, strict=True) if text}
    return found


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def told(net, source, target):
    """Return the ports that are open, as the table says them."""
    protocol = "UDP" if target.name == "dns" else "TCP"
    wanted = [port for port in NETWORK_PORTS if net.allows(source, target, port, protocol)]
    if len(wanted) == len(NETWORK_PORTS):
        return "all"
    return " ".join(map(str, wanted)) or "-"


def reckoned(render, *, blocks_are_pods=True):
    net = network(render, blocks_are_pods=blocks_are_pods)
    here = places(render) | STRANGERS
    return {
        (row, column): told(net, here[row], here[column])
        for row in (*OWN, "operator", "monitoring", "caller")
        for column in (*OWN, "dns", "internet")
        if row in OWN or column in OWN
    }


@pytest.mark.parametrize("blocks_are_pods", [False, True])
def test_the_table_is_what_the_policies_let_through(blocks_are_pods):
    found = reckoned(rendered.render(APART), blocks_are_pods=blocks_are_pods)
    if blocks_are_pods:  # then the internet is every pod of others as well: not what the table asks
        found = {key: text for key, text in found.items() if key[1] != "dns"}
        assert found == {key: text for key, text in table().items() if key[1] != "dns"}
    else:
        assert found == table()


def test_rooms_reach_each_other():
    net, here = network(rendered.render(APART)), places(rendered.render(APART))
    for one, other in (("room", "other_room"), ("other_room", "room")):
        assert told(net, here[one], here[other]) == "8080 9000"


def test_a_gateway_inside_the_pods_of_workers_has_both_rows():
    apart = reckoned(rendered.render(APART))
    render = rendered.render(ROOM)
    net, here = network(render), places(render) | STRANGERS
    assert "gateway" not in here
    for row in ("head", "worker", "room", "test", "operator", "monitoring", "caller"):
        both = {apart[row, "gateway"], apart[row, "worker"]}
        assert told(net, here[row], here["worker"]) == max(both, key=len), row


def test_workers_without_a_gateway_take_no_callers():
    workers = [rendered.WORKERS | {"name": name} for name in ("main", "more")]
    render = rendered.render({"workers": workers})
    net = network(render)
    for pod in rendered.pods(render):
        place = Place(pod.name, pod.labels, render.namespace)
        is_face = pod.labels.get("consilium/gateway") == "true"
        assert net.allows(STRANGERS["caller"], place, 9000) == is_face, pod.name


def test_without_the_internet_that_column_is_empty():
    found = reckoned(rendered.render(APART | {"networkPolicy": {"internet": False}}))
    for row in OWN:
        assert found[row, "internet"] == "-"
        if row not in {"redis", "prefetch"}:
            assert found[row, "gateway"] == table()[row, "gateway"]
    assert {found[row, "dns"] for row in OWN} == {"53"}


def test_what_a_rented_machine_tells_about_itself_is_out_of_reach():
    for address in ("169.254.169.254", "fd00:ec2::254"):
        net, here = network(rendered.render(APART)), places(rendered.render(APART))
        for row in OWN:
            assert told(net, here[row], Place("machine", address=address)) == "-", row


def test_the_cache_of_names_on_the_node_is_asked_for_names_only():
    net, here = network(rendered.render(APART)), places(rendered.render(APART))
    cache = Place("cache", address="169.254.20.10")
    for row in OWN:
        found = [port for port in NETWORK_PORTS if net.allows(here[row], cache, port, "UDP")]
        assert found == [53], row


@pytest.mark.parametrize("port", [6379, 16380])
def test_a_redis_of_ones_own_is_reached_wherever_it_is(port):
    external = {"existingSecret": "theirs", "port": port}
    render = rendered.render(
        APART
        | {
            "redis": {"builtin": False, "external": external},
            "networkPolicy": {"internet": False},
        }
    )
    net, here = network(render, blocks_are_pods=False), places(render)
    elsewhere = [
        Place("box", address="192.168.1.9"),
        Place("pod", {"app": "redis"}, "data", {"kubernetes.io/metadata.name": "data"}),
    ]
    for target in elsewhere:
        for row in ("head", "worker", "gateway", "room", "rollback"):
            assert net.allows(here[row], target, port), row
            assert not net.allows(here[row], target, port + 1), row
        for row in ("prefetch", "test"):
            assert not net.allows(here[row], target, port), row


def egress(**said):
    """Return a render without the internet, with rules of the owner's."""
    policy = {"internet": False, "egress": said}
    external = {"builtin": False, "external": {"existingSecret": "theirs"}}
    return rendered.render(APART | {"redis": external, "networkPolicy": policy})


def reaching(render, target, port, protocol="TCP"):
    """Return which pods reach a place, where blocks of addresses are no pods."""
    net, here = network(render, blocks_are_pods=False), places(render)
    return {row for row in here if net.allows(here[row], target, port, protocol)}


RAY = {"head", "worker", "gateway"}
SPACE = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agents"}}}]
"""Where the caller of the table is."""


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("hub", RAY | {"prefetch", "lora_router"}),
        ("executors", RAY),
        ("rooms", {"room", "other_room", "lora_router"}),
    ],
)
def test_what_the_owner_names_is_reached_by_those_that_it_is_meant_for(name, who):
    target = STRANGERS["caller"]
    assert not reaching(egress(), target, 11434)
    render = egress(**{name: [{"to": SPACE, "ports": [{"port": 11434}]}]})
    found = reaching(render, target, 11434)
    assert found - {"embedding"} == who
    assert not reaching(render, target, 11435)
    assert not reaching(render, STRANGERS["internet"], 11434)


def test_a_redis_of_ones_own_is_only_where_it_is_said_to_be():
    render = egress(redis=[{"ipBlock": {"cidr": "192.168.1.9/32"}}])
    asking = RAY | {"room", "other_room", "lora_router", "rollback"}
    assert reaching(render, Place("box", address="192.168.1.9"), 6379) - {"embedding"} == asking
    assert not reaching(render, Place("other", address="192.168.1.8"), 6379)
    assert not reaching(render, STRANGERS["caller"], 6379)


def test_names_are_asked_of_whom_the_owner_says():
    space = {"kubernetes.io/metadata.name": "openshift-dns"}
    render = egress(dns={"to": [{"namespaceSelector": {"matchLabels": space}}], "ports": [5353]})
    dns = Place("dns", {"app": "dns"}, "openshift-dns", space)
    for protocol in ("UDP", "TCP"):
        assert reaching(render, dns, 5353, protocol) == set(places(render))
        assert not reaching(render, STRANGERS["dns"], 53, protocol)


@pytest.mark.parametrize(
    "said",
    [
        {"hub": [{}]},
        {"executors": {"to": SPACE}},
        {"rooms": [None]},
        {"redis": ["192.168.1.9"]},
        {"dns": {"to": []}},
        {"dns": {"ports": ["dns"]}},
        {"names": []},
    ],
)
def test_a_rule_that_says_nothing_or_is_mistyped_is_refused(said):
    with pytest.raises(Exception, match="networkPolicy"):
        egress(**said)


def test_callers_are_those_that_are_named():
    named = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agents"}}}]
    render = rendered.render(APART | {"networkPolicy": {"callers": named}})
    net, here = network(render), places(render) | STRANGERS
    assert told(net, here["caller"], here["gateway"]) == "8000 9000"
    assert told(net, here["operator"], here["gateway"]) == "-"
    assert told(net, here["internet"], here["gateway"]) == "-"
    for row in ("room", "test"):
        assert told(net, here[row], here["gateway"]) == "8000 9000", row


def test_the_namespaces_are_settings():
    said = {"monitoringNamespace": {"team": "watch"}, "operatorNamespace": {"team": "ray"}}
    values = APART | {"networkPolicy": {name: said[name] | {"kubernetes.io/metadata.name": None} for name in said}}  # fmt: skip
    render = rendered.render(values)
    net, here = network(render), places(render)
    for team, target, port in (("watch", "room", 9400), ("ray", "head", 8265)):
        asking = Place(team, {}, "elsewhere", {"team": team})
        assert net.allows(asking, here[target], port)
        assert not net.allows(STRANGERS["caller"], here[target], port)


def test_off_means_off():
    assert not rendered.of_kind(
        rendered.render({"networkPolicy": {"enabled": False}}), "NetworkPolicy"
    )


def test_every_pod_of_every_preset_is_under_the_policies(every):
    net = network(every)
    for pod in rendered.pods(every):
        place = Place(pod.name, pod.labels, every.namespace)
        assert net.selecting(place, "Ingress"), pod.name
        assert net.selecting(place, "Egress"), pod.name


@pytest.mark.parametrize(
    ("selector", "labels", "taken"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ],
)  # fmt: skip
def test_selectors_as_kubernetes_reads_them(selector, labels, taken):
    assert matches(selector, labels) is taken


HERE = Place("here", {"app": "x"}, "lab", {"name": "lab"}, ports={"web": 8000})
THERE = Place("there", {"app": "y"}, "far", {"name": "far"})
OUTSIDE = Place("outside", address="192.0.2.1")


@pytest.mark.parametrize(
    ("spec", "source", "port", "allowed"),
    [
        (None, OUTSIDE, 1, True),
        ({"podSelector": {"matchLabels": {"app": "z"}}}, OUTSIDE, 1, True),
        ({"podSelector": {}}, THERE, 1, False),
        ({"podSelector": {}, "policyTypes": ["Egress"]}, THERE, 1, True),
        ({"podSelector": {}, "ingress": [{}]}, OUTSIDE, 1, True),
        ({"podSelector": {}, "ingress": [{"from": []}]}, THERE, 1, True),
        ({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}, THERE, 1, False),
        ({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}, OUTSIDE, 1, False),
        ({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}, THERE, 1, True),
        ({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}, OUTSIDE, 1, False),
        ({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "z"}}}]}]}, THERE, 1, False),
        ({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}, OUTSIDE, 1, True),
        ({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25"]}}]}]}, OUTSIDE, 1, False),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}, THERE, 8000, True),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]}, THERE, 8001, False),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": 10, "endPort": 20}]}]}, THERE, 15, True),
        ({"podSelector": {}, "ingress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}, THERE, 53, False),
        ({"podSelector": {}, "ingress": [{"ports": [{"protocol": "TCP"}]}]}, THERE, 53, True),
    ],
)  # fmt: skip
def test_policies_as_kubernetes_reads_them(spec, source, port, allowed):
    policies = () if spec is None else ({"spec": spec},)
    assert Network(policies, "lab").allows(source, HERE, port) is allowed


def test_the_namespaces_are_those_that_the_prerequisites_make():
    text = (rendered.CHART.parents[1] / "k8s" / "prerequisites" / "install.sh").read_text("utf-8")
    for name in ("operator", "monitoring"):
        space = STRANGERS[name].namespace
        assert f"namespace {space}" in text, name
        assert STRANGERS[name].namespace_labels == {"kubernetes.io/metadata.name": space}

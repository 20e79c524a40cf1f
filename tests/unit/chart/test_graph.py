"""Everything that an object names is there: pods behind Services, ports behind names, config maps, secrets, claims, accounts, groups."""

import pytest
import yaml
from tests.unit.chart import rendered
from tests.unit.chart.reach import matches
from tests.unit.chart.rendered import of_kind, pods

from consilium.gpu_metrics.boards import JOB

FULL = {
    "services": {
        "greeter": {"module": "tests.greeter.app", "storage": {"size": "1Gi"}},
        "twice": {"module": "m", "replicas": 2},
        "everywhere": {"module": "m", "kind": "DaemonSet"},
    },
    "gateway": {"worker": "", "pods": 2},
    "ingress": {"enabled": True, "host": "home.lan", "tlsSecret": "certificate"},
    "routes": {"enabled": True, "parents": [{"name": "public"}]},
    "monitoring": {
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "secrets": {"environmentSecret": "hub"},
    "configFiles": {"poet.md": "You rhyme."},
}
"""Everything on that can be on together."""
CACHED = {
    "models": {
        "cache": {"enabled": True},
        "storage": "nfs",
        "accessMode": "ReadWriteMany",
        "nfs": {"server": "box", "path": "/models"},
    }
}
OF_THE_OWNER = {
    "secrets.existingSecret",
    "secrets.environmentSecret",
    "redis.external.existingSecret",
    "ingress.tlsSecret",
    "models.existingClaim",
    "global.imagePullSecrets",
}
"""Values that name what the owner has made; the README says which."""
CASES = {
    "full": FULL,
    "cached": CACHED,
    "theirs": {
        "secrets": {"existingSecret": "mine", "environmentSecret": "hub"},
        "redis": {"builtin": False, "external": {"existingSecret": "theirs"}},
        "models": {"storage": "existing", "existingClaim": "disk"},
    },
    "folder": {"models": {"storage": "hostPath"}},
}
BROUGHT = {"mine", "hub", "theirs", "certificate", "disk"}.union(
    *(
        row.get("needs", {}).get(what, ())
        for row in rendered.EXPECTED.values()
        for what in ("secrets", "claims")
    )
)
"""What the cases above, and the presets by presets/expected.yaml, find in the cluster."""


@pytest.fixture(params=[*CASES, *("preset " + name for name in ("default", *rendered.PRESETS))])
def whole(request):
    name = request.param
    if name.startswith("preset "):
        return rendered.preset(name.removeprefix("preset "))
    return rendered.render(CASES[name])


def selected(render, selector):
    return [one for one in pods(render) if matches({"matchLabels": selector}, one.labels)]


def names(render, kind):
    return {one["metadata"]["name"] for one in of_kind(render, kind)}


def test_services_find_pods_with_the_ports_that_they_name(whole):
    for service in of_kind(whole, "Service"):
        found = selected(whole, service["spec"]["selector"])
        assert found, service["metadata"]["name"]
        for pod in found:
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in pod.ports(), (service["metadata"]["name"], pod.name)


def test_every_port_of_a_room_and_of_the_gateway_is_behind_a_service(whole):
    shown = {
        (pod.kind, port["targetPort"])
        for service in of_kind(whole, "Service")
        for pod in selected(whole, service["spec"]["selector"])
        for port in service["spec"]["ports"]
    }
    for pod in pods(whole):
        if pod.owner.startswith(("Deployment/", "StatefulSet/", "DaemonSet/")):
            for name in pod.ports():
                assert (pod.kind, name) in shown


def test_workloads_select_their_own_pods_and_no_others(whole):
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for one in of_kind(whole, kind):
            owner = f"{kind}/{one['metadata']['name']}"
            found = selected(whole, one["spec"]["selector"]["matchLabels"])
            assert [pod.owner for pod in found] == [owner]


def test_a_stateful_sets_service_is_there(whole):
    for one in of_kind(whole, "StatefulSet"):
        assert one["spec"]["serviceName"] in names(whole, "Service")


def test_probes_ask_ports_of_their_own_container(whole):
    for pod in pods(whole):
        for container in pod.containers:
            own = {port["name"] for port in container.get("ports", ())}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for how in ("httpGet", "tcpSocket", "grpc"):
                    if how in probe:
                        assert probe[how]["port"] in own, (pod.name, container["name"], kind)


def test_what_serves_has_probes(whole):
    for pod in pods(whole):
        if pod.owner.startswith("RayService/") or pod.kind in {"prefetch", "test", "rollback"}:
            continue
        for container in pod.spec["containers"]:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()


def test_names_of_ports_are_short_and_numbers_are_not_twice(whole):
    for pod in pods(whole):
        declared = [port for one in pod.spec["containers"] for port in one.get("ports", ())]
        numbers = [port["containerPort"] for port in declared]
        assert len(set(numbers)) == len(numbers), pod.name
        assert all(len(port["name"]) <= 15 for port in declared)


def test_policies_select_pods_and_name_ports_that_these_have(whole):
    for policy in of_kind(whole, "NetworkPolicy"):
        spec = policy["spec"]
        found = [one for one in pods(whole) if matches(spec["podSelector"], one.labels)]
        assert found, policy["metadata"]["name"]
        declared = {number for pod in found for number in pod.ports().values()}
        for rule in spec.get("ingress", ()):
            for port in rule.get("ports", ()):
                assert port["port"] in declared, (policy["metadata"]["name"], port)


def test_peers_of_policies_in_the_release_are_pods_that_there_are(whole):
    for policy in of_kind(whole, "NetworkPolicy"):
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                for peer in rule.get(side, ()):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        assert any(matches(peer["podSelector"], one.labels) for one in pods(whole))


def test_what_pods_mount_and_read_is_there(whole):
    claims = names(whole, "PersistentVolumeClaim") | BROUGHT
    secrets = names(whole, "Secret") | BROUGHT
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(whole, "ConfigMap")}
    made = {one["metadata"]["name"]: one["data"] for one in of_kind(whole, "Secret")}
    for pod in pods(whole):
        for volume in pod.spec.get("volumes", ()):
            if "configMap" in volume and not volume["configMap"].get("optional"):
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                name = volume["secret"]["secretName"]
                assert name in secrets
                wanted = {item["key"] for item in volume["secret"].get("items", ())}
                assert name not in made or wanted <= made[name].keys()
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in pod.containers:
            for row in container.get("env", ()):
                if "valueFrom" in row:
                    ref = row["valueFrom"]["secretKeyRef"]
                    assert ref["name"] in secrets
                    assert ref["name"] not in made or ref["key"] in made[ref["name"]]
            for row in container.get("envFrom", ()):
                assert row["secretRef"]["name"] in secrets
        assert "serviceAccountName" not in pod.spec
        assert pod.spec["automountServiceAccountToken"] is False


def test_mounts_are_of_volumes_that_the_pod_has_and_each_volume_is_used(whole):
    for pod in pods(whole):
        volumes = [one["name"] for one in pod.spec.get("volumes", ())]
        templates = {"data"} if pod.owner.startswith("StatefulSet/") else set()
        assert len(set(volumes)) == len(volumes)
        used = set()
        for container in pod.containers:
            mounts = container.get("volumeMounts", ())
            paths = [one["mountPath"] for one in mounts]
            assert len(set(paths)) == len(paths), (pod.name, container["name"])
            used |= {one["name"] for one in mounts}
        assert used == set(volumes) | templates, pod.name


def test_files_in_a_mount_by_name_are_in_the_map(whole):
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(whole, "ConfigMap")}
    for pod in pods(whole):
        sources = {one["name"]: one for one in pod.spec.get("volumes", ())}
        for container in pod.containers:
            for mount in container.get("volumeMounts", ()):
                if "subPath" in mount:
                    assert mount["subPath"] in maps[sources[mount["name"]]["configMap"]["name"]]


def test_claims_and_volumes_name_each_other(whole):
    volumes = {one["metadata"]["name"]: one["spec"] for one in of_kind(whole, "PersistentVolume")}
    for claim in of_kind(whole, "PersistentVolumeClaim"):
        if "volumeName" in claim["spec"]:
            volume = volumes.pop(claim["spec"]["volumeName"])
            assert volume["claimRef"] == {"namespace": whole.namespace, "name": claim["metadata"]["name"]}  # fmt: skip
            assert volume["accessModes"] == claim["spec"]["accessModes"]
            assert volume["capacity"]["storage"] == claim["spec"]["resources"]["requests"]["storage"]  # fmt: skip
            assert volume["storageClassName"] == claim["spec"]["storageClassName"] == ""
    assert not volumes


def test_what_cannot_be_made_again_outlives_the_release(whole):
    for kind in ("PersistentVolumeClaim", "PersistentVolume", "Secret"):
        for one in of_kind(whole, kind):
            assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for one in of_kind(whole, "StatefulSet"):
        assert set(one["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


def test_a_claim_of_one_node_is_used_where_engines_are(whole):
    # Any other pod that mounts it would bind the disk to its own node, or wait for it.
    for pod in pods(whole):
        claims = [one["persistentVolumeClaim"]["claimName"] for one in pod.spec.get("volumes", ()) if "persistentVolumeClaim" in one]  # fmt: skip
        shared = [name for name in claims if name.endswith("-models") or name in BROUGHT]
        if not shared or pod.kind == "worker":
            continue
        assert pod.kind == "prefetch"
        (claim,) = [one for one in of_kind(whole, "PersistentVolumeClaim") if one["metadata"]["name"] == shared[0]] or [None]  # fmt: skip
        if claim is None or claim["spec"]["accessModes"] == ["ReadWriteOnce"]:
            (term,) = pod.spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]  # fmt: skip
            assert {one.kind for one in selected(whole, term["labelSelector"]["matchLabels"])} == {"worker"}  # fmt: skip


def test_every_variable_of_a_container_is_said_once(whole):
    # Applied by the server, which Helm 4 does, a name that is there twice is refused.
    for pod in pods(whole):
        for container in pod.containers:
            said = [row["name"] for row in container.get("env", ())]
            assert len(set(said)) == len(said), (pod.name, container["name"])


def test_consilium_yaml_is_mounted_so_that_a_change_of_it_arrives(whole):
    # A file that is mounted by itself (subPath) stays as it was when the pod started.
    for pod in pods(whole):
        for container in pod.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] == "config" and pod.kind != "redis":
                    assert "subPath" not in mount
                    assert mount["mountPath"] == "/etc/consilium"


def test_ingress_and_routes_lead_to_ports_of_the_service(whole):
    ports = {one["metadata"]["name"]: {port[how] for port in one["spec"]["ports"] for how in ("name", "port")} for one in of_kind(whole, "Service")}  # fmt: skip
    for one in of_kind(whole, "Ingress"):
        for rule in one["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                to = path["backend"]["service"]
                assert to["port"]["name"] in ports[to["name"]]
    for kind in ("HTTPRoute", "GRPCRoute"):
        for one in of_kind(whole, kind):
            for rule in one["spec"]["rules"]:
                for to in rule["backendRefs"]:
                    assert to["port"] in ports[to["name"]]


def test_a_monitor_reads_the_page_of_every_pod_that_has_one():
    render = rendered.render(FULL)
    spec = render.one("PodMonitor")["spec"]
    found = selected(render, spec["selector"]["matchLabels"])
    end, *of_head = spec["podMetricsEndpoints"]
    assert end["honorLabels"], "a page names pods of others"
    job, pending = end["relabelings"]
    assert job == {"targetLabel": "job", "replacement": JOB}
    assert (pending["regex"], pending["action"]) == ("Pending", "drop"), "its init copies a model"
    assert pending["sourceLabels"] == ["__meta_kubernetes_pod_phase"]
    (head,) = [pod for pod in found if pod.kind == "head"]
    for one in of_head:
        assert one["port"] in head.ports()
        assert not [pod for pod in found if pod is not head and one["port"] in pod.ports()]
        assert one["relabelings"][0]["replacement"] != JOB, "its absence is nobody's alert"
    with_page = {pod.name for pod in found if end["port"] in pod.ports()}
    assert with_page == {pod.name for pod in pods(render)} - {
        "redis",
        "prefetch",
        "test",
        "rollback",
    }


def test_the_gateway_finds_the_page_of_every_pod_that_has_one():
    render = rendered.render(FULL)
    config = next(one for one in of_kind(render, "ConfigMap") if "consilium.yaml" in one["data"])
    address = yaml.safe_load(config["data"]["consilium.yaml"])["services"]["gateway"]["metrics"]
    name, _, port = address.removeprefix("dns:///").partition(":")
    spec = render.one("Service", name)["spec"]
    assert spec["clusterIP"] == "None"  # the name stands for every address, not for one of them
    assert spec["publishNotReadyAddresses"]
    found = selected(render, spec["selector"])
    assert {pod.ports()["page"] for pod in found} == {int(port)}
    assert {pod.name for pod in found} == {
        pod.name for pod in pods(render) if "page" in pod.ports()
    }


def test_no_budget_for_one_pod_and_none_that_lets_nobody_go(whole):
    for one in of_kind(whole, "PodDisruptionBudget"):
        spec = one["spec"]
        found = selected(whole, spec["selector"]["matchLabels"])
        copies = sum(pod.copies for pod in found)
        assert copies > 1
        if any(pod.owner.startswith("RayService/") for pod in found):
            # Kubernetes cannot ask a RayCluster how many it should have: with maxUnavailable it lets none go.
            assert spec.keys() == {"minAvailable", "selector"}
            assert spec["minAvailable"] == copies - 1
        else:
            assert spec["maxUnavailable"] == 1


def test_two_pods_of_a_room_or_of_the_gateway_have_a_budget():
    budgets = of_kind(rendered.render(FULL), "PodDisruptionBudget")
    assert {one["metadata"]["name"] for one in budgets} == {"home-consilium-gateway", "home-consilium-twice"}  # fmt: skip


def test_another_template_is_another_job():
    # A Job cannot be edited: the same name with another template ends an upgrade.
    def made(values):
        (job,) = [one for one in of_kind(rendered.render(values), "Job") if "-fetch-" in one["metadata"]["name"]]  # fmt: skip
        return job["metadata"]["name"], repr(job["spec"])

    name, spec = made({})
    others = [
        {"images": {"services": {"tag": "9.9.9"}}},
        {"global": {"imageRegistry": "registry.lan"}},
        {"global": {"imagePullSecrets": ["pull"]}},
        {"models": {"prefetch": {"resources": {"limits": {"cpu": "3"}}}}},
        {"models": {"storage": "existing", "existingClaim": "disk"}},
        {"models": {"accessMode": "ReadWriteMany"}},
        {"secrets": {"existingSecret": "mine"}},
        {"secrets": {"environmentSecret": "hub"}},
        {"redis": {"builtin": False, "external": {"existingSecret": "theirs"}}},
        {"extraRooms": "a.b:ROOM"},
        {"podLabels": {"team": "home"}},
        {"podAnnotations": {"team": "home"}},
        {"config": {"model": "tiny"}},
    ]
    for values in others:
        other_name, other_spec = made(values)
        assert other_name != name, values
        assert other_spec != spec or "model" in values.get("config", {}), values
    for values in ({"drainSeconds": 5}, {"config": {"gateway": {"max_n": 2}}}, {"head": {"nodeSelector": {"a": "b"}}}):  # fmt: skip
        assert made(values) == (name, spec)


def test_the_readme_says_what_its_owner_brings():
    text = (rendered.CHART / "README.md").read_text(encoding="utf-8")
    for key in OF_THE_OWNER:
        assert key in text, key
    made = rendered.render().one("Secret")["data"]
    for key in made:
        assert f"`{key}`" in text, key

"""What KubeRay 1.6.2 asks of a RayService (its validation.go, and what its webhooks do not say), held without a cluster."""

import re

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.told_in_pods import groups, own_container

LONGEST = 47
DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
LONG_RELEASES = ("r" * 53, "a" * 39 + "-" + "b" * 13, "consilium-" + "x" * 43, "x", "c" * 40)
GATED = {"tlsOptions", "networkPolicy", "historyServerOptions", "gcsFaultToleranceOptions"}
"""Alpha, or a thing that our own Redis is not meant for; where the gate is off the operator refuses them."""
NEVER_TOLD = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}


def cluster(render):
    return render.rayservice["rayClusterConfig"]


def every_group(render):
    return [cluster(render)["headGroupSpec"], *groups(render)]


@pytest.mark.parametrize("release", LONG_RELEASES)
def test_names_are_short_enough_for_what_hangs_on_them(release):
    render = rendered.render({"services": {"gpu_metrics": {"module": "m"}}}, release=release)
    name = render.one("RayService")["metadata"]["name"]
    assert len(name) <= LONGEST
    assert DNS_1035.match(name)
    for one in render.objects:
        found = one["metadata"]["name"]
        assert len(found) <= 63, found
        if one["kind"] == "Service":
            assert DNS_1035.match(found)
        if one["kind"] == "StatefulSet":
            assert len(f"{found}-0123456789") <= 63, "a label of its pods is so long"


@pytest.mark.parametrize("release", ["1box", "my.box"])
def test_a_release_that_no_service_can_be_named_after_is_refused_in_a_sentence(release):
    with pytest.raises(Exception, match="fullnameOverride: Services cannot be named after"):
        rendered.render(release=release)
    assert rendered.render({"fullnameOverride": "box"}, release=release).one("RayService")


def test_the_strategy_needs_no_second_cluster(every):
    assert every.rayservice["upgradeStrategy"] == {"type": "None"}
    assert cluster(every)["enableInTreeAutoscaling"] is False


def test_every_group_says_how_many_and_what_the_operator_would_write_into_it(every):
    # Unsaid, they are the operator's, and Helm 4's next upgrade ends in a conflict over the list of groups.
    for group in groups(every):
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] >= 0
        assert group["numOfHosts"] == 1
        assert group["scaleStrategy"] == {}
    names = [group["groupName"] for group in groups(every)]
    assert len(set(names)) == len(names)
    assert all(DNS_1035.match(name) for name in names)


def test_resources_and_labels_are_said_in_one_way_only(every):
    for group in every_group(every):
        assert "resources" not in group
        assert "labels" not in group
        assert "labels" not in group["rayStartParams"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_the_token_is_on_with_a_version_of_ray_that_knows_it(every):
    assert tuple(map(int, cluster(every)["rayVersion"].split("."))) >= (2, 52, 0)
    auth = cluster(every)["authOptions"]
    assert auth["mode"] == "token"
    assert auth.keys() == {"mode", "secretName"}, "enableK8sTokenAuth is refused for a RayService"
    (secret,) = rendered.of_kind(every, "Secret")
    assert auth["secretName"] == secret["metadata"]["name"]
    assert "auth_token" in secret["data"]


def test_the_version_of_ray_is_the_one_that_is_installed(every):
    from importlib.metadata import version

    assert cluster(every)["rayVersion"] == version("ray")


def test_gated_fields_are_absent(every):
    assert not GATED & (cluster(every).keys() | every.rayservice.keys())
    assert "headService" not in cluster(every)["headGroupSpec"]
    annotations = every.one("RayService")["metadata"].get("annotations", {})
    assert not [name for name in annotations if name.startswith("ray.io/")]
    for group in groups(every):
        assert not {"suspend", "idleTimeoutSeconds"} & group.keys()


def test_variables_that_turn_other_things_on_are_absent(every):
    for pod in rendered.pods(every):
        for container in pod.containers:
            assert not NEVER_TOLD & {row["name"] for row in container.get("env", ())}


def test_rays_container_is_the_first_and_declares_what_is_asked_for(every):
    for pod in rendered.pods(every):
        if not pod.owner.startswith("RayService/"):
            continue
        first = own_container(pod)
        assert first["name"] == ("ray-head" if pod.kind == "head" else "ray-worker")
        assert "command" not in first, "the operator writes ray start there"
        ports = pod.ports()
        assert ports["serve"] == every.serve_config["http_options"]["port"]
        assert ports["metrics"] == 8080
        assert ports["page"] == 9400
        if pod.kind == "head":
            assert ports | {"gcs-server": 6379, "dashboard": 8265, "client": 10001} == ports
        assert "livenessProbe" not in first, "it is the operator's"
        # The operator's takes callers away after one try that a busy pod made slow. Where there are none it may stay.
        if pod.labels.get("consilium/gateway") == "true":
            probe = first["readinessProbe"]
            assert probe["httpGet"] == {"path": "/-/healthz", "port": "serve"}
            assert probe["failureThreshold"] > 1
            assert probe["timeoutSeconds"] >= 5
        else:
            assert "readinessProbe" not in first


def test_only_the_head_listens_for_the_operator_and_nobody_reaches_it_from_outside(every):
    head = cluster(every)["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["dashboard-host"] == "0.0.0.0"
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    shown = {port["targetPort"] for one in rendered.of_kind(every, "Service") for port in one["spec"]["ports"]}  # fmt: skip
    assert not {"dashboard", "client", "gcs-server", 8265, 10001} & shown


def test_shared_memory_is_mounted_so_that_the_operator_adds_none(every):
    for pod in rendered.pods(every):
        if pod.owner.startswith("RayService/"):
            volumes = {one["name"]: one for one in pod.spec["volumes"]}
            assert volumes["shared-mem"]["emptyDir"]["medium"] == "Memory"
            mounts = {one["mountPath"]: one["name"] for one in own_container(pod)["volumeMounts"]}
            assert mounts["/dev/shm"] == "shared-mem"

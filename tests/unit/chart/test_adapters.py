"""The pod that keeps adapters: one, with a claim that stays, reached by engines and gateways, and refused where no pod could find what is said."""

from pathlib import Path

import pytest
from helm_python import HelmError
from tests.unit.chart import rendered
from tests.unit.chart.reach import Place, network, places
from tests.unit.chart.rendered import PRESETS, WORKERS
from tests.unit.chart.test_presets import GIB, amount
from tests.unit.chart.told_in_pods import config_file, environment, own_container

from consilium.engine.config import EngineView
from consilium.engine.ports import CORE
from consilium.kernel.config import folder_of, load
from consilium.kernel.rooms import LORA_ROUTER
from consilium.lora_router.config import View

NAME = LORA_ROUTER.name
HOST = "home-consilium-lora-router"
STATE = "/var/lib/consilium"
MODELS = f"{STATE}/models"


def room(**values):
    render = rendered.render(values)
    return render, rendered.pod(render, NAME)


def view(render, pod, folder):
    told = environment(render, own_container(pod))
    return load(View, path=config_file(render, folder), env=told).value


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_there_is_one_everywhere_and_an_upgrade_never_runs_two(name):
    made = rendered.preset(name).one("Deployment", HOST)["spec"]
    assert (made["replicas"], made["strategy"]) == (1, {"type": "Recreate"})
    assert not rendered.preset(name).text.count("PodDisruptionBudget\nmetadata:\n  name: " + HOST)


def test_its_store_lies_on_a_claim_that_stays(monkeypatch):
    render, pod = room(adapters={"storage": {"size": "10Gi", "storageClass": "fast"}})
    claim = render.one("PersistentVolumeClaim", HOST)
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    monkeypatch.setenv(
        "CONSILIUM_STATE", environment(render, own_container(pod))["CONSILIUM_STATE"]
    )
    words = own_container(pod)["command"]
    config = Path(words[words.index("--config") + 1])
    (mount,) = [m for m in own_container(pod)["volumeMounts"] if m["mountPath"] == str(folder_of(config))]  # fmt: skip
    (volume,) = [one for one in pod.spec["volumes"] if one["name"] == mount["name"]]
    assert volume["persistentVolumeClaim"]["claimName"] == HOST


@pytest.mark.parametrize("size", ["1Gi", "64Gi", "500Mi", "1.5Ti"])
def test_the_store_is_full_before_its_claim(size, tmp_path):
    render, pod = room(adapters={"storage": {"size": size}})
    quota = view(render, pod, tmp_path).lora_router.store_gib * GIB
    assert quota == pytest.approx(0.8 * amount(size), rel=0.01)


def test_a_quota_of_ones_own_stands_and_one_above_the_claim_is_refused(tmp_path):
    said = {"config": {"lora_router": {"store_gib": 7}}}
    render, pod = room(**said)
    assert "CONSILIUM_LORA_ROUTER__STORE_GIB" not in environment(render, own_container(pod))
    assert view(render, pod, tmp_path).lora_router.store_gib == 7
    with pytest.raises(HelmError, match=r"config\.lora_router\.store_gib: 7 GiB .* 5Gi"):
        room(**said, adapters={"storage": {"size": "5Gi"}})


def test_engines_and_gateways_find_it_and_may_ask_it(every, tmp_path):
    pod = rendered.pod(every, NAME)
    address = view(every, pod, tmp_path).services[NAME]
    assert (address.grpc, address.http) == (f"dns:///{HOST}:9000", f"http://{HOST}:8080")
    net, here = network(every), places(every)
    for name, place in here.items():
        kind = name.partition(" ")[0]
        if kind in {"worker", "gateway", "head"}:
            assert net.allows(place, here[NAME], 9000)
            assert net.allows(place, here[NAME], 8080)
    for kind in ("redis", "test"):
        if kind in here:
            assert not net.allows(here[kind], here[NAME], 9000)
    stranger = Place("n8n", {}, "agents", {"kubernetes.io/metadata.name": "agents"})
    assert not net.allows(stranger, here[NAME], 9000)


def test_it_asks_the_hub_and_nothing_else_outside():
    render, _ = room()
    net, here = network(render), places(render)
    outside = Place("internet", address="93.184.216.34")
    assert [port for port in (22, 80, 443, 6379) if net.allows(here[NAME], outside, port)] == [80, 443]  # fmt: skip
    closed = rendered.render({"networkPolicy": {"internet": False}})
    assert not network(closed).allows(places(closed)[NAME], outside, 443)


def test_it_knows_the_hubs_token_and_no_other_of_its_owner():
    render, pod = room(secrets={"environmentSecret": "keys"})
    (token,) = [one for one in own_container(pod)["env"] if one["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "HF_TOKEN", "optional": True}  # fmt: skip
    assert "envFrom" not in own_container(pod)
    told = {one["name"] for one in own_container(pod)["env"]}
    assert told.isdisjoint({"CONSILIUM_SECRET", "CONSILIUM_ADMIN_KEY"})
    assert "HF_TOKEN" not in {one["name"] for one in own_container(room()[1])["env"]}
    assert render.one("ConfigMap", "home-consilium")


def test_it_is_no_heavier_than_a_home_lab_bears():
    needs = own_container(room()[1])["resources"]
    assert amount(needs["requests"]["memory"]) <= 256 * 2**20
    assert amount(needs["requests"]["cpu"]) <= 0.1


def test_it_sees_models_where_its_owner_wants_that():
    path = f"{MODELS}/loras/sport"
    named = {"adapters": {"sport": {"path": path}}}
    with pytest.raises(HelmError, match=r"config\.adapters\.sport\.path: .* adapters\.fromModels"):
        room(config=named)
    render, pod = room(config=named, adapters={"fromModels": True})
    (mount,) = [m for m in own_container(pod)["volumeMounts"] if m["mountPath"] == MODELS]
    assert mount["readOnly"]
    worker = rendered.pod(render, "worker main")
    claims = [
        next(v["persistentVolumeClaim"] for v in one.spec["volumes"] if v["name"] == "models")
        for one in (pod, worker)
    ]
    assert claims[0] == claims[1]
    assert "models" not in {volume["name"] for volume in room()[1].spec["volumes"]}


@pytest.mark.parametrize("path", ["./loras/sport", "loras", "~/loras/sport", "/srv/loras/sport", "a/b/c"])  # fmt: skip
def test_a_folder_of_some_machine_is_refused(path):
    with pytest.raises(HelmError, match=r"config\.adapters\.sport\.path: no pod has a folder"):
        room(config={"adapters": {"sport": {"path": path}}})


@pytest.mark.parametrize("path", ["org/sport", "org/sport@v1.2", "org/sport@refs/pr/1"])
def test_the_hub_and_its_revisions_are_taken(path):
    render, _ = room(config={"adapters": {"sport": {"path": path}}})
    assert path in render.config_text


def test_without_it_there_is_nothing_of_it_and_adapters_are_refused():
    off = {"adapters": {"enabled": False}}
    render = rendered.render(off)
    assert "lora-router" not in render.text
    assert "LoRA adapters" not in render.notes
    with pytest.raises(HelmError, match=r"adapters\.enabled: true"):
        rendered.render(off | {"config": {"adapters": {"sport": {"path": "org/sport"}}}})


@pytest.mark.parametrize(
    ("over", "why"),
    [
        ({"replicas": 2}, "it has one pod"),
        ({"kind": "DaemonSet"}, "it cannot be on every node"),
        ({"env": {"CONSILIUM_LORA_ROUTER__STORE_GIB": "1"}}, "the chart sets this variable itself"),
    ],
)
def test_what_services_says_of_it_may_not_break_it(over, why):
    with pytest.raises(HelmError, match=why):
        room(services={NAME: {"module": LORA_ROUTER.module, **over}})


def test_what_services_says_of_it_goes_before():
    over = {"module": LORA_ROUTER.module, "env": {"A": "b"}, "storage": {"size": "9Gi"}}
    render, pod = room(services={NAME: over})
    assert environment(render, own_container(pod))["A"] == "b"
    claim = render.one("PersistentVolumeClaim", HOST)
    assert claim["spec"]["resources"]["requests"]["storage"] == "9Gi"
    assert environment(render, own_container(pod))["CONSILIUM_LORA_ROUTER__STORE_GIB"] == "7.20"


def test_adapters_are_live_and_start_it_not_again():
    def mark(**config):
        return room(config=config)[1].metadata["annotations"]["checksum/config"]

    assert mark(adapters={"sport": {"path": "org/sport"}}) == mark()
    assert mark(lora_router={"canary": False}) != mark()


def disk(pod):
    """Return the limit of the disk on which a pod of Ray keeps what is its own."""
    (found,) = [one for one in pod.spec["volumes"] if one["name"] == "state"]
    return found["emptyDir"]["sizeLimit"]


def test_copies_on_nodes_find_room_in_the_pods_of_engines(tmp_path):
    def limits(**values):
        render = rendered.render(values)
        # What engines are told leaves the pod its own 2Gi, to the byte: else the kubelet would end it, cards and all.
        for pod in rendered.pods(render):
            if pod.kind == "worker" and "lora-router" in render.text:
                told = environment(render, own_container(pod))
                view = load(EngineView, path=config_file(render, tmp_path), env=told).value
                size = amount(disk(pod))
                assert size - 2 * GIB == pytest.approx(view.engine.adapter_cache_gib * GIB, abs=1)
        return {
            pod.name: disk(pod)
            for pod in rendered.pods(render)
            if pod.kind in {"head", "worker"}
        }  # fmt: skip

    assert limits() == {"head": "2Gi", "worker main": "12Gi"}
    assert limits(adapters={"cacheSize": "512Mi"})["worker main"] == "2560Mi"
    assert limits(adapters={"cacheSize": "1G"})["worker main"] == "3147483648"
    assert limits(adapters={"enabled": False})["worker main"] == "2Gi"
    own = {NAME: {"module": LORA_ROUTER.module}}
    assert limits(adapters={"enabled": False}, services=own)["worker main"] == "12Gi"


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_no_preset_lets_engines_fetch_more_than_the_disk_of_their_pod_holds(name, tmp_path):
    render = rendered.preset(name)
    for pod in rendered.pods(render):
        if pod.kind == "worker":
            told = environment(render, own_container(pod))
            view = load(EngineView, path=config_file(render, tmp_path), env=told).value
            assert view.engine.adapter_cache_gib * GIB <= amount(disk(pod)) - 2 * GIB + 1


def test_the_limit_of_copies_turns_no_slots_on_and_reaches_engines_that_have_some(tmp_path):
    for lora, cache in ((None, None), ({}, 3.0)):
        render = rendered.render(
            {"adapters": {"cacheSize": "3Gi"}, "config": {"engine": {"lora": lora}}}
        )
        told = environment(render, own_container(rendered.pod(render, "worker main")))
        found = load(EngineView, path=config_file(render, tmp_path), env=told).value.lora(CORE)
        assert (found and found.cache_gib) == cache


def test_the_limit_of_copies_is_said_in_one_place():
    with pytest.raises(
        HelmError, match=r"config\.engine\.adapter_cache_gib: .* adapters\.cacheSize"
    ):
        rendered.render({"config": {"engine": {"adapter_cache_gib": 5}}})
    group = WORKERS | {"env": {"CONSILIUM_ENGINE__ADAPTER_CACHE_GIB": "5"}}
    with pytest.raises(HelmError, match=r"workers\.main\.env\.CONSILIUM_ENGINE__ADAPTER_CACHE_GIB"):
        rendered.render({"workers": [group]})


def test_more_than_its_limit_is_refused_by_its_key():
    much = {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    with pytest.raises(HelmError, match=r"adapters\.resources\.requests\.cpu"):
        room(adapters={"resources": much})

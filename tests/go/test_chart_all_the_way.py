"""The CPU preset all the way: Helm 4, a true control plane, the real KubeRay operator, pods that run with a root that they may not write to, and a chat that is answered.

The tests follow each other on one release, in the order of this file.
"""

import json
import threading
import time

import httpx
import psutil
import pytest
from tests.real.installed_chart import NAME, SPACE, installed

pytestmark = pytest.mark.timeout(1500)
FIRST_S = 900.0
SOON_S = 240.0
LONG_TOKENS = 3000
"""Some seconds of an answer: it still runs when preStop begins."""


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """The release, answering."""
    folder = tmp_path_factory.mktemp("way")
    with installed(
        folder,
        "cpu",
        "config.model=tiny",
        "config.engine.max_model_len=4096",
        f"drainSeconds={int(SOON_S)}",
    ) as made:
        made.until(made.chat, FIRST_S, "the first answer")
        print(f"first answer {time.monotonic() - made.installed_at:.0f} s after helm install")
        made.until_ready()
        yield made


def processes(chart, component):
    """Return pod uid -> pid of the gateway's and the engine's process in the pods of a component, each with its start."""
    found = {}
    for name, pod in chart.pods(component).items():
        inside = {p.pid for p in psutil.process_iter() if chart.running(name).has(p.pid)}
        found[pod["metadata"]["uid"]] = {
            (p.pid, p.create_time(), p.name()) for p in map(psutil.Process, inside) if "ServeReplica" in p.name() or "EngineCore" in p.name()
        }  # fmt: skip
    return found


def test_helm_test_passes(chart):
    said = chart.helm("test", "mind", "--timeout", "400s")
    assert "Succeeded" in said, said
    steps = chart.kubelet.logs(f"{NAME}-test", "chat")
    assert [line.split(":")[0] for line in steps.splitlines()] == [
        "health",
        "chat over HTTP",
        "chat over gRPC",
    ], steps


def test_the_first_key_of_the_secret_is_an_administrators(chart):
    listed = httpx.get(f"{chart.url()}/v1/keys", headers=chart.headers, timeout=SOON_S)
    assert listed.status_code == 200, listed.text
    refused = httpx.get(f"{chart.url()}/v1/models", timeout=SOON_S)
    assert refused.status_code == 401


def figures(chart, component="worker"):
    """Return the names on the page of a pod."""
    page = httpx.get(f"{chart.url(component, 9400)}/metrics", timeout=SOON_S).text
    return {line.partition("{")[0].partition(" ")[0] for line in page.splitlines() if line[:1] != "#"}  # fmt: skip


def test_each_pod_has_a_page_of_figures(chart):
    names = figures(chart)
    assert {name.partition("_")[0].partition(":")[0] for name in names} >= {"consilium", "vllm", "ray"}, names  # fmt: skip
    ours = {name for name in names if name.startswith("consilium_")}
    assert "consilium_gateway_inflight_requests" in ours, (
        ours
    )  # a gauge, which goes with its process
    assert ours <= figures(chart)  # who looks takes nothing away
    assert any(name.startswith("ray_") for name in figures(chart, "head"))


def test_a_role_comes_with_an_upgrade_and_nothing_starts_again(chart):
    before, began = processes(chart, "worker"), chart.restarts()
    assert all(before.values()), before
    chart.upgrade("config.roles.sage.frame=Be wise.")

    def named():
        rows = httpx.get(f"{chart.url()}/v1/models", headers=chart.headers, timeout=SOON_S).json()[
            "data"
        ]
        return "role/sage" in {row["id"] for row in rows}

    chart.until(named, SOON_S, "role/sage among the models")
    assert chart.chat("role/sage") is not None
    assert processes(chart, "worker") == before
    assert chart.restarts() == began


def test_a_worker_that_is_deleted_ends_its_answer_and_another_one_comes(chart):
    (old,) = chart.pods("worker")
    pod, url = chart.running(old), chart.url()
    told, heads, ended = [], threading.Event(), []

    def listen():
        body = {
            "model": "base", "stream": True, "max_tokens": LONG_TOKENS, "ignore_eos": True, "messages": [{"role": "user", "content": "Go on."}],
        }  # fmt: skip
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body, headers=chart.headers, timeout=SOON_S
        ) as answer:
            for line in answer.iter_lines():
                told.append(line)
                heads.set()
        ended.append(time.monotonic())

    caller = threading.Thread(target=listen, daemon=True)
    caller.start()
    assert heads.wait(SOON_S)
    chart.plane.api("DELETE", f"/api/v1/namespaces/{SPACE}/pods/{old}")
    caller.join(2 * SOON_S)
    assert ended[0] > pod.ending_since, "the answer was over before the pod began to end"
    events = [json.loads(line[6:]) for line in told if line.startswith("data: {")]
    assert "data: [DONE]" in told[-2:], told[-3:]
    reasons = [event["choices"][0]["finish_reason"] for event in events if event["choices"]]
    assert reasons[-1] == "length", told[-5:]
    began = time.monotonic()
    chart.until(
        lambda: old not in chart.pods("worker") and chart.chat(),
        FIRST_S,
        "an answer of the new worker",
    )
    print(f"the next answer {time.monotonic() - began:.0f} s after the last one")
    assert "no answer is running" in pod.log("prestop").read_text()
    chart.until_ready()


def test_uninstall_keeps_keys_and_claims(chart):
    keys = chart.get(f"api/v1 secrets/{NAME}")["data"]
    claims = {
        claim["metadata"]["name"] for claim in chart.get("api/v1 persistentvolumeclaims")["items"]
    }
    chart.helm("uninstall", "mind")
    chart.until(
        lambda: chart.get("apis/ray.io/v1 rayservices")["items"] == [],
        SOON_S,
        "the RayService gone: helm returns before the operator has let its finalizer go",
    )
    assert chart.get(f"api/v1 secrets/{NAME}")["data"] == keys
    left = {
        claim["metadata"]["name"] for claim in chart.get("api/v1 persistentvolumeclaims")["items"]
    }
    assert left == claims == {f"{NAME}-models", f"data-{NAME}-redis-0", f"{NAME}-lora-router"}

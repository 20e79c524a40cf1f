"""Adapters in a whole cluster, as a person uses them: added, tried, asked for by every name, switched under load, added up, removed."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests import made_adapters
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHAT = "/v1/chat/completions"
TEXT = "Say something that nobody else would say."


def run(cluster, *words, seconds=180):
    """Run `consilium adapters ...` on this cluster."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "consilium.cli.app",
            "adapters",
            *words,
            "--state",
            str(cluster.state),
        ],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def told(cluster, *words):
    done = run(cluster, *words, "--output", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def client(cluster):
    headers = {"authorization": f"Bearer {cluster.key}"}
    with httpx.Client(base_url=cluster.url, headers=headers, timeout=120) as found:
        yield found


def ask(client, model, text=TEXT, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
    return client.post(CHAT, json={**body, "max_tokens": 8, **more})


def words(answer):
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0][
        "message"
    ]  # a model of random weights may think until its answer is full
    return (message.get("reasoning") or "") + (message.get("content") or "")


def receipt(answer):
    return answer.json()["consilium"]["receipt"]


def current(cluster, name):
    return told(cluster, "show", name).get("current", "")


def until_current(cluster, name, other_than=""):
    seen = [""]

    def is_another():
        seen[0] = current(cluster, name)
        return seen[0] not in {"", other_than}

    until(is_another, 240, f"{name} was tried out", every_s=0.3)
    return seen[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [made_adapters.make(root, seed).path for seed in range(4)]


@pytest.fixture(scope="module")
def added(cluster, folders):
    """Two adapters that an engine has tried. Afterwards there is none, as before."""
    for name, folder in zip(("first", "second"), folders, strict=False):
        done = run(cluster, "add", folder, "--name", name)
        assert done.returncode == 0, done.stdout + done.stderr
    yield {name: until_current(cluster, name) for name in ("first", "second")}
    left = [row["name"] for row in told(cluster, "ls")["adapters"]]
    for name in left:
        run(cluster, "rm", name)


def test_they_answer_by_every_name_and_the_receipt_says_so(cluster, client, added):
    base = words(ask(client, "base"))
    answer = ask(client, "adapter/first")
    assert words(answer) != base
    assert receipt(answer)["adapters"] == [f"first:{added['first'][:16]}"]
    assert words(ask(client, f"adapter/first:{added['first'][:8]}")) == words(answer)
    assert words(ask(client, "auto", consilium={"adapters": ["first"]})) == words(answer)
    assert words(ask(client, "adapter/second")) not in {base, words(answer)}
    assert words(ask(client, "base")) == base
    names = {row["id"] for row in client.get("/v1/models").json()["data"]}
    assert {"adapter/first", "adapter/second"} <= names
    listed = {row["name"]: row for row in told(cluster, "ls")["adapters"]}
    places = listed["first"]["versions"][0]["residences"]
    assert [place["executor"] for place in places] == ["core"]
    assert all(place["exact"] for place in places)


def test_in_one_batch_each_answers_as_it_does_alone(cluster, client, added):
    models = ["base", "adapter/first", "adapter/second"]

    def tops(answer):
        assert answer.status_code == 200, answer.text
        first = answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {row["token"]: row["logprob"] for row in first}

    more = {"max_tokens": 4, "logprobs": True, "top_logprobs": 5}
    alone = {model: ask(client, model, **more) for model in models}
    apart = []

    def again(number):
        model = models[number % 3]
        headers = {"authorization": f"Bearer {cluster.key}"}
        with httpx.Client(base_url=cluster.url, headers=headers, timeout=120) as mine:
            # Another beginning of the conversation each time, so that no prefix is in the cache.
            said = ask(mine, model, cache_salt=f"s{number}", **more)
        mine, his = tops(said), tops(alone[model])
        apart.append(max(abs(mine[t] - his[t]) for t in mine.keys() & his.keys()))
        assert mine.keys() & his.keys(), (model, mine, his)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(again, range(48)))
    assert max(apart) < 0.2, sorted(apart)[-5:]


def test_what_is_not_there_is_told_with_the_nearest(client, added):
    answer = ask(client, "adapter/frist")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_unknown")
    assert "'first'" in answer.json()["error"]["message"]
    wrong = ask(client, "adapter/first@much")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_request")


def test_a_sum_is_made_when_it_is_asked_for(client, added):
    one = ask(client, "adapter/first+second@0.5")
    assert len(receipt(one)["adapters"]) == 2
    assert words(one) == words(ask(client, "adapter/second@0.5+first@1.0"))


def test_a_new_version_takes_over_under_load_and_no_request_fails(cluster, client, added, folders):
    """Each caller asks one thing after the other: once one of its answers is by the new version, none that it asks for later is by the old one."""
    old, stop = added["first"], threading.Event()
    callers = [[] for _ in range(4)]

    def keep_asking(seen):
        headers = {"authorization": f"Bearer {cluster.key}"}
        with httpx.Client(base_url=cluster.url, headers=headers, timeout=120) as mine:
            while not stop.is_set():
                answer = ask(mine, "adapter/first", max_tokens=2)
                name = receipt(answer)["adapters"][0] if answer.status_code == 200 else answer.text
                seen.append((answer.status_code, name))

    threads = [threading.Thread(target=keep_asking, args=(seen,)) for seen in callers]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(callers), 120, "every caller had an answer")
        done = run(cluster, "add", folders[2], "--name", "first")
        assert done.returncode == 0, done.stderr
        new = until_current(cluster, "first", old)
        by_it = (200, f"first:{new[:16]}")
        until(lambda: all(by_it in seen for seen in callers), 120, "all were served by the new one")
        more = [len(seen) + 5 for seen in callers]
        until(
            lambda: all(len(seen) > wanted for seen, wanted in zip(callers, more, strict=True)),
            120,
            "all went on asking",
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    added["first"] = new
    for seen in callers:
        assert {status for status, _ in seen} == {200}, [row for row in seen if row[0] != 200][:3]
        assert seen[0] == (200, f"first:{old[:16]}")
        assert set(seen[seen.index(by_it) :]) == {by_it}


def test_the_room_is_killed_and_nobody_notices_who_asks_for_what_is_there(cluster, client, added):
    before = words(ask(client, "adapter/second"))
    done = subprocess.run(
        ["pkill", "-9", "-f", f"consilium.lora_router.app --config {cluster.state}"], check=False
    )
    assert done.returncode == 0
    assert words(ask(client, "adapter/second")) == before
    until(lambda: run(cluster, "ls").returncode == 0, 240, "the room was back", every_s=0.2)
    until(
        lambda: told(cluster, "show", "second")["versions"][0].get("residences"),
        240,
        "the engine told the new room what it holds",
        every_s=0.2,
    )
    assert words(ask(client, "adapter/second")) == before


def test_removed_is_gone(cluster, client, added):
    done = run(cluster, "rm", "second", "--yes")
    if done.returncode:
        done = run(cluster, "rm", "second")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: ask(client, "adapter/second").status_code == 404, 120, "the gateway heard of it")
    assert "second" not in {row["name"] for row in told(cluster, "ls")["adapters"]}

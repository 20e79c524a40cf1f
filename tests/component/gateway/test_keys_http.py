"""/v1/keys: who may, what is refused, and that a key that was made opens and one that was revoked does not."""

import asyncio
import json
import time

import pytest

from consilium.cli import app
from consilium.gateway.keys import parse
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import ADMIN

MADE = {"name": "laptop", "owner": "ann", "tenant": "lab", "rpm": 60, "tpm": 1000}


@pytest.fixture
async def site(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    return bench, bench.client(await bench.new_key(name="boss", scopes=frozenset({ADMIN})))


async def test_a_key_is_made_shown_once_used_and_revoked(site, log_lines):
    bench, boss = site
    made = await boss.post(
        "/v1/keys", json={**MADE, "scopes": ["generate", "greeter.read"], "expires": "30d"}
    )
    assert made.status_code == 201
    told = made.json()
    text, name = told.pop("key"), told["id"]
    assert told.items() >= {**MADE, "object": "key", "state": "good", "revoked": None}.items()
    assert told["scopes"] == ["generate", "greeter.read"]
    assert abs(told["expires"] - time.time() - 30 * 86_400) < 60
    assert (await boss.get(f"/v1/keys/{name}")).json() == told
    listed = (await boss.get("/v1/keys")).json()
    assert told in listed["data"]
    assert parse(text).secret not in str(listed)
    assert (await bench.client(text).get("/v1/greeter/whoami")).json()["owner"] == "ann"

    gone = await boss.delete(f"/v1/keys/{name}")
    assert (gone.status_code, gone.json()["state"]) == (200, "This API key was revoked.")
    assert (await bench.client(text).get("/v1/models")).status_code == 401
    assert [line["event"] for line in log_lines if line.get("key") == name] == [
        "key_made",
        "key_revoked",
    ]
    assert parse(text).secret not in str(log_lines)


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "name", "one line"),
        ({"name": "  "}, "name", "one line"),
        ({"name": "a\nb"}, "name", "one line"),
        ({"name": "x", "scopes": ["greeter.raed"]}, "scopes", "'greeter.read'"),
        ({"name": "x", "scopes": "generate"}, "scopes", "list"),
        ({"name": "x", "scopes": []}, "scopes", "list"),
        ({"name": "x", "tenant": "Lab!"}, "tenant", "a-z"),
        ({"name": "x", "rpm": -1}, "rpm", "whole number"),
        ({"name": "x", "tpm": True}, "tpm", "whole number"),
        ({"name": "x", "expires": "soon"}, "expires", "30d"),
        ({"name": "x", "expires": 5}, "expires", "to come"),
        ({"name": "x", "tenat": "lab"}, "tenat", "'tenant'"),
    ],
)
async def test_what_is_wrong_is_named(site, body, field, words):
    _, boss = site
    answer = await boss.post("/v1/keys", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", field)
    assert words in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", ""), ("DELETE", "/0" * 1)])
async def test_only_admins_may(site, method, path):
    bench, _ = site
    answer = await bench.client().request(method, f"/v1/keys{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("name", ["000000000000", "x", "0" * 300])
async def test_a_key_that_is_not_there(site, name):
    _, boss = site
    for method in ("GET", "DELETE"):
        answer = await boss.request(method, f"/v1/keys/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "key_unknown")


async def test_the_command_asks_over_http(site, capsys):
    bench, _ = site
    boss = await bench.new_key(scopes=frozenset({ADMIN}))
    reached = ("--endpoint", bench.url, "--key", boss, "--output", "json")

    async def call(*words):
        code = await asyncio.to_thread(app.main, ["keys", *words, *reached])
        return code, capsys.readouterr()

    code, said = await call("create", "--name", "bob", "--scopes", "greeter.read,read")
    made = json.loads(said.out)
    assert (code, made["scopes"]) == (0, "greeter.read,read")
    assert made["id"] in (await call("list"))[1].out
    assert (await call("revoke", made["id"]))[0] == 0
    assert json.loads((await call("show", made["id"]))[1].out)["state"] != "good"
    code, said = await call("revoke", "0" * 12)
    assert code == 4
    code, said = await call("create", "--name", "x", "--scopes", "greeter.wirte")
    assert code == 1
    assert "'greeter.write'" in said.err


async def test_the_beginning_of_an_id_means_the_key_that_begins_so(site):
    _, boss = site
    made = (await boss.post("/v1/keys", json=MADE)).json()["id"]
    assert (await boss.get(f"/v1/keys/{made[:6]}")).json()["id"] == made
    short = (await boss.delete(f"/v1/keys/{made[:2]}")).json()["error"]
    assert (short["param"], "at least 4" in short["message"]) == ("id", True)
    gone = (await boss.delete(f"/v1/keys/{made[:6]}")).json()
    assert gone["id"] == made
    assert 60 < gone["certain_in_s"] <= 65


async def test_a_key_that_cannot_be_revoked_goes_on_and_the_answer_says_for_how_long(
    site, monkeypatch
):
    bench, boss = site
    text = await bench.new_key()
    name, holder = parse(text).id, bench.client(text)
    assert (await holder.get("/v1/models")).status_code == 200
    assert (await boss.get("/v1/models")).status_code == 200

    async def away(*_):
        raise ConsiliumError("upstream_down", name="Redis", retry_after_s=1.0)

    for method in ("get", "list", "revoke", "check"):
        monkeypatch.setattr(bench.stores.keys, method, away)
    refused = await boss.delete(f"/v1/keys/{name}")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "key_not_revoked")
    assert refused.headers["retry-after"] == "1"
    assert f"The key {name} was not revoked" in error["message"]
    assert "for up to 60 s more" in error["message"]
    assert (await holder.get("/v1/models")).status_code == 200
    monkeypatch.undo()
    assert (await boss.delete(f"/v1/keys/{name}")).status_code == 200

    async def is_refused():
        return (await holder.get("/v1/models")).status_code == 401

    await bench.eventually(is_refused)

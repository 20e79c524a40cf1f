"""Pages in browsers: preflights, and what they may read of an answer."""

import httpx
import pytest

from consilium.gateway.config import Gateway

from .conftest import chat

PAGE = "http://localhost:3000"
READ = (
    "x-request-id",
    "x-consilium-receipt",
    "x-consilium-tools",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-tokens",
)


async def preflight(bench, origin, path="/v1/chat/completions", **more):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        **more,
    }
    async with httpx.AsyncClient(base_url=bench.url, timeout=60) as client:
        return await client.options(path, headers=headers)


async def test_a_page_of_this_machine_may_call(gateway):
    bench = await gateway()
    asked = await preflight(bench, PAGE)
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert int(asked.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in asked.headers
    private = await preflight(bench, PAGE, **{"access-control-request-private-network": "true"})
    assert private.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_can_be_read(gateway, stream):
    bench = await gateway()
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat(stream=stream), headers={"origin": PAGE}
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "origin"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(READ) <= set(exposed)


async def test_errors_can_be_read(gateway):
    bench = await gateway()
    key = await bench.new_key(rpm=1)
    headers = {"origin": PAGE}
    async with httpx.AsyncClient(base_url=bench.url, headers=headers, timeout=60) as client:
        answers = [
            await client.post("/v1/chat/completions", json=chat()),
            await client.get("/nope"),
            await client.request("DELETE", "/v1/models"),
            await client.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "br", "authorization": f"Bearer {bench.key}"}),
        ]  # fmt: skip
    limited = bench.client(key)
    for _ in range(2):
        last = await limited.post("/v1/chat/completions", json=chat(), headers=headers)
    answers.append(last)
    assert [answer.status_code for answer in answers] == [401, 404, 405, 415, 429]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "retry-after" in answer.headers["access-control-expose-headers"]


async def test_rooms_answers_can_be_read(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    client = bench.client(await bench.new_key(scopes=frozenset({"greeter.read"})))
    answer = await client.get("/v1/greeter/whoami", headers={"origin": PAGE})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_other_pages_may_not(gateway):
    bench = await gateway()
    refused = await preflight(bench, "https://evil.example")
    assert refused.status_code == 403
    assert "gateway.cors_origins" in refused.json()["error"]["message"]
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat(), headers={"origin": "https://evil.example"}
    )
    for one in (refused, answer):
        assert "access-control-allow-origin" not in one.headers


async def test_listed_pages_and_a_star(gateway):
    listed = await gateway(cors_origins=("https://chat.example.org",))
    asked = await preflight(listed, "https://chat.example.org")
    assert asked.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert (await preflight(listed, PAGE)).status_code == 403
    anybody = await gateway(cors_origins=("*",))
    asked = await preflight(anybody, "https://any.example", path="/v1/nope")
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
    assert "vary" not in asked.headers


async def test_without_an_origin_nothing_is_added(gateway):
    bench = await gateway()
    answer = await bench.client().get("/v1/models")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (await bench.client().options("/v1/models")).status_code == 405


def test_what_is_no_origin_is_refused_at_the_start():
    for wrong in ("chat.example.org", "https://chat.example.org/", "https://*.example.org/x"):
        with pytest.raises(ValueError, match="no origin"):
            Gateway(cors_origins=(wrong,))

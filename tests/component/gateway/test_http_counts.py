"""What the request counter says: each request once, by bounded labels."""

import httpx

from .conftest import chat

NAME = "consilium_gateway_requests_total"


def counts(bench):
    found = {}
    for line in bench.face.cast.meter._metrics.page().splitlines():
        if line.startswith(NAME + "{"):
            labels, value = line.removeprefix(NAME).rsplit(" ", 1)
            pairs = dict(pair.split("=") for pair in labels.strip("{}").replace('"', "").split(","))
            found[pairs["route"], pairs["code"], pairs["executor"]] = float(value)
    return found


async def test_each_request_is_counted_once(gateway):
    bench = await gateway()
    client = bench.client()
    await client.post("/v1/chat/completions", json=chat())
    await client.post("/v1/embeddings", json={"model": "two-numbers", "input": "x"})
    await client.get("/v1/models")
    await client.get("/health")
    await client.get("/v1/models/none")
    await client.get("/v1/responses/none")
    await client.post("/v1/chat/completions", json=chat(model="none"))
    await client.post("/v1/chat/completions", content=b"{")
    async with httpx.AsyncClient(base_url=bench.url, timeout=60) as stranger:
        for path in ("/v1/chat/completions", "/v1/embeddings"):
            assert (await stranger.post(path, json={})).status_code == 401
        await stranger.get("/v1/models")
    await bench.until(lambda: counts(bench).get(("chat", "200", "core")))
    assert counts(bench) == {
        ("chat", "200", "core"): 1,
        ("chat", "404", "none"): 1,
        ("chat", "400", "none"): 1,
        ("chat", "401", "none"): 1,
        ("embeddings", "200", "none"): 1,
        ("embeddings", "401", "none"): 1,
        ("models", "200", "none"): 1,
        ("models", "401", "none"): 1,
        ("models", "404", "none"): 1,
        ("stored_responses", "404", "none"): 1,
    }


async def test_paths_and_methods_that_are_not_there_add_one_series(gateway):
    bench = await gateway()
    for number in range(20):
        await bench.client().get(f"/nope{number}")
        await bench.client().request("PROPFIND", f"/v1/odd{number}")
    assert counts(bench) == {("unknown", "404", "none"): 40}

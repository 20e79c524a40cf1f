"""Requests as programs send them that are too large to run here: n8n and Open WebUI, as their sources have it."""

import pytest
from tests.component.gateway.conftest import chat, events


@pytest.fixture
async def bench(gateway):
    return await gateway()


async def test_n8n_finds_its_default_among_the_models_that_embed(bench):
    """EmbeddingsOpenAi.node.ts shows the models whose id has `embed` in it, and stands on text-embedding-3-small (version 1: ada-002)."""
    rows = (await bench.client().get("/v1/models")).json()["data"]
    shown = {row["id"] for row in rows if "embed" in row["id"]}
    assert {"text-embedding-3-small", "text-embedding-ada-002", "embedding"} <= shown
    assert {row["type"] for row in rows if row["id"] in shown} == {"embedding"}


async def test_n8n_offers_every_model_for_chat_and_a_wrong_one_says_what_it_is_for(bench):
    """loadModels.ts filters nothing where the base URL is not OpenAI's."""
    for row in (await bench.client().get("/v1/models")).json()["data"]:
        answer = await bench.client().post("/v1/chat/completions", json=chat(model=row["id"]))
        if row["type"] == "chat":
            assert answer.status_code == 200, row["id"]
        else:
            assert answer.status_code == 400
            assert "it is for /v1/embeddings" in answer.json()["error"]["message"]


async def test_open_webui_lists_chats_and_embeds(bench):
    """routers/openai.py asks for models, spreads each row into its own and streams chats; retrieval sends texts without a format and reads lists of numbers."""
    client = bench.client()
    for row in (await client.get("/v1/models")).json()["data"]:
        assert row["id"]
        assert "name" not in row  # its own name for a row is the id
    answer = await client.post("/v1/chat/completions", json=chat("a b", stream=True))
    assert [piece["choices"][0]["delta"].get("content") for piece in events(answer.text)] == [
        "",
        "a",
        " b",
        None,  # of the receipt
    ]
    made = await client.post(
        "/v1/embeddings", json={"input": ["a b", "c"], "model": "text-embedding-3-small"}
    )
    assert [len(row["embedding"]) for row in made.json()["data"]] == [2, 2]
    assert all(isinstance(one, float) for one in made.json()["data"][0]["embedding"])

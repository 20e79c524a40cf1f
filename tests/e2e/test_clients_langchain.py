"""LangChain, unmodified, before a whole cluster: what its own defaults send, and what its users do with it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from tests.bench.cluster import Ours
from tests.waiting import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:langchain.*"),
]

RANKS = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
TEXT = "The committee met on Monday, and nobody objected."
WIDTH = 768


class City(BaseModel):
    """Where somebody lives."""

    city: Literal["Paris", "Rome"]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """Its connections end with the test; those that it would open itself end with the process."""
    with httpx.Client(timeout=240) as client:
        yield client


@pytest.fixture
def client(cluster: Ours, http: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key=cluster.key, max_retries=0, http_client=http
    )


@pytest.fixture
def chat(cluster: Ours, http: httpx.Client):
    def made(model: str = "role/quick", **more) -> ChatOpenAI:
        options = {"max_tokens": 1024, "api_key": cluster.key, **more}
        return ChatOpenAI(
            model=model, base_url=f"{cluster.url}/v1", http_client=http, max_retries=0, **options
        )

    return made


@pytest.fixture
def embeddings(cluster: Ours, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """LangChain cuts texts into OpenAI's tokens; their list, which it would download, lies where tiktoken keeps it."""
    (folder,) = find_spec("tiktoken_ext").submodule_search_locations
    kept = tmp_path / hashlib.sha1(RANKS.encode()).hexdigest()
    shutil.copy(Path(folder) / "data/cl100k_base.tiktoken", kept)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def made(**more) -> OpenAIEmbeddings:
        base = f"{cluster.url}/v1"
        return OpenAIEmbeddings(
            base_url=base, api_key=cluster.key, http_client=http, max_retries=0, **more
        )

    return made


def test_it_chats_whole_and_in_pieces(chat) -> None:
    whole = chat("base", max_tokens=4).invoke("Say something.")
    assert whole.usage_metadata["output_tokens"] == 4
    assert whole.response_metadata["finish_reason"] == "length"
    pieces = list(chat(max_tokens=4, stream_usage=True).stream("Say something."))
    assert len(pieces) >= 4
    assert sum((piece.usage_metadata or {}).get("output_tokens", 0) for piece in pieces) == 4


def test_a_tool_is_called_and_its_answer_goes_back(chat) -> None:
    asked = HumanMessage("Say something.")
    called = chat().bind_tools([City], tool_choice="City", strict=True).invoke([asked])
    (call,) = called.tool_calls
    assert call["name"] == "City"
    assert call["args"]["city"] in ("Paris", "Rome")
    told = {"role": "tool", "content": "sunny", "tool_call_id": call["id"]}
    assert chat(max_tokens=4).invoke([asked, called, told]).usage_metadata["output_tokens"] == 4


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_in_shape(chat, method: str) -> None:
    found = chat().with_structured_output(City, method=method, strict=True).invoke("Say something.")
    assert found.city in ("Paris", "Rome")


@pytest.mark.parametrize("model", [{}, {"model": "text-embedding-3-small"}])
def test_embeddings_work_as_they_are_by_default(embeddings, model) -> None:
    """By default it sends token ids."""
    sent = embeddings(**model)
    assert sent.check_embedding_ctx_length
    as_text = embeddings(check_embedding_ctx_length=False, **model)
    texts = [TEXT, "Жук сидит на листе."]
    for ours, theirs in zip(
        sent.embed_documents(texts), as_text.embed_documents(texts), strict=True
    ):
        assert len(ours) == WIDTH
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_ids_sent_to_our_own_name_are_refused_with_what_to_set(embeddings) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings(model="minilm-e5").embed_query(TEXT)
    told = embeddings(model="minilm-e5", model_kwargs={"extra_body": {"tokenizer": "cl100k_base"}})
    assert len(told.embed_query(TEXT)) == WIDTH


def test_errors_are_those_that_its_users_catch(chat, embeddings) -> None:
    with pytest.raises(openai.AuthenticationError):
        chat("base", api_key="csl_none_none").invoke("a")
    with pytest.raises(openai.NotFoundError):
        chat("nope").invoke("a")
    with pytest.raises(openai.BadRequestError, match="it is for /v1/embeddings"):
        chat("minilm-e5").invoke("a")
    with pytest.raises(openai.BadRequestError, match="minilm-e5 has 768"):
        embeddings(model="text-embedding-3-small", dimensions=256).embed_query("a")


def test_a_stream_is_read_as_every_tutorial_reads_it(client: openai.OpenAI) -> None:
    """Without a look at whether a chunk has a choice."""
    asked = [{"role": "user", "content": "Say something."}]
    for chunk in client.chat.completions.create(
        model="role/quick", messages=asked, max_tokens=4, stream=True
    ):
        assert isinstance(chunk.choices[0].delta.content or "", str)
        assert chunk.created
        assert chunk.model
    for part in client.completions.create(model="base", prompt="a", max_tokens=4, stream=True):
        assert isinstance(part.choices[0].text, str)


def test_who_stops_reading_stops_the_engine(client: openai.OpenAI) -> None:
    with client.chat.completions.with_raw_response.create(
        model="base",
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=1000,
        stream=True,
        extra_body={"ignore_eos": True},
    ).parse() as stream:
        receipt = stream.response.headers["x-consilium-receipt"]
        next(iter(stream))
    assert _status(client, receipt) == 499


def _status(client: openai.OpenAI, receipt: str) -> int:
    """Return how a request ended, once its receipt is written."""
    found: list[dict] = []

    def is_written() -> bool:
        with suppress(openai.NotFoundError):
            found.append(client.get(f"/receipts/{receipt}", cast_to=dict))
        return bool(found)

    until(is_written, 120, "the receipt was written", every_s=0.1)
    return int(found[0]["status"])

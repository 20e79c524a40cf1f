import asyncio
import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consilium.embedding import vectors
from consilium.embedding.cache import Cached
from consilium.embedding.client import open_embeddings
from consilium.embedding.config import OFFLINE, Embedding
from consilium.embedding.names import ALIASES
from consilium.embedding.ports import Fingerprint, Vectors
from consilium.embedding.service import MOST_AT_ONCE, Embeddings
from consilium.kernel.errors import ConsiliumError


class Letters:
    """An embedder of three numbers: letters, spaces, one. Counts how often it is asked."""

    def __init__(self):
        self.asked = []
        self.model = "letters"

    def fingerprint(self):
        return Fingerprint(self.model, "1", 3, "none")

    async def embed(self, texts, kind="passage"):
        self.asked.append((tuple(texts), kind))
        rows = np.array([[len(text), text.count(" "), 1] for text in texts], dtype=np.float32)
        return Vectors(vectors.normalised(rows), tuple(len(text.split()) or 1 for text in texts))

    async def aclose(self):
        self.asked.append("closed")


@pytest.fixture
def endpoint():
    return Embeddings(Letters(), model="letters", aliases=ALIASES)


async def test_the_answer_has_openais_shape(endpoint):
    answer = await endpoint.create({"model": "letters", "input": ["a b", "c"], "user": "u-1"})
    assert set(answer) == {"object", "data", "model", "usage", "consilium"}
    assert answer["consilium"] == {"fingerprint": endpoint.fingerprint().key()}
    assert [set(row) for row in answer["data"]] == [{"object", "index", "embedding"}] * 2
    assert [row["index"] for row in answer["data"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert json.loads(json.dumps(answer)) == answer
    from openai.types import CreateEmbeddingResponse

    assert len(CreateEmbeddingResponse.model_validate(answer).data[0].embedding) == 3


async def test_more_than_so_many_at_once_are_told_to_come_back_and_who_leaves_makes_room():
    class Busy(Letters):
        async def embed(self, texts, kind="passage"):
            await asyncio.Event().wait()

    endpoint = Embeddings(Busy(), model="letters")
    body = {"model": "letters", "input": "a"}
    held = [asyncio.ensure_future(endpoint.create(body)) for _ in range(MOST_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(ConsiliumError) as told:
        await endpoint.create(body)
    assert (told.value.code, told.value.retry_after_s) == ("queue_full", 1.0)
    held.pop().cancel()
    await asyncio.sleep(0)
    held.append(asyncio.ensure_future(endpoint.create(body)))
    await asyncio.sleep(0)
    assert not held[-1].done()
    for task in held:
        task.cancel()


async def test_a_single_text_and_both_formats(endpoint):
    plain = await endpoint.create({"model": "auto", "input": "a b"})
    packed = await endpoint.create(
        {"model": "embedding", "input": "a b", "encoding_format": "base64"}
    )
    assert np.allclose(
        np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4"),
        plain["data"][0]["embedding"],
    )


async def test_shorter_vectors_are_unit_vectors(endpoint):
    endpoint = Embeddings(Letters(), model="letters", may_be_cut=True)
    answer = await endpoint.create({"model": "letters", "input": "abc d", "dimensions": 2})
    assert np.linalg.norm(answer["data"][0]["embedding"]) == pytest.approx(1, abs=1e-6)
    configured = Embeddings(Letters(), model="letters", dimensions=2)
    assert (
        len((await configured.create({"model": "letters", "input": "a"}))["data"][0]["embedding"])
        == 2
    )


async def test_the_kind_is_passed_on(endpoint):
    await endpoint.create({"model": "letters", "input": "a", "input_type": "query"})
    await endpoint.create({"model": "letters", "input": "a", "input_type": "document"})
    assert [kind for _, kind in endpoint._embedder.asked] == ["query", "passage"]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": "a"}, "model", "it is missing"),
        ({"model": "letters"}, "input", "a text or a list"),
        ({"model": "letters", "input": []}, "input", "a text or a list"),
        ({"model": "letters", "input": {}}, "input", "a text or a list"),
        ({"model": "letters", "input": ""}, "input", "input[0]: it is empty"),
        ({"model": "letters", "input": ["a", ""]}, "input", "input[1]: it is empty"),
        ({"model": "letters", "input": [True]}, "input", "it is not a text"),
        ({"model": "letters", "input": ["a", None]}, "input", "input[1]: it is not a text"),
        ({"model": "letters", "input": "\ud800"}, "input", "surrogate"),
        ({"model": "letters", "input": ["a"] * 2049}, "input", "2048 go into one request"),
        (
            {"model": "letters", "input": "a", "encoding_format": "int8"},
            "encoding_format",
            "float and base64",
        ),
        (
            {"model": "letters", "input": "a", "encoding_format": []},
            "encoding_format",
            "float and base64",
        ),
        ({"model": "letters", "input": "a", "dimensions": 0}, "dimensions", "whole number above 0"),
        (
            {"model": "letters", "input": "a", "dimensions": True},
            "dimensions",
            "whole number above 0",
        ),
        (
            {"model": "letters", "input": "a", "dimensions": "3"},
            "dimensions",
            "whole number above 0",
        ),
        ({"model": "letters", "input": "a", "dimensions": 4}, "dimensions", "letters has 3"),
        (
            {"model": "letters", "input": "a", "dimensions": 2},
            "dimensions",
            "not known to be trained",
        ),
        ({"model": "letters", "input": "a", "input_type": []}, "input_type", "passage and query"),
        (
            {"model": "letters", "input": "a", "input_type": "image"},
            "input_type",
            "passage and query",
        ),
    ],
)
async def test_bad_requests_name_the_field(endpoint, body, param, says):
    from consilium.kernel.errors import to_openai

    with pytest.raises(ConsiliumError) as caught:
        await endpoint.create(body)
    assert caught.value.code == "invalid_request"
    assert says in caught.value.public()
    assert to_openai(caught.value)["error"]["param"] == param


async def test_another_model_is_refused_with_the_nearest(endpoint):
    with pytest.raises(ConsiliumError) as caught:
        await endpoint.create({"model": "text-embedding-4", "input": "a"})
    assert caught.value.code == "model_unknown"
    assert "text-embedding-" in caught.value.public()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(
    body=st.dictionaries(
        st.sampled_from(["model", "input", "encoding_format", "dimensions", "input_type", "x"]),
        JSON,
    )
)
async def test_any_json_gets_an_answer_or_a_sentence(body):
    with _only({"invalid_request", "model_unknown"}):
        answer = await Embeddings(Letters(), model="letters").create({"model": "letters", **body})
        assert answer["object"] == "list"


@contextlib.contextmanager
def _only(codes):
    try:
        yield
    except ConsiliumError as error:
        if error.code not in codes:
            raise


async def test_the_cache_asks_once():
    inner = Letters()
    cached = Cached(inner, 1 << 20)
    first = await cached.embed(["a", "b b", "a"])
    again = await cached.embed(["b b", "a", "c"])
    assert inner.asked == [(("a", "b b"), "passage"), (("c",), "passage")]
    assert np.array_equal(first.values[[1, 0]], again.values[:2])
    assert (first.tokens, again.tokens) == ((1, 2, 1), (2, 1, 1))
    assert (cached.hits, cached.misses) == (3, 3)


async def test_the_cache_knows_kinds_and_fingerprints_apart():
    inner = Letters()
    cached = Cached(inner, 1 << 20)
    await cached.embed(["a"])
    await cached.embed(["a"], "query")
    inner.model = "another"
    await cached.embed(["a"])
    assert len(inner.asked) == 3


async def test_the_cache_stays_within_its_memory():
    inner = Letters()
    cached = Cached(inner, 10 * 312)
    for number in range(50):
        await cached.embed([f"text {number}", "kept"])
        assert cached.size_bytes <= 10 * 312
    assert sum("kept" in texts for texts, _ in inner.asked) == 1
    await cached.embed(["text 0"])
    assert inner.asked[-1] == (("text 0",), "passage")
    await cached.aclose()
    assert cached.size_bytes == 0
    assert inner.asked[-1] == "closed"


@given(total=st.integers(0, 10_000), weights=st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_a_sum_of_tokens_is_divided_without_loss(total, weights):
    parts = vectors.divided(total, weights)
    assert sum(parts) == (total if sum(weights) else 0)
    assert all(
        abs(part - total * weight / max(1, sum(weights))) <= 1
        for part, weight in zip(parts, weights, strict=True)
    )


def test_a_row_of_zeros_stays_finite():
    assert not vectors.normalised(np.zeros((1, 3), np.float32)).any()


def test_fingerprints_differ_by_every_field():
    base = Fingerprint("m", "1", 3, "mean")
    others = [
        Fingerprint("n", "1", 3, "mean"),
        Fingerprint("m", "2", 3, "mean"),
        Fingerprint("m", "1", 4, "mean"),
        Fingerprint("m", "1", 3, "mean", "q"),
    ]
    assert len({one.key() for one in (base, *others)}) == 5


def test_cutting_changes_the_length_in_the_key_and_nothing_else():
    whole = Fingerprint("m", "1", 384, "mean")
    half = whole.cut_to(192)
    assert whole.cut_to(None).key() == whole.cut_to(384).key() == whole.key()
    assert half.key() == f"{whole.key().partition('-')[0]}-192"
    told = Fingerprint("cluster", "", 384, "", told=whole.key().partition("-")[0])
    assert (told.key(), told.cut_to(192).key()) == (whole.key(), half.key())
    assert Fingerprint("m", "1", None, "mean").key().endswith("-?")


async def test_the_fingerprint_of_an_answer_is_that_of_its_dimensions():
    configured = Embeddings(Letters(), model="letters", dimensions=2, may_be_cut=True)
    asked = {"model": "letters", "input": "a"}
    keys = [
        (await configured.create({**asked, **more}))["consilium"]["fingerprint"]
        for more in ({}, {"dimensions": 1}, {"dimensions": 3})
    ]
    assert [key.rpartition("-")[2] for key in keys] == ["2", "1", "3"]
    assert (
        keys[0] == configured.fingerprint().key() == (await configured.settled_fingerprint()).key()
    )


async def test_no_texts_are_no_vectors(endpoint):
    assert (await endpoint.embed([])).values.shape[0] == 0


def test_an_offline_name_that_nobody_knows_is_refused_with_the_nearest():
    from consilium.cli.config_tree import ConsiliumConfig
    from consilium.kernel.config import load

    with pytest.raises(ConsiliumError, match="the nearest is 'minilm-e5'"):
        load(ConsiliumConfig, flags={"embedding.model": "minilm-e4"})


def test_the_configuration_names_the_models_that_there_are():
    from consilium.embedding.backends.catalogue import MODELS

    assert tuple(MODELS) == OFFLINE


@pytest.mark.parametrize(
    "bad",
    [
        {"backend": "openai"},
        {"backend": "openai", "url": "http://x/v1"},
        {"backend": "engine", "model": "m"},
        {"backend": "other"},
        {"url": "x"},
        {"batch": 0},
        {"model": "all-MiniLM-L6"},
    ],
)
def test_the_configuration_is_checked(bad):
    with pytest.raises(ValidationError):
        Embedding(**bad)


def test_the_default_is_offline_and_loads_nothing():
    endpoint = open_embeddings(Embedding())
    assert endpoint.model == "minilm-e5"
    assert endpoint.fingerprint().dimensions == 768
    assert open_embeddings(Embedding(model="all-MiniLM-L6-v2")).fingerprint().dimensions == 384


def test_a_missing_key_is_told_at_start(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = Embedding(backend="openai", url="http://x/v1", model="m", key_env="NO_SUCH_KEY")
    with pytest.raises(ConsiliumError, match="NO_SUCH_KEY"):
        open_embeddings(config)
    monkeypatch.setenv("NO_SUCH_KEY", "k")
    assert open_embeddings(config).model == "m"


def test_an_engine_backend_needs_engines():
    with pytest.raises(ConsiliumError, match="executors"):
        open_embeddings(Embedding(backend="engine", executor="e", model="m"))

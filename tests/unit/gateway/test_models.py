"""Model names: what each spelling means, and what is offered for one that means nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.engine.ports import ExecutorInfo, State
from consilium.gateway.model_list import listing
from consilium.gateway.models import Target, known_names, resolve
from consilium.kernel.errors import ConsiliumError

ROLES = ("philosopher", "coder")
EXECUTORS = {"core": "Qwen/Qwen3-8B", "hands": "Qwen/Qwen3-30B-A3B", "twin": "Qwen/Qwen3-8B"}


def meaning(model):
    return resolve(model, roles=ROLES, executors=EXECUTORS)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (None, Target("auto", "auto")),
        ("", Target("auto", "auto")),
        ("auto", Target("auto", "auto")),
        ("base", Target("base", "base")),
        ("role/philosopher", Target("role", "philosopher", role="philosopher")),
        ("executor/hands", Target("executor", "hands", executor="hands")),
        ("hands", Target("executor", "hands", executor="hands")),
        ("core", Target("executor", "core", executor="core")),
        ("Qwen/Qwen3-30B-A3B", Target("executor", "hands", executor="hands")),
        ("Qwen/Qwen3-8B", Target("executor", "core", executor="core")),
    ],
)
def test_a_name_means_one_thing(model, target):
    assert meaning(model) == target


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("role/philosofer", "role/philosopher"),
        ("philosopher", "role/philosopher"),
        ("Philosopher", "role/philosopher"),
        ("executor/hand", "executor/hands"),
        ("hnads", "hands"),
        ("qwen/qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("atuo", "auto"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(model, near):
    with pytest.raises(ConsiliumError) as caught:
        meaning(model)
    assert caught.value.code == "model_unknown"
    assert caught.value.fields["nearest"] in {near, f"executor/{near}"}
    assert near.rpartition("/")[2] in caught.value.public()


@pytest.mark.parametrize("model", ["zzzzzzzz", "/", "role/", "adapter/", "Жук"])
def test_nothing_is_offered_when_nothing_is_near(model):
    with pytest.raises(ConsiliumError) as caught:
        meaning(model)
    assert caught.value.code == "model_unknown"
    assert "{" not in caught.value.public()


def test_what_stands_behind_adapter_is_read_elsewhere():
    assert meaning("adapter/legal@0.5+style") == Target("adapter", "legal@0.5+style")


@given(st.text(max_size=40))
def test_any_text_means_something_or_is_refused(model):
    try:
        said = meaning(model).kind
    except ConsiliumError as err:
        said = err.code
    assert said in {"auto", "base", "role", "executor", "model_unknown", "adapter_unknown"}


@given(st.sampled_from(known_names(ROLES, EXECUTORS)))
def test_every_known_name_resolves(model):
    assert meaning(model).kind


def test_listing_names_everything_once():
    infos = [
        ExecutorInfo("hands", "engine", "Qwen/Qwen3-30B-A3B", context=32768, state=State.READY),
        ExecutorInfo(
            "core", "engine", "Qwen/Qwen3-8B", context=8192, state=State.READY, revision="ab12"
        ),
        ExecutorInfo("twin", "engine", "Qwen/Qwen3-8B", context=4096),
    ]
    rows = listing(dict.fromkeys(ROLES), infos, 1_700_000_000)
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert ids[:4] == ["auto", "base", "role/philosopher", "role/coder"]
    assert set(ids[4:]) == {
        "executor/core",
        "executor/hands",
        "executor/twin",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-30B-A3B",
    }
    plain = next(row for row in rows if row["id"] == "Qwen/Qwen3-8B")
    assert plain["max_model_len"] == 8192
    assert plain["consilium"]["executor"] == "core"
    assert all(
        row["object"] == "model"
        and row["created"] == 1_700_000_000
        and row["owned_by"] == "consilium"
        for row in rows
    )


def test_a_name_for_vectors_answers_no_turn():
    for name in ("minilm-e5", "text-embedding-3-small"):
        with pytest.raises(ConsiliumError) as refused:
            resolve(
                name,
                roles=ROLES,
                executors=EXECUTORS,
                embeds=("minilm-e5", "text-embedding-3-small"),
            )
        assert (refused.value.code, refused.value.fields["param"]) == ("invalid_request", "model")
        assert f"{name!r} makes vectors" in refused.value.public()
        assert "/v1/embeddings" in refused.value.public()


def test_every_row_says_what_it_is_for_and_which_model_is_behind_it():
    infos = [
        ExecutorInfo("core", "engine", "Qwen/Qwen3-8B", context=8192, state=State.READY),
        ExecutorInfo("hands", "engine", "Qwen/Qwen3-30B-A3B", context=32768),
        ExecutorInfo("vectors", "engine", "Qwen3-Embedding-0.6B", context=2048),
    ]
    embeds = ("qwen3-embedding", "executor/vectors", "vectors", "text-embedding-3-small")
    rows = listing({"sage": None, "coder": "hands"}, infos, 1, embeds)
    told = {row["id"]: (row["type"], row["root"], row.get("max_model_len")) for row in rows}
    assert told == {
        "auto": ("chat", "Qwen/Qwen3-8B", 8192),
        "base": ("chat", "Qwen/Qwen3-8B", 8192),
        "role/sage": ("chat", "Qwen/Qwen3-8B", 8192),
        "role/coder": ("chat", "Qwen/Qwen3-30B-A3B", 32768),
        "executor/core": ("chat", "Qwen/Qwen3-8B", 8192),
        "executor/hands": ("chat", "Qwen/Qwen3-30B-A3B", 32768),
        "executor/vectors": ("embedding", "Qwen3-Embedding-0.6B", 2048),
        "Qwen/Qwen3-8B": ("chat", "Qwen/Qwen3-8B", 8192),
        "Qwen/Qwen3-30B-A3B": ("chat", "Qwen/Qwen3-30B-A3B", 32768),
        "Qwen3-Embedding-0.6B": ("embedding", "Qwen3-Embedding-0.6B", 2048),
        "qwen3-embedding": ("embedding", "qwen3-embedding", None),
        "vectors": ("embedding", "qwen3-embedding", None),
        "text-embedding-3-small": ("embedding", "qwen3-embedding", None),
    }
    for row in rows:
        is_chat = row["type"] == "chat"
        assert row["capabilities"] == {"completion_chat": is_chat, "embeddings": not is_chat}
        assert row["parent"] is None


def test_a_list_without_executors_is_a_list():
    assert [row["root"] for row in listing({}, [], 1, ("minilm-e5",))] == [
        "auto",
        "base",
        "minilm-e5",
    ]

"""Receipts: what the caller sees, what is kept, and the timeline."""

import json
from dataclasses import replace

import pytest

from consilium.gateway import receipt_bytes
from consilium.gateway.receipt import LONGEST_BYTES, Added, Receipt, Tried, timeline

WHOLE = Receipt(
    id="01J",
    created=1_700_000_000.0,
    route="chat",
    model_asked="role/philosopher",
    target="role/philosopher",
    executor="hands",
    role="philosopher",
    profile="think",
    profile_why="auto: the words 'step by step'",
    replica="r1",
    attempts=(Tried("core", "upstream_down", 12.5),),
    revision="ab12",
    template="plain",
    usage={"prompt_tokens": 12, "completion_tokens": 5, "cached_tokens": 8},
    finish_reason="stop",
    timings={"gateway": 0.8, "queue": 1.5, "total": 90.0},
    notes=("Redis was down",),
    status=200,
    key_id="abc",
)


def test_the_key_is_kept_and_not_shown():
    assert "key_id" not in WHOLE.as_dict()
    assert WHOLE.stored()["key_id"] == "abc"


def test_both_shapes_are_json():
    for raw in (WHOLE.as_dict(), WHOLE.stored()):
        assert json.loads(json.dumps(raw))["notes"] == ["Redis was down"]


def test_a_plain_answer_has_a_short_receipt():
    shown = Receipt("01J", 1.0, "chat", "auto", "auto", "core").as_dict()
    assert set(shown) <= {
        "id",
        "created",
        "route",
        "model_asked",
        "target",
        "executor",
        "template",
        "status",
    }


def test_a_receipt_does_not_change():
    with pytest.raises(AttributeError):
        WHOLE.role = "other"


def test_the_timeline_tells_every_decision():
    text = timeline(WHOLE.stored())
    for words in (
        "01J",
        "role/philosopher",
        "think: auto: the words 'step by step'",
        "core did not answer (upstream_down)",
        "hands r1 ab12",
        "plain",
        "12 read, 8 of them",
        "stop",
        "Redis was down",
        "2023-11-14 22:13:20 UTC",
    ):
        assert words in text
    order = [
        text.index(word)
        for word in (
            "to check, frame",
            "to wait in the engine",
            "answered\n" if text.endswith("answered\n") else "90.0",
        )
    ]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"timings": None, "usage": None, "notes": None},
        {"created": "soon", "timings": {"gateway": "x", "other": 5}},
    ],
)
def test_a_receipt_of_another_version_is_still_told(raw):
    assert timeline(raw).startswith("receipt")


def test_a_receipt_is_bounded_and_says_what_it_left_out():
    many = tuple(f"collection/book-{place}#{'x' * 500}" for place in range(1000))
    full = Receipt(
        **{name: getattr(WHOLE, name) for name in ("id", "created", "route", "target", "executor")},
        model_asked="m" * 512,
        notes=tuple("n" * 1000 for _ in range(100)),
        passages=many,
        memories=many,
        adapters=many,
        guard=many,
        contributions=tuple(Added("retrieval", 20, 3.0, "w" * 900) for _ in range(4)),
    )
    kept = full.stored()
    assert len(json.dumps(kept)) <= LONGEST_BYTES
    assert kept["passages"][-1] == "and 981 more"


def test_the_timeline_names_what_was_added():
    told = Receipt(
        "01J",
        1.0,
        "chat",
        "auto",
        "auto",
        "core",
        contributions=(Added("retrieval", 3, 12.0), Added("memory", 0, 300.0, "memory was late")),
        passages=("books/7#10-90",),
    )
    text = timeline(told.stored())
    assert "3 pieces in 12.0 ms" in text
    assert "memory was late" in text
    assert "books/7#10-90" in text


@pytest.mark.parametrize(
    "before", [b"", b"data: [1]\n\n", b'data: {"id": "x", "obj', b"data: {}\n\n"]
)
def test_an_event_of_its_own_has_a_choice_whatever_stood_before(before):
    for route, nothing in (
        ("chat", {"delta": {}}),
        ("completions", {"text": "", "logprobs": None}),
    ):
        event = json.loads(receipt_bytes.event_like(before, route, b"7").removeprefix(b"data: "))
        assert event["choices"] == [{"index": 0, **nothing, "finish_reason": None}]
        assert event["consilium"] == 7


def test_where_its_adapter_was_and_how_long_it_waited_for_a_slot_is_told():
    receipt = replace(WHOLE, adapters=("sport:3f9c1a0b2d4e5f60",), adapter_tier="ram", timings={"adapter": 12.5})  # fmt: skip
    told = timeline(receipt.as_dict())
    assert "the engine's memory" in told
    assert "12.5" in told

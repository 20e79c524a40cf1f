"""POST /v1/routing: who is told the texts of other people's adapters."""

import json
from types import SimpleNamespace

import pytest

from consilium.gateway import http_routing
from consilium.gateway.adapter_choice import PLAIN
from consilium.gateway.adapters import Explained
from consilium.kernel.principals import Principal


class Visit:
    """A visit of a key with these scopes, where one adapter would answer."""

    def __init__(self, *scopes):
        self.principal = Principal("k1", "kate", frozenset(scopes))
        limits = SimpleNamespace(max_body_bytes=10_000, max_json_depth=10)
        self.face = SimpleNamespace(cast=SimpleNamespace(limits=limits, adapters=self))
        self.request = None

    async def enter(self):
        return SimpleNamespace(principal=self.principal)

    async def explain(self, _text):
        near = SimpleNamespace(name="sport", score=0.4, threshold=0.22, text="a secret example")
        return Explained(PLAIN, (near,))

    async def answer(self, body):
        self.answered = body


@pytest.mark.parametrize(
    ("scopes", "is_told"),
    [
        (("generate",), False),
        (("generate", "retrieval.read"), False),
        (("generate", "lora_router.read"), True),
        (("generate", "lora_router.write"), True),
        (("admin",), True),
    ],
)
async def test_the_texts_of_adapters_are_told_who_may_look_at_adapters(
    monkeypatch, scopes, is_told
):
    async def read(*_args, **_more):
        return json.dumps({"text": "how do I recover?"}).encode()

    monkeypatch.setattr(http_routing.request_body, "read", read)
    visit = Visit(*scopes)
    await http_routing.explain(visit)
    (one,) = visit.answered["candidates"]
    assert one["name"] == "sport"
    assert one.get("nearest", "") == ("a secret example" if is_told else "")

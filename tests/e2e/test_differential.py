"""Our answers against those of the bare vLLM server of the same version: the same JSON but for ids, times and our own field."""

from __future__ import annotations

import httpx
import pytest
from tests.e2e.differential import Answer, ask
from tests.e2e.differential_cases import Case, cases

pytestmark = pytest.mark.e2e

TOO_LONG = "one sentence of the house with both numbers, the same over HTTP and gRPC; vLLM words it as a BadRequestError"

# Where we differ on purpose. Each entry: name of the case, reason. The test then asks for the same status, and for an error that names the same field.
DIFFERENT: dict[str, str] = {"chat bad too long": TOO_LONG, "text bad too long": TOO_LONG}


@pytest.fixture(scope="module")
def pair(bare_server, cluster):
    """Clients to both servers, and the model name at each."""
    headers = {"Authorization": f"Bearer {cluster.key}"}
    with httpx.Client(base_url=bare_server.url, timeout=60) as bare, httpx.Client(base_url=cluster.url, timeout=60, headers=headers) as ours:
        yield (bare, bare_server.model), (ours, cluster.served)


def _compare(case: Case, bare: Answer, ours: Answer) -> None:
    if case.name in DIFFERENT:
        assert (bare.status, bare.body["error"]["param"]) == (ours.status, ours.body["error"]["param"]), DIFFERENT[case.name]
        assert "8193" in ours.body["error"]["message"]
        assert "8192" in ours.body["error"]["message"]
        return
    assert (bare.status, bare.media) == (ours.status, ours.media), (bare.body, ours.body)
    assert bare.body == ours.body


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_same_answer(case: Case, pair) -> None:
    (bare, bare_model), (ours, our_model) = pair
    _compare(case, ask(bare, case, bare_model), ask(ours, case, our_model))


def test_every_difference_is_a_case() -> None:
    assert set(DIFFERENT) <= {case.name for case in cases()}

"""Our answers against those of the bare vLLM server of the same version: the same JSON but for ids, times and our own field."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.bench.cluster import Ours
from tests.e2e.conftest import Begun
from tests.e2e.differential import Answer, ask
from tests.e2e.differential_cases import Case, cases

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
]  # the first one waits for a cluster and a bare server

TOO_LONG = "one sentence of the house with both numbers, the same over HTTP and gRPC; vLLM words it as a BadRequestError"

# Where we differ on purpose. Each entry: name of the case, reason. The test then asks for the same status, and for an error that names the same field.
DIFFERENT: dict[str, str] = {"chat bad too long": TOO_LONG, "text bad too long": TOO_LONG}

NO_PROMPT_LOGPROBS = (
    "this cluster has slots for adapters on a CPU, where vLLM's engine dies of log probabilities of the prompt in a batch with one",
    "prompt_logprobs",
)

# Where vLLM is wrong and we refuse. Each entry: name of the case, reason, the field that our refusal names.
REFUSED: dict[str, tuple[str, str]] = {
    "chat bad structured outputs number": (
        "vLLM answers 500, because its check calls a method that numbers do not have",
        "structured_outputs",
    ),
    "chat bad schema, streamed": (
        "vLLM answers 200 and tells of the wrong schema in the stream",
        "response_format",
    ),
    "chat echo": NO_PROMPT_LOGPROBS,
    "chat echo, streamed": NO_PROMPT_LOGPROBS,
    "text prompt logprobs": NO_PROMPT_LOGPROBS,
}

SHAPE = (
    "every refusal: OpenAI's `code` is a string or null and `type` one of a few words, where vLLM puts the HTTP status and the name of a class; `param` is the "
    "field alone, without FastAPI's 'body.', and also where vLLM names the field only in its sentence"
)
CODES = {400: "invalid_request", 404: "model_unknown"}


@pytest.fixture(scope="module")
def wanted(begun: Begun) -> dict[str, Answer]:
    """What vLLM's own server says to every case."""
    return begun.answers


@pytest.fixture(scope="module")
def ours(cluster: Ours) -> Iterator[httpx.Client]:
    """A client to our cluster."""
    with httpx.Client(
        base_url=cluster.url, timeout=240, headers={"Authorization": f"Bearer {cluster.key}"}
    ) as client:
        yield client


def _compare(case: Case, wanted: Answer, ours: Answer) -> None:
    if case.name in DIFFERENT:
        assert (wanted.status, wanted.body["error"]["param"]) == (
            ours.status,
            ours.body["error"]["param"],
        ), DIFFERENT[case.name]
        assert "8193" in ours.body["error"]["message"]
        assert "8192" in ours.body["error"]["message"]
        return
    if case.name in REFUSED:
        reason, field = REFUSED[case.name]
        assert wanted.status in {200, 500}, "vLLM has mended it"
        assert (ours.status, ours.body["error"]["param"]) == (400, field), reason
        return
    assert (wanted.status, wanted.media) == (ours.status, ours.media), (wanted.body, ours.body)
    if wanted.status in CODES:
        error = dict(wanted.body["error"])
        named = (error["param"] or "").removeprefix("body.")
        assert ours.body["error"] == {
            "message": error["message"],
            "type": "invalid_request_error",
            "param": named or ours.body["error"]["param"],
            "code": CODES[wanted.status],
        }, SHAPE
        return
    assert wanted.body == ours.body


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_same_answer(
    case: Case, cluster: Ours, wanted: dict[str, Answer], ours: httpx.Client
) -> None:
    _compare(case, wanted[case.name], ask(ours, case, cluster.core.served))


def test_every_difference_is_a_case() -> None:
    assert {*DIFFERENT, *REFUSED} <= {case.name for case in cases()}

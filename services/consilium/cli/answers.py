"""Answers of the gateway as the commands read them: a JSON document, or our error with the sentence that the gateway wrote.

Does not know what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.openai_errors import error_of, said_in

TIMEOUT_S: Final = 10.0


def document(
    endpoint: Endpoint,
    path: str,
    *,
    method: str = "GET",
    body: Mapping[str, object] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Mapping[str, object]:
    """Return the object that a path below /v1 answers with.

    Raises ConsiliumError: upstream_down if nobody answers, data_damaged, or what the gateway said.
    """
    import httpx

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        answer = httpx.request(
            method,
            f"{endpoint.openai}/{path}",
            headers=headers,
            json=body,
            timeout=timeout_s,
        )
    except httpx.HTTPError as err:
        raise ConsiliumError(
            "upstream_down", str(err), name=endpoint.openai, retry_after=1
        ) from err
    if not answer.is_success:
        raise failure_of(answer.status_code, answer.content)
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConsiliumError(
            "data_damaged",
            reason=f"{endpoint.openai}/{path} answered something that is no JSON object; is this a Consilium gateway?",
        )
    return found


def failure_of(status: int, raw: bytes) -> ConsiliumError:
    """Return our error for an answer that is not 200; its own sentence is kept."""
    return error_of(said_in(raw, status), status)

"""Answers of the gateway as the commands read them: a JSON document, or our error with the sentence that the gateway wrote.

Knows OpenAI error bodies. Does not know what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError

TIMEOUT_S: Final = 10.0


class SaidError(ConsiliumError):
    """An error whose public sentence was written by the other side."""

    def public(self) -> str:
        """Return the sentence as it came."""
        return self.detail


def document(endpoint: Endpoint, path: str) -> Mapping[str, object]:
    """Return the object at a path below /v1. Raises ConsiliumError: upstream_down if nobody answers, data_damaged, or what the gateway said."""
    import httpx

    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        answer = httpx.get(f"{endpoint.openai}/{path}", headers=headers, timeout=TIMEOUT_S)
    except httpx.HTTPError as err:
        raise ConsiliumError(
            "upstream_down", str(err), name=endpoint.openai, retry_after=1
        ) from err
    if answer.status_code != httpx.codes.OK:
        raise failure_of(answer.status_code, answer.text)
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


def failure_of(status: int, text: str) -> ConsiliumError:
    """Return our error for an OpenAI error body; its own sentence is kept."""
    from consilium.kernel.catalogue import BY_CODE

    try:
        error = json.loads(text)["error"]
        code, message, param = str(error.get("code")), str(error.get("message")), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message, param = (
            "upstream_down" if status >= 500 else "invalid_request",
            f"HTTP {status}: {text[:200]}",
            None,
        )
    return SaidError(
        code if code in BY_CODE else "invalid_request",
        message,
        param=param if isinstance(param, str) else None,
    )

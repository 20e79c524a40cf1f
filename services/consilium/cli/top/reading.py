"""The cluster's page, read from the gateway; for the cluster of this machine also from the supervisor, where the gateway does not hand it out.

Knows HTTP and keys. Does not know what stands on the page.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from consilium.cli.answers import failure_of
from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError

if TYPE_CHECKING:
    import httpx

LIMIT_S: Final = 5.0
AGE_HEADER: Final = "x-consilium-age"


@dataclass(frozen=True, slots=True)
class Reading:
    """One page.

    at    when it was made, on the monotonic clock
    note  why it is not from the gateway; empty where it is
    """

    text: str
    at: float
    note: str = ""


class Reader:
    """Reads the page again and again over one connection.

    beside  address of the supervisor's own page; empty for a cluster elsewhere
    """

    def __init__(self, endpoint: Endpoint, beside: str = "") -> None:
        import httpx

        self._endpoint, self._beside = endpoint, beside
        self._client = httpx.Client(timeout=LIMIT_S)

    def read(self) -> Reading:
        """Return the page.

        Raises ConsiliumError: upstream_down if nobody answers, unauthenticated, forbidden (the key lacks the scope), not_supported by a gateway of an earlier
        version, data_damaged for what is no page, or what else the gateway said.
        """
        try:
            return self._from_gateway()
        except ConsiliumError as err:
            if not self._beside:
                raise
            try:
                text, at = self._get(self._beside, "")
            except ConsiliumError:
                raise err from None
            return Reading(text, at, f"the gateway does not give the page: {err.public()}")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _from_gateway(self) -> Reading:
        try:
            text, at = self._get(f"{self._endpoint.openai}/metrics", self._endpoint.key)
        except ConsiliumError as err:
            if err.code != "route_unknown":
                raise
            raise ConsiliumError(
                "not_supported",
                reason=f"The gateway at {self._endpoint.root} has no /v1/metrics: it is of an earlier version. Update that cluster; 'consilium status --endpoint' shows its executors.",
            ) from None
        return Reading(text, at)

    def _get(self, url: str, key: str) -> tuple[str, float]:
        import httpx

        try:
            answer = self._client.get(
                url, headers={"Authorization": f"Bearer {key}"} if key else {}
            )
        except httpx.HTTPError as err:
            raise ConsiliumError("upstream_down", str(err), name=url, retry_after=1) from err
        if not answer.is_success:
            raise failure_of(answer.status_code, answer.content)
        if not answer.headers.get("content-type", "").startswith("text/plain"):
            raise ConsiliumError(
                "data_damaged",
                reason=f"{url} answered something that is no page of metrics; is this a Consilium gateway?",
            )
        return answer.text, time.monotonic() - _age_s(answer)


def _age_s(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get(AGE_HEADER, "0")))
    except ValueError:
        return 0.0

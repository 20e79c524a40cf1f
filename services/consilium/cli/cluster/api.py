"""A Kubernetes API server, read only: objects, lists and the logs of containers, as the JSON that `kubectl get -o json` shows.

Over httpx, which the commands have anyway; the official client would bring nine packages and half a second to read the same lists.
Does not know what the objects mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import httpx

from consilium.cli.cluster.kubeconfig import Access
from consilium.cli.cluster.objects import Object
from consilium.kernel.errors import ConsiliumError

TIMEOUT_S: Final = 15.0
PAGE: Final = 500


class Api:
    """One API server, for the time of a `with`."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._client = httpx.Client(
            base_url=access.server,
            headers=dict(access.headers),
            verify=access.tls(),
            timeout=TIMEOUT_S,
            proxy=access.proxy or None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Object:
        """Return an object. Raises ConsiliumError(kubernetes_unreached)."""
        answer = self._ask(path, query)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._refused(f"{path} answered something that is no JSON object; is this a Kubernetes API server?")  # fmt: skip
        return found

    def list(self, path: str, **query: str) -> tuple[Object, ...]:
        """Return all objects of a list; none where the cluster does not know their kind. Raises ConsiliumError(kubernetes_unreached)."""
        found: list[Object] = []
        more = ""
        while True:
            asked = {**query, "limit": str(PAGE), **({"continue": more} if more else {})}
            answer = self._ask(path, asked, may_be_missing=True)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return ()
            page = answer.json()
            found += page.get("items") or ()
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return tuple(found)

    def lists(
        self, paths: Mapping[str, str], space: str
    ) -> tuple[dict[str, tuple[Object, ...]], dict[str, str]]:
        """Return several lists by name, and for those that could not be read why.

        paths  name -> path, in which {space} stands for the namespace
        """
        found: dict[str, tuple[Object, ...]] = {}
        unread: dict[str, str] = {}
        for name, path in paths.items():
            try:
                found[name] = self.list(path.format(space=space))
            except ConsiliumError as error:
                unread[name] = error.public()
        return found, unread

    def log(self, space: str, pod: str, container: str, *, previous: bool, lines: int = 60) -> str:
        """Return the last lines that a container said; empty where the kubelet has none."""
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        path = f"/api/v1/namespaces/{space}/pods/{pod}/log"
        try:
            answer = self._client.get(path, params=query)
        except httpx.HTTPError:
            return ""
        return answer.text if answer.is_success else ""

    def _ask(
        self, path: str, query: Mapping[str, str], *, may_be_missing: bool = False
    ) -> httpx.Response:
        extensions = {"sni_hostname": self.access.server_name} if self.access.server_name else {}
        try:
            answer = self._client.get(path, params=dict(query), extensions=extensions)
        except httpx.HTTPError as err:
            raise self._refused(f"{self.access.server} does not answer ({err or type(err).__name__})") from err  # fmt: skip
        if answer.is_success or (may_be_missing and answer.status_code == httpx.codes.NOT_FOUND):
            return answer
        raise self._refused(_why(path, answer))

    def _refused(self, reason: str) -> ConsiliumError:
        return ConsiliumError("kubernetes_unreached", name=self.access.name, reason=reason)


def _why(path: str, answer: httpx.Response) -> str:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "the API server does not know these credentials (401); they may have expired: sign in again, or write the kubeconfig anew"
    try:
        said = answer.json().get("message", "")
    except (ValueError, AttributeError):
        said = answer.text[:200]
    if answer.status_code == httpx.codes.FORBIDDEN:
        return f"these credentials may not read {path} (403): {said}"
    return f"{path} answered {answer.status_code}: {said}"

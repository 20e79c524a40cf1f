"""Bring an adapter's files to a cluster: its two files in pieces, each where the one before ended, however often the connection breaks.

An upload is named by its content: the same command, run again, goes on where it was stopped. Knows the routes. Does not know what is in the files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from consilium.cli.answers import document, failure_of
from consilium.cli.endpoint import Endpoint
from consilium.demo.folder import Report, Step
from consilium.kernel.errors import ConsiliumError

if TYPE_CHECKING:
    import httpx

FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
OFFSET: Final = "upload-offset"
PIECE_BYTES: Final = 16 << 20
"""Bytes of one request: a connection that breaks costs no more than that."""
READ_BYTES: Final = 256 << 10
ATTEMPTS: Final = 8
PIECE_S: Final = 120.0
TAKE_S: Final = 900.0
"""The cluster hashes and weighs what came: a few seconds for a GiB."""


def send(
    endpoint: Endpoint,
    folder: Path,
    said: Mapping[str, object],
    report: Report,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Mapping[str, Any]:
    """Upload the two files of a folder, have them taken in, and return the adapter.

    said    name, settings and force, as POST /v1/adapters/_uploads/ID takes them
    report  hears of each piece

    Raises ConsiliumError: what the cluster says, or upstream_down after several attempts; what was sent stays there for a day.
    """
    sizes = {name: (folder / name).stat().st_size for name in FILES}
    upload = name_of(folder, report)
    total, done = sum(sizes.values()), 0

    def tell(before: int, here: int) -> None:
        report(Step("sending", before + here, total))

    import httpx

    with httpx.Client(
        headers={"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
        timeout=PIECE_S,
    ) as client:
        for name, size in sizes.items():
            url = f"{endpoint.openai}/adapters/_uploads/{upload}/{name}"
            _Sending(client, url, folder / name, size, sleep).run(partial(tell, done))
            done += size
    report(Step("being checked and stored", total, total))
    path = f"adapters/_uploads/{upload}"
    return document(endpoint, path, method="POST", body=said, timeout_s=TAKE_S)


def name_of(folder: Path, report: Report) -> str:
    """Return the id of an upload: of every byte that will be sent."""
    digest = hashlib.sha256()
    total = sum((folder / name).stat().st_size for name in FILES)
    for name in FILES:
        with (folder / name).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                report(Step("hashing", file.tell(), total))
        digest.update(b"\0")
    return digest.hexdigest()[:40]


class _Sending:
    """One file on its way."""

    def __init__(
        self,
        client: httpx.Client,
        url: str,
        file: Path,
        size: int,
        sleep: Callable[[float], None],
    ) -> None:
        self._client, self._url, self._file, self._size, self._sleep = (
            client,
            url,
            file,
            size,
            sleep,
        )

    def run(self, report: Callable[[int], None]) -> None:
        """Send what is not there yet."""
        failed = 0
        there = -1
        while there < self._size:
            try:
                if there < 0:
                    there = self._asked()
                report(there)
                if there < self._size or not self._size:
                    there = self._piece(there)
                failed = 0
            except ConsiliumError as err:
                failed += 1
                # a request that broke off may go on there for a moment: then the next one is told of a conflict
                if not (err.row.retry or err.code == "conflict") or failed >= ATTEMPTS:
                    raise
                self._sleep(min(10.0, float(err.fields.get("retry_after") or 0.5 * 2**failed)))
                there = -1
        report(there)

    def _asked(self) -> int:
        """Return how much is there. More than the file has cannot be of this file: then it is sent from the beginning."""
        answer = self._request("HEAD", self._url)
        there = int(answer.headers.get(OFFSET, "0"))
        return there if there <= self._size else 0

    def _piece(self, start: int) -> int:
        end = min(start + PIECE_BYTES, self._size)
        answer = self._request(
            "PUT",
            f"{self._url}?offset={start}",
            content=self._read(start, end),
            headers={"content-length": str(end - start)},
        )
        return int(answer.json()["bytes"])

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        with self._file.open("rb") as file:
            file.seek(start)
            left = end - start
            while left and (piece := file.read(min(READ_BYTES, left))):
                left -= len(piece)
                yield piece

    def _request(self, method: str, url: str, **more: Any) -> httpx.Response:
        import httpx

        try:
            answer = self._client.request(method, url, **more)
        except httpx.HTTPError as err:
            raise ConsiliumError("upstream_down", str(err), name=url, retry_after=1) from err
        if not answer.is_success:
            raise failure_of(answer.status_code, answer.content)
        return answer

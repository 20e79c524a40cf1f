"""What the gateway replicas hold of the configuration, asked of the gateway, and waiting until all hold the same.

Knows the page /v1/config. Does not know where the configuration comes from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.cli.answers import document
from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError

LIMIT_S: Final = 60.0
"""A replica that was killed counts for some seconds more, a new one needs a moment to say what it holds, and a full machine takes seconds for anything."""
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Page:
    """GET /v1/config.

    version   one digest for all live sections of the replica that answered
    versions  live section -> digest
    sections  the live sections, masked
    owned     whether the gateway may write its file
    wanted    replicas that there should be
    replicas  what each replica holds: id, host, pid, versions, refused, pending
    """

    version: str
    versions: Mapping[str, str]
    sections: Mapping[str, Any]
    owned: bool
    wanted: int
    replicas: tuple[Mapping[str, Any], ...]

    def missing(self, versions: Mapping[str, str]) -> str:
        """Return why not every replica holds these versions, or nothing if they all do."""
        behind = [row for row in self.replicas if not holds(row, versions)]
        refusals = [str(row["refused"]) for row in behind if row["refused"]]
        if refusals:
            return refusals[0]
        if behind:
            row = behind[0]
            return f"the replica with pid {row['pid']} on {row['host']} holds another version"
        if len(self.replicas) < self.wanted:
            return f"{len(self.replicas)} of {self.wanted} replicas have said what they hold"
        return ""


def holds(row: Mapping[str, Any], versions: Mapping[str, str]) -> bool:
    """Say whether a replica holds these versions; sections that it does not read are no matter."""
    held: Mapping[str, str] = row["versions"]
    return all(versions[name] == held[name] for name in held if name in versions)


def ask(endpoint: Endpoint) -> Page:
    """Return what the gateway holds. Raises ConsiliumError: upstream_down, unauthenticated, forbidden, data_damaged."""
    return _page(document(endpoint, "config"))


def exchange(endpoint: Endpoint, sections: Mapping[str, Any], base: str) -> Page:
    """Put live sections in place of those of the version `base`. Raises ConsiliumError with what the gateway said."""
    body = {"sections": dict(sections), "base": base}
    return _page(document(endpoint, "config", method="PUT", body=body))


def wait(
    endpoint: Endpoint,
    versions: Mapping[str, str],
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> Page:
    """Return when every replica holds these versions. Raises ConsiliumError(not_taken_over) with the reason if they do not in time."""
    until = clock() + limit_s
    while True:
        page, reason = None, ""
        try:
            page = ask(endpoint)
            reason = page.missing(versions)
        except ConsiliumError as error:
            reason = error.public().rstrip(".")
        if page is not None and not reason:
            return page
        if clock() > until:
            raise ConsiliumError("not_taken_over", seconds=f"{limit_s:g}", reason=reason)
        time.sleep(_POLL_S)


def _page(found: Mapping[str, Any]) -> Page:
    try:
        return Page(
            str(found["version"]),
            dict(found["versions"]),
            dict(found["sections"]),
            bool(found["owned"]),
            int(found["wanted_replicas"]),
            tuple(dict(row) for row in found["replicas"]),
        )
    except (KeyError, TypeError, ValueError) as err:
        raise ConsiliumError(
            "data_damaged",
            str(err),
            reason="the gateway's page /v1/config has another form; is it of this version?",
        ) from err

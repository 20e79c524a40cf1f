"""Where the services of a cluster listen and find each other: the section `services`, which `up` and the chart fill in.

Knows addresses. Does not know what the services do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

from consilium.kernel.config import Section
from consilium.kernel.errors import ConsiliumError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]


class Address(Section):
    """Where callers find one service."""

    grpc: str = Field(
        "", description="host:port, or dns:///name:port for every address of a headless Service."
    )
    http: str = Field("", description="http://host:port of its inner HTTP; empty = it has none.")
    metrics: str = Field(
        "",
        description="http://host:port of its own page: GET /metrics, and GET /healthz, which answers 200 while it is well.",
    )


MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_BODY_KEY: Final = "gateway.max_body_bytes"


class PublicLimit(Section):
    """The one key of the public face that every service keeps to: what comes in there may go on to any of them."""

    model_config = Section.model_config | {"extra": "ignore"}

    max_body_bytes: int = MAX_BODY_BYTES


class LimitView(Section):
    """The part of the tree with the limit of requests."""

    model_config = Section.model_config | {"extra": "ignore"}

    gateway: PublicLimit = Field(default_factory=PublicLimit)


class ServicesView(Section):
    """The part of the tree that every service reads."""

    model_config = Section.model_config | {"extra": "ignore"}

    services: dict[Name, Address] = Field(
        default_factory=dict,
        description="Addresses of the cluster's own services; up and the chart write them.",
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Where one service listens: (host, port) each. A port of 0 is drawn free; None = not opened."""

    grpc: tuple[str, int]
    http: tuple[str, int] | None = None
    metrics: tuple[str, int] | None = None


def places(
    name: str,
    services: Mapping[str, Address],
    *,
    grpc: str | None = None,
    http: str | None = None,
    metrics: str | None = None,
) -> Places:
    """Return where a service listens: at the addresses that it was given, each HOST:PORT, else at those where callers look for it.

    Raises ConsiliumError(config_invalid) if nothing says where it serves gRPC, or if an address is none to listen at.
    """
    known = services.get(name, Address())
    at = {
        key: _place(given or getattr(known, key), f"services.{name}.{key}", flag)
        for key, flag, given in (
            ("grpc", "--listen", grpc),
            ("http", "--http", http),
            ("metrics", "--metrics", metrics),
        )
    }
    if at["grpc"] is None:
        raise ConsiliumError(
            "config_invalid",
            key=f"services.{name}.grpc",
            reason="nothing says where it listens; write host:port, or give --listen HOST:PORT",
        )
    return Places(at["grpc"], at["http"], at["metrics"])


def _place(address: str, key: str, flag: str) -> tuple[str, int] | None:
    if not address:
        return None
    host, colon, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise ConsiliumError(
            "config_invalid",
            key=key,
            reason=f"{address!r} is no address to listen at; give {flag} HOST:PORT",
        )
    return host.strip("[]"), int(port)

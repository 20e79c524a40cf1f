"""Where the services of a cluster listen and find each other: the section `services`, which `up` and the chart fill in.

Knows addresses. Does not know what the services do.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consilium.kernel.config import Section

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


class Listen(Section):
    """Where one service listens. A port of 0 is drawn free; an HTTP port of None is not opened."""

    host: str = "127.0.0.1"
    grpc_port: int = Field(0, ge=0, le=65535)
    http_port: int | None = Field(None, ge=0, le=65535)
    metrics_port: int | None = Field(None, ge=0, le=65535)


class ServicesView(Section):
    """The part of the tree that every service reads."""

    model_config = Section.model_config | {"extra": "ignore"}

    services: dict[Name, Address] = Field(
        default_factory=dict,
        description="Addresses of the cluster's own services; up and the chart write them.",
    )

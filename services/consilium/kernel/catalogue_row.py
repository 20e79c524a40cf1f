"""The shape of one row of the catalogue of errors.

Knows names of statuses. Does not know which rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One error code.

    grpc      name of the canonical gRPC status
    http      status code of the HTTP face
    kind      `type` of the OpenAI error object
    retry     whether the same request may succeed later
    sentence  public text, with {fields}; used when all its fields are given
    plain     public text without fields; used when one is missing
    exit_code exit code of a process that ends with this error, or 1
    next_step what a person should do, shown by the CLI
    """

    code: str
    grpc: str
    http: int
    kind: str
    retry: bool
    sentence: str
    plain: str
    exit_code: int = 1
    next_step: str = ""

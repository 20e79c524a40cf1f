"""`consilium smoke`: is a cluster of use? Its health, one chat over HTTP and one over gRPC, within a limit. `helm test` calls it."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Final

from consilium.cli.answers import document, failure_of
from consilium.cli.endpoint import Endpoint, add_endpoint, endpoint_of
from consilium.kernel.errors import ConsiliumError

LIMIT_S: Final = 110.0
PAUSE_S: Final = 1.0
QUESTION: Final = "Say one word."
TOKENS: Final = 4


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "smoke",
        help="Try a cluster: health, one chat over HTTP, one over gRPC.",
        description="Try a cluster: its health, one chat over HTTP, and one over gRPC where --grpc names its address. What does not answer is asked again until the limit.",
    )
    parser.add_argument("--grpc", metavar="HOST:PORT", help="address of the gateway's gRPC")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="SECONDS",
        help=f"for all steps together (default: {LIMIT_S:.0f})",
    )
    add_endpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Try each step. Raises the last error of the step that did not come right in time."""
    endpoint = endpoint_of(args)
    until = time.monotonic() + args.limit
    steps: list[tuple[str, Callable[[float], str]]] = [
        ("health", lambda rest_s: _health(endpoint, rest_s)),
        ("chat over HTTP", lambda rest_s: _http(endpoint, rest_s)),
    ]
    if args.grpc:
        steps.append(("chat over gRPC", lambda rest_s: _grpc(args.grpc, endpoint.key, rest_s)))
    for name, step in steps:
        began = time.monotonic()
        said = _again_and_again(step, until)
        print(f"{name}: ok after {time.monotonic() - began:.1f} s{said}", flush=True)
    return 0


def _again_and_again(step: Callable[[float], str], until: float) -> str:
    while True:
        try:
            return step(max(1.0, until - time.monotonic()))
        except ConsiliumError as error:
            if not error.row.retry or time.monotonic() + PAUSE_S >= until:
                raise
            time.sleep(PAUSE_S)


def _health(endpoint: Endpoint, rest_s: float) -> str:
    import httpx

    try:
        answer = httpx.get(f"{endpoint.root}/ready", timeout=min(10.0, rest_s))
    except httpx.HTTPError as err:
        raise ConsiliumError(
            "upstream_down", str(err), name=endpoint.root, retry_after_s=PAUSE_S
        ) from err
    if not answer.is_success:
        raise failure_of(answer.status_code, answer.content)
    return ""


def _http(endpoint: Endpoint, rest_s: float) -> str:
    body: dict[str, object] = {
        "model": "base",
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    answer = document(endpoint, "chat/completions", method="POST", body=body, timeout_s=rest_s)
    return f" ({answer.get('model')})"


def _grpc(target: str, key: str, rest_s: float) -> str:
    from consilium.gateway.client import GenerationClient, Message

    async def ask() -> str:
        async with GenerationClient(target, key=key or None) as client:
            answer = await client.generate(
                [Message("user", QUESTION)], model="base", max_tokens=TOKENS, timeout_s=rest_s
            )
            return f" ({answer.finish_reason})"

    return asyncio.run(ask())

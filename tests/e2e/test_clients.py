"""Clients that nobody wrote for us, over gRPC with reflection: `buf curl` of the tool that lints our protos, and grpcurl where it is installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.bench.cluster import Ours
from tests.json_objects import objects

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BUF = Path(__file__).parents[2] / ".cache/buf/node_modules/.bin/buf"
SERVICE = "consilium.v1.GenerationService"
ASK = {
    "model": "base",
    "chat": {"messages": [{"author": "AUTHOR_USER", "content": [{"text": "Hello"}]}]},
    "sampling": {"max_tokens": 4},
}


def said(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def check(answers: list[dict]) -> None:
    assert answers[0]["metadata"]["executor"] == "core"
    usage = answers[-1]["final"]["usage"]
    assert (
        int(usage.get("completionTokens") or usage["completion_tokens"]) == 4
    )  # grpcurl writes names as the proto has them


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed: no npm on this machine")
def test_buf_curl_lists_the_service_and_plays_a_turn(cluster: Ours) -> None:
    base = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    assert SERVICE in said([*base, "--list-services", f"http://{cluster.grpc}"])
    words = [
        *base,
        "-H",
        f"authorization: Bearer {cluster.key}",
        "-d",
        json.dumps(ASK),
        f"http://{cluster.grpc}/{SERVICE}/Generate",
    ]
    check(objects(said(words)))

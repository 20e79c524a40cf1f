"""The named peer: vLLM's own OpenAI server of the same version, with the same engine arguments as our replica.

Knows how to start, await and end it. Does not know what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from consilium.kernel.ports import free_port

SERVER = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, slots=True)
class Bare:
    """A running bare server: base URL, model name, pid, seconds from spawn to the first token."""

    url: str
    model: str
    pid: int
    first_token_s: float


def flags(arguments: Mapping[str, object]) -> list[str]:
    """Turn engine arguments by field name into command-line flags."""
    out: list[str] = []
    for key, value in arguments.items():
        flag = "--" + key.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            out.append(flag if value else "--no-" + key.replace("_", "-"))
        elif isinstance(value, list | tuple):
            out += [flag, *(str(item) for item in value)]
        else:
            out += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return out


@contextlib.contextmanager
def serve(
    model: Path,
    arguments: Mapping[str, object],
    *,
    env: Mapping[str, str],
    log: Path,
    name: str = "core",
    wait_s: float = 300,
) -> Iterator[Bare]:
    """Start the server, wait for its first token, end it with its process group on leaving."""
    port = free_port()
    begin = time.monotonic()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        SERVER,
        "--model",
        str(model),
        "--served-model-name",
        name,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *flags(arguments),
    ]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out, tempfile.TemporaryDirectory(prefix="csl-v") as sockets:
        environment = {
            **os.environ,
            **env,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_RPC_BASE_PATH": sockets,
        }
        child = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            first_token(url, "", name, child, begin + wait_s)
            yield Bare(url, name, child.pid, time.monotonic() - begin)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


def first_token(
    url: str, key: str, model: str, child: subprocess.Popen[bytes] | None, until: float
) -> None:
    """Ask for one token until it comes. Raises RuntimeError if the process ends, the key is refused or the time is over."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    last = "nothing yet"
    while time.monotonic() < until:
        if child is not None and child.poll() is not None:
            raise RuntimeError(f"the server ended with {child.returncode}")
        try:
            reply = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=30)
        except httpx.HTTPError as err:
            last = repr(err)
        else:
            if reply.status_code == 200:
                return
            last = f"{reply.status_code} {reply.text[:300]}"
            if reply.status_code in {401, 403}:  # waiting does not make a key better
                raise RuntimeError(f"the key is refused: {last}")
        time.sleep(0.1)
    raise RuntimeError(f"no first token in time; last: {last}")

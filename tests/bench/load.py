"""A lean load generator for streamed OpenAI answers.

It shares two cores with the server that it measures, so it parses as little as it can: one asyncio connection per worker, kept alive, and a count
of `data:` events. Knows HTTP/1.1 with chunked bodies. Does not know what is being compared.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_MARKS = (b'"content":"', b'"text":"', b'"reasoning":"')
"""Beginnings of what a model said or thought, in an event; followed by another quote it is empty."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load: base URL (scheme://host:port), key, model name."""

    name: str
    url: str
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One streamed answer: seconds to the first content event, seconds in all, number of events that carry content."""

    ttft_s: float
    total_s: float
    tokens: int
    status: int


@dataclass(frozen=True, slots=True)
class Trial:
    """All answers of one trial and its wall time in seconds."""

    samples: tuple[Sample, ...]
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(s.tokens for s in self.samples) / self.wall_s

    def ttft_ms(self, q: float) -> float:
        """Return a quantile (0..1) of the time to the first token in ms."""
        return quantile([s.ttft_s for s in self.samples], q) * 1e3


def quantile(values: list[float], q: float) -> float:
    """Return the q-quantile (0..1) by linear interpolation. Raises IndexError if there are no values."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


class _Connection:
    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._host, self._port, self._key = (
            parts.hostname or "127.0.0.1",
            parts.port or 80,
            target.key,
        )
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> Sample:
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(
                self._host, self._port, limit=1 << 20
            )
        reader, writer = self._reader, self._writer
        assert reader is not None
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        begin = time.perf_counter()
        writer.write(head.encode() + body)
        raw = await reader.readuntil(b"\r\n\r\n")
        status = int(raw[9:12])
        lowered = raw.lower()
        first: float | None = None
        tokens = 0
        if b"transfer-encoding: chunked" in lowered:
            while size := int(await reader.readline(), 16):
                chunk = await reader.readexactly(size + 2)
                events = sum(chunk.count(mark) for mark in _MARKS)
                empty = sum(chunk.count(mark + b'"') for mark in _MARKS)
                if events > empty:
                    first = first or time.perf_counter()
                    tokens += events - empty
            await reader.readexactly(2)
        else:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        end = time.perf_counter()
        if b"connection: close" in lowered:
            self.close()
        return Sample((first or end) - begin, end - begin, tokens, status)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def _closed_loop(target: Target, bodies: list[bytes], concurrency: int, path: str) -> Trial:
    queue = list(reversed(bodies))
    samples: list[Sample] = []

    async def worker() -> None:
        connection = _Connection(target)
        while queue:
            samples.append(await connection.post(path, queue.pop()))
        connection.close()

    begin = time.perf_counter()
    async with asyncio.timeout(600):
        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return Trial(tuple(samples), time.perf_counter() - begin)


USUAL = "Tell me in plain words how a small town keeps its library alive, step {number}."
SHORT = "Go on, step {number}."
"""What is asked: some 60 tokens, or 30, with the template. The short one for models that read 60 tokens a second on this machine."""


def chat_bodies(
    model: str, count: int, max_tokens: int, salt: str, words: str = USUAL
) -> list[bytes]:
    """Return `count` streamed chat requests with distinct prompts; the answer never ends early."""
    return [
        json.dumps(
            {
                "model": model,
                "messages": [
                    {"role": "user", "content": f"Case {salt}-{i}. {words.format(number=i)}"}
                ],
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        for i in range(count)
    ]


def run(
    target: Target,
    *,
    count: int,
    concurrency: int,
    max_tokens: int,
    salt: str,
    path: str = "/v1/chat/completions",
    words: str = USUAL,
) -> Trial:
    """Run a closed loop and return the trial. Raises RuntimeError if an answer was not 200."""
    trial = asyncio.run(
        _closed_loop(
            target, chat_bodies(target.model, count, max_tokens, salt, words), concurrency, path
        )
    )
    bad = [s.status for s in trial.samples if s.status != 200]
    if bad:
        raise RuntimeError(f"{target.name}: {len(bad)} of {count} answers were {sorted(set(bad))}")
    return trial

"""What a kill -9 costs: each part of a running cluster in turn, while streams run.

    python -m tests.bench.recovery [--model tiny|demo] [--times 5] [--parts haproxy,gcs] [--streams 4]

For each part: seconds from the kill until chats are answered again and stay so (median, worst), what those who asked meanwhile were told, how the streams that ran
ended, and what `consilium status` said 0.3, 2 and 5 s after the kill. Has no peer: nobody else's cluster comes with the same parts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, Self

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench import cluster, command_line
from tests.bench.chat_body import chat
from tests.bench.cluster import Ours
from tests.command import consilium

LOOKS_S: Final = (0.3, 2.0, 5.0)
"""Seconds after the kill at which `consilium status` is asked."""
CALM_S: Final = 4.0
"""Answers must have been good for so long before a part counts as back."""
LIMIT_S: Final = 120.0
EVERY_S: Final = 0.1
GOOD: Final = "200"


def _named(*names: str) -> Callable[[Ours], list[psutil.Process]]:
    return lambda ours: [found for found in ours.processes("") if found.name() in names]


def _titled(word: str) -> Callable[[Ours], list[psutil.Process]]:
    return lambda ours: ours.processes(word)


def _part(name: str) -> Callable[[Ours], list[psutil.Process]]:
    def find(ours: Ours) -> list[psutil.Process]:
        known = json.loads((ours.state / "cluster.json").read_text())
        return [psutil.Process(item["pid"]) for item in known["parts"][name]["pids"]]

    return find


def _supervisor(ours: Ours) -> list[psutil.Process]:
    known = json.loads((ours.state / "cluster.json").read_text())
    return [psutil.Process(known["supervisor"]["pid"])]


PARTS: Final[dict[str, Callable[[Ours], list[psutil.Process]]]] = {
    "haproxy": _named("haproxy"),
    "gateway": _titled("ServeReplica:gateway"),
    "core": lambda ours: ours.cores(),
    "replica": _titled("ServeReplica:executor-core"),
    "redis": _part("redis"),
    "gcs": _named("gcs_server"),
    "raylet": _named("raylet"),
    "supervisor": _supervisor,
}
"""Name of a part -> its processes."""


@dataclass
class Killed:
    """What one kill cost. `told` and `streams` count; `looks` has what `status` said, by seconds."""

    back_s: float
    told: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    looks: dict[float, str] = field(default_factory=dict)


async def outcome(http: httpx.AsyncClient) -> str:
    """Ask for one token. Return 200, or status and code of the refusal, or how the connection failed."""
    try:
        reply = await http.post("/v1/chat/completions", json=chat(1, stream=False))
    except httpx.HTTPError as error:
        return type(error).__name__
    return GOOD if reply.status_code == 200 else _refusal(reply.status_code, reply.content)


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"{status} {json.loads(body)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{status} {body[:40].decode(errors='replace')!r}"


async def stream_outcome(http: httpx.AsyncClient, tokens: int) -> str:
    """Read one stream to its end. Return how it ended."""
    begun, last = False, ""
    try:
        async with http.stream(
            "POST", "/v1/chat/completions", json=chat(tokens, stream=True)
        ) as reply:
            if reply.status_code != 200:
                return _refusal(reply.status_code, await reply.aread())
            begun = True
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    last = line[6:]
                elif line == "data: [DONE]":
                    error = json.loads(last).get("error")
                    return f"event {error['code']}" if error else "whole"
    except httpx.HTTPError as error:
        return f"cut ({type(error).__name__})" if begun else type(error).__name__
    return "cut (no [DONE])"


def look(state: Path) -> str:
    """Return what `consilium status` says: its exit code, and what is not well."""
    said = consilium("status", "--state", str(state), "--output", "json", timeout_s=30)
    try:
        known = json.loads(said.stdout)
    except ValueError:
        return f"{said.returncode} {said.stderr.strip()[:40]}"
    ailing = [f"{row['part']} {row['state']}" for row in known["down"]]
    ailing += [
        f"{row['name']} {row['state']}" for row in known["executors"] if row["state"] != "ready"
    ]
    if known["supervisor"]["care"] != "looked after":
        ailing.append(f"supervisor {known['supervisor']['care']}")
    return f"{said.returncode} {', '.join(dict.fromkeys(ailing)) or known['phase']}"


class Trial:
    """One cluster under kills, with streams that never stop."""

    def __init__(self, ours: Ours, streams: int) -> None:
        self._ours = ours
        self._count = streams
        headers = {"Authorization": f"Bearer {ours.key}"}
        self._http = httpx.AsyncClient(base_url=ours.url, timeout=30, headers=headers)
        self._ended: list[str] = []
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._running = [asyncio.create_task(self._stream()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._http.aclose()

    async def kill(self, part: str) -> Killed:
        """Kill a part and watch until it is back. Raises TimeoutError if that takes longer than LIMIT_S, LookupError if it has no process."""
        # In a thread: while the processes are looked for, streams must go on being read, or all of them have ended when the kill comes.
        victims = await asyncio.to_thread(PARTS[part], self._ours)
        if not victims:
            raise LookupError(f"{part} has no process")
        before = len(self._ended)
        begun = time.monotonic()
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        looks = [asyncio.create_task(self._look(seconds)) for seconds in LOOKS_S]
        found = await self._until_back(begun)
        found.looks = dict(zip(LOOKS_S, await asyncio.gather(*looks), strict=True))
        found.streams = Counter(self._ended[before:])
        return found

    async def _until_back(self, begun: float) -> Killed:
        """Ask again and again. Back is the first good answer after which all are good."""
        told: Counter[str] = Counter()
        back_s = 0.0
        async with asyncio.timeout(LIMIT_S):
            while True:
                said = await outcome(self._http)
                now = time.monotonic() - begun
                if said != GOOD:
                    told[said] += 1
                    back_s = 0.0
                elif not back_s:
                    back_s = now
                if back_s and now - back_s >= CALM_S and now > LOOKS_S[-1]:
                    return Killed(back_s, told)
                await asyncio.sleep(EVERY_S)

    async def _look(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return await asyncio.to_thread(look, self._ours.state)

    async def _stream(self) -> None:
        while True:
            ended = await stream_outcome(self._http, 200)
            self._ended.append(ended)
            if ended != "whole":
                await asyncio.sleep(0.5)


def counted(counts: Sequence[Counter[str]]) -> str:
    """Return counts together, the most frequent first; how often nothing was seen is no news."""
    together = sum(counts, Counter())
    return ", ".join(f"{count} x {what}" for what, count in together.most_common()) or "nothing"


def table(found: dict[str, list[Killed]], model: str) -> Table:
    """Return the table that is printed."""
    times = max(map(len, found.values()), default=0)
    made = Table(
        "part", "back, s: median (worst)", "callers were told", "streams ended", *(f"status after {s:g} s" for s in LOOKS_S),
        title=f"kill -9, each part {times} times, model {model}",
        show_lines=True,
    )  # fmt: skip
    for part, kills in found.items():
        backs = [kill.back_s for kill in kills]
        looks = [counted([Counter([kill.looks[s]]) for kill in kills]) for s in LOOKS_S]
        made.add_row(
            part,
            f"{median(backs):.1f} ({max(backs):.1f})",
            counted([kill.told for kill in kills]),
            counted([kill.streams for kill in kills]),
            *(said.removeprefix("1 x ") if times == 1 else said for said in looks),
        )
    return made


async def run(
    ours: Ours, parts: Sequence[str], times: int, trial: Trial, found: dict[str, list[Killed]]
) -> None:
    """Kill each part so many times, say so as it goes, and note what it cost in `found`."""
    async with trial:
        for part in parts:
            for number in range(times):
                killed = await trial.kill(part)
                found.setdefault(part, []).append(killed)
                say(
                    f"{part} {number + 1} of {times}: back after {killed.back_s:.1f} s; {counted([killed.told])}; streams {counted([killed.streams])}; {killed.looks}"
                )
                if part == "supervisor":
                    await taken_over(ours)


async def taken_over(ours: Ours) -> None:
    """Let `consilium up` look after the cluster again, and say how that went."""
    begun = time.monotonic()
    model = json.loads((ours.state / "config.json").read_text())["model"]
    words = ("up", "--state", str(ours.state), "--model", model)
    again = await asyncio.to_thread(lambda: consilium(*words, timeout_s=LIMIT_S))
    say(f"  'consilium up': exit code {again.returncode} after {time.monotonic() - begun:.1f} s")


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Run the benchmark from the command line."""
    parser = command_line.parser(__doc__, model="tiny")
    parser.add_argument("--times", type=int, default=5, help="kills of each part")
    parser.add_argument("--parts", default=",".join(PARTS), help="names, by commas")
    parser.add_argument("--streams", type=int, default=4, help="streams that run meanwhile")
    options = parser.parse_args()
    parts = options.parts.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    found: dict[str, list[Killed]] = {}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            cluster.up(options.model, Path(folder)) as ours,
        ):
            say(f"up after {ours.first_token_s:.1f} s")
            trial = Trial(ours, options.streams)
            asyncio.run(run(ours, parts, options.times, trial, found))
    finally:  # also when its time is over: what is known is shown
        if found:
            Console(width=160).print(table(found, options.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())

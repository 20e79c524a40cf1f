"""`consilium top` as a person runs it, against a gateway on real sockets: one frame, the live picture in a terminal, and what it says where it cannot."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.command import MODULE
from tests.component.gateway.pages import Pages
from tests.interrupted import HEARING
from tests.unit.cli.top.readings import page
from tests.waiting import LIMIT_S

SCOPES = frozenset({"metrics.read"})
ALTERNATE = "\x1b[?1049h"
BACK = "\x1b[?1049l"
COLOUR = "\x1b[36m"


class Moving(Pages):
    """A page on which 500 tokens more are told each time."""

    @property
    def said(self) -> str:
        turns = self.asked * 4
        return page(
            made=1000 + self.asked * 500,
            first=(0, 0, turns, turns, turns, turns),
            overloaded=0,
            joules=self.asked * 100.0,
        )

    @said.setter
    def said(self, text: str) -> None:
        """What the base sets is not asked for."""


@pytest.fixture
async def moving() -> AsyncIterator[Moving]:
    served = Moving()
    await served.listen()
    yield served
    await served.close()


def _without_size() -> dict[str, str]:
    """Return the environment without a size of the terminal: rich would keep to it."""
    return {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}}


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *words: str, columns: int = 100, **env: str) -> None:
        self.main, inner = pty.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            [*HEARING, *MODULE, "top", *words],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**_without_size(), "TERM": "xterm-256color", **env},
            start_new_session=True,
            close_fds=True,
        )
        self.mode = termios.tcgetattr(inner)
        self.inner = inner
        self.seen = ""
        os.set_blocking(self.main, False)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    async def until(self, words: str, limit_s: float = LIMIT_S) -> str:
        """Wait for words; return what came since the last call."""
        end, came = time.monotonic() + limit_s, ""
        while words not in came:
            assert time.monotonic() < end, f"{words!r} did not come: {came[-2000:]!r}"
            try:
                came += os.read(self.main, 65536).decode("utf-8", "replace")
            except (BlockingIOError, OSError):
                await asyncio.sleep(0.02)
        self.seen += came
        return came

    def type(self, key: bytes) -> None:
        os.write(self.main, key)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, LIMIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.inner)
        os.close(self.main)


@pytest.fixture
def opened() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


async def told(*words: str) -> tuple[int, str, str]:
    """Run the command without a terminal; return its exit code, what it printed, and what it complained."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *MODULE,
        "top",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def reached(gateway, pages: Pages, **options) -> list[str]:
    """Return the flags that name a gateway with this page, and a key for it."""
    bench = await gateway(page=pages.url)
    key = await bench.new_key(**{"scopes": SCOPES, **options})
    return ["--endpoint", bench.url, "--key", key]


async def test_one_frame_without_a_terminal_has_real_rates(gateway, moving: Moving) -> None:
    code, out, err = await told(*await reached(gateway, moving))
    assert code == 0, err
    assert moving.asked == 2
    assert "\x1b" not in out
    assert "core" in out
    assert "p50 175 ms" in out
    rate = float(out.split("tokens/s")[1].split()[0])
    assert 0 < rate < 650  # 500 and 125 tokens, a second apart, or more on a busy machine


async def test_as_json(gateway, moving: Moving) -> None:
    code, out, _ = await told(*await reached(gateway, moving), "--output", "json")
    found = json.loads(out)
    assert code == 0
    assert found["executors"][0]["name"] == "core"
    assert found["made_s"] > 0
    assert found["down"] == ["memory"]
    assert "executor large is not ready" in found["wrong"]


async def test_a_key_without_the_scope_is_told_which_and_how(gateway, moving: Moving) -> None:
    code, out, err = await told(*await reached(gateway, moving, scopes=frozenset({"generate"})))
    assert (code, out) == (1, "")
    assert "metrics.read" in err
    assert "consilium keys create" in err


async def test_a_cluster_that_does_not_run(tmp_path: Path) -> None:
    code, _, err = await told("--state", str(tmp_path / "state"))
    assert code == 71
    assert "consilium up" in err


async def test_nobody_at_the_address() -> None:
    code, _, err = await told("--endpoint", "http://127.0.0.1:9", "--key", "csl_x")
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "not answering" in err


async def test_an_interval_that_makes_no_sense() -> None:
    code, _, err = await told("--interval", "0.1")
    assert code == 2
    assert "1 to 3600" in err


async def test_live_until_q(gateway, moving: Moving, opened: list[Terminal]) -> None:
    terminal = Terminal(*await reached(gateway, moving))
    opened.append(terminal)
    await terminal.until(ALTERNATE)
    await terminal.until(COLOUR)  # the curve, which needs two steps
    assert "q ends" in terminal.seen
    terminal.type(b"q")
    await terminal.until(BACK)
    assert await terminal.ended() == 0
    assert termios.tcgetattr(terminal.inner) == terminal.mode


async def test_another_width_is_drawn_at_once(
    gateway, moving: Moving, opened: list[Terminal]
) -> None:
    terminal = Terminal(*await reached(gateway, moving), "--interval", "600")
    opened.append(terminal)
    assert "cache" in await terminal.until("busy")
    terminal.resize(40)
    last = "cache"
    for _ in range(25):  # frames of the old width may have been on their way, and pieces of them
        os.kill(terminal.process.pid, signal.SIGWINCH)
        with suppress(AssertionError):
            last = (await terminal.until("busy", 10.0)).rpartition("\x1b[H")[2]
        if "cache" not in last:
            break
    assert "cache" not in last, last
    os.kill(terminal.process.pid, signal.SIGINT)
    assert await terminal.ended() == 0
    assert termios.tcgetattr(terminal.inner) == terminal.mode


async def test_no_colour_where_none_is_wanted(
    gateway, moving: Moving, opened: list[Terminal]
) -> None:
    flags = await reached(gateway, moving)
    plain = Terminal(*flags, NO_COLOR="1")
    dumb = Terminal(*flags, TERM="dumb")
    opened += [plain, dumb]
    await plain.until("█")
    assert not any(f"\x1b[{code}m" in plain.seen for code in (31, 32, 36))
    plain.type(b"q")
    assert await plain.ended() == 0
    came = await dumb.until("tokens/s") + await dumb.until("tokens/s")
    assert "\x1b" not in came
    os.kill(dumb.process.pid, signal.SIGINT)
    assert await dumb.ended() == 0


async def test_a_cluster_that_stops_answering_is_told_and_the_last_figures_stay(
    gateway, moving: Moving, opened: list[Terminal]
) -> None:
    terminal = Terminal(*await reached(gateway, moving))
    opened.append(terminal)
    await terminal.until(COLOUR)
    moving.status = 500
    said = await terminal.until("s old: ")
    assert "figures are" in said
    await terminal.until("core")
    moving.status = 200
    terminal.type(b"q")
    assert await terminal.ended() == 0


async def test_sigterm_gives_the_terminal_back(
    gateway, moving: Moving, opened: list[Terminal]
) -> None:
    terminal = Terminal(*await reached(gateway, moving))
    opened.append(terminal)
    await terminal.until("core")
    terminal.process.terminate()
    await terminal.until(BACK)
    assert await terminal.ended() == 143
    assert termios.tcgetattr(terminal.inner) == terminal.mode

"""Life of one process: start, run until a signal, drain, end with a numbered exit code and one sentence on stderr.

    if __name__ == "__main__":
        sys.exit(run(Exporter(config)))

Knows signals, exit codes and the environment that children inherit. Does not know what the process does.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol, TextIO

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_SIGNAL: Final = 128
"""Plus the number of the signal: what a process says that was told a second time to end, and did not drain."""


class App(Protocol):
    """A process as its life sees it."""

    async def start(self) -> None:
        """Make ready. Raises ConsiliumError if it cannot; its row says which exit code."""

    async def wait(self) -> None:
        """Return, or raise, when the process ends by itself. A server never does."""

    async def stop(self, grace_s: float) -> None:
        """Let what runs finish for at most `grace_s` seconds, then let go of everything. Called once, also after a failed start."""


def run(app: App, *, grace_s: float = 30.0, stderr: TextIO | None = None) -> int:
    """Run an app to its end and return the exit code.

    The first SIGTERM or SIGINT drains, the second ends at once. A ConsiliumError ends with the exit code of its row and its sentence; anything else
    ends with 1, its sentence tells nothing but its kind, and its traceback goes to the log.
    """
    err = stderr if stderr is not None else sys.stderr
    try:
        return asyncio.run(_live(app, grace_s))
    except ConsiliumError as error:
        if error.detail:
            logs.get("process").error("process_failed", code=error.code, detail=error.detail)
        tell(err, error)
        return error.row.exit_code
    except KeyboardInterrupt:
        return EXIT_SIGNAL + signal.SIGINT
    except Exception as error:
        logs.get("process").exception("process_failed", code="internal")
        err.write(
            f"error: Something unexpected ended this process ({type(error).__name__}).\nnext: Its log holds the cause.\n"
        )
        return EXIT_FAILURE


async def _live(app: App, grace_s: float) -> int:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    life = asyncio.create_task(_start_and_wait(app))
    signalled = asyncio.create_task(told.wait())

    def on_signal(number: signal.Signals) -> None:
        if told.is_set():
            os._exit(EXIT_SIGNAL + number)
        logs.get("process").info("process_stopping", signal=number.name, grace_s=grace_s)
        told.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await asyncio.wait({signalled, life}, return_when=asyncio.FIRST_COMPLETED)
        if not life.done():
            await _stop_while_alive(app, life, grace_s)
            return EXIT_OK
        try:
            life.result()
        finally:
            await app.stop(0.0)
        return EXIT_OK
    finally:
        signalled.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def _start_and_wait(app: App) -> None:
    await app.start()
    await app.wait()


async def _stop_while_alive(app: App, life: asyncio.Task[None], grace_s: float) -> None:
    """Drain first, and only then cancel `wait`: what it waits for may be what is being drained."""
    try:
        await app.stop(grace_s)
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life


def tell(stream: TextIO, error: ConsiliumError) -> None:
    """Write what went wrong and what to do about it, as every program of the house does."""
    stream.write(f"error: {error.public()}\n")
    if error.row.next_step:
        stream.write(f"next: {error.row.next_step}\n")


def child_environment(
    extra: Mapping[str, str], *, drop: Callable[[str], bool] = lambda _name: False
) -> dict[str, str]:
    """Return the environment for a child: this process's own, without the names that `drop` says, with `extra` over it."""
    return {name: value for name, value in os.environ.items() if not drop(name)} | dict(extra)


def variable(name: str) -> str | None:
    """Return a variable of this process for a rule in which "" means something else than not set; other readers take kernel.config.environment_value."""
    return os.environ.get(name)


def set_variable(name: str, value: str) -> None:
    """Set a variable of this process, for libraries that read nothing else. Call it before they are imported."""
    os.environ[name] = value


def unset_variable(name: str) -> None:
    """Take a variable out of this process's environment."""
    os.environ.pop(name, None)


def raise_descriptor_limit() -> None:
    """Let this process open as many files and connections as it is allowed to; shells start with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

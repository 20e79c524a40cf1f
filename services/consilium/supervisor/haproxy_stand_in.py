"""Who answers at the public port while Ray's HAProxy is not there: before the first start, and while Ray is started again after a crash.

A second HAProxy with one rule: every request gets 503, with Retry-After and a sentence. Ray's HAProxy takes the port over from it when it starts (`-sf`, by the number
in a file), so that callers find a reason there at every moment, and never a closed port.

Knows HAProxy's words and one process. Does not know Ray or parts.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.json_bytes import dumps
from consilium.kernel.private_file import write_private
from consilium.supervisor.haproxy_keeper import RETRY_S, quoted
from consilium.supervisor.processes import own

END_S: Final = 2.0
_ANYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  compared, not bound


def number_file(folder: Path) -> Path:
    """Return the file with the number of the process that stands in."""
    return folder / "haproxy-stand-in.pid"


def write_answer(folder: Path) -> Path:
    """Write what callers are told, and return the file."""
    file = folder / "haproxy-starting.json"
    error = ConsiliumError("engine_starting", name="The cluster", retry_after_s=RETRY_S)
    write_private(file, dumps(to_openai(error)).decode())
    return file


class StandIn:
    """Holds a port until somebody takes it over.

    binary  HAProxy, or None where there is none: then nobody stands in
    folder  state folder, for the configuration, the number and what HAProxy says
    """

    def __init__(self, binary: str | None, folder: Path, host: str, port: int) -> None:
        self._binary = binary
        self._folder = folder
        self._bind = f"{'*' if host in _ANYWHERE else host}:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Take the port, if it is free. Raises nothing: without a stand-in the port is closed for a while, and that is all."""
        self.stop()
        if self._binary is None:
            return
        with suppress(OSError):
            config = self._folder / "haproxy-stand-in.cfg"
            write_private(config, self._text(write_answer(self._folder)))
            log = self._folder / "logs" / "haproxy-stand-in.log"
            with log.open("wb") as said:
                self._process = subprocess.Popen(  # noqa: S603  the program that Ray would start
                    [self._binary, "-db", "-dR", "-f", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            own(self._process.pid)
            number_file(self._folder).write_text(str(self._process.pid), encoding="ascii")

    def stop(self) -> None:
        """End it, if it is still there."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self._process = None
        number_file(self._folder).unlink(missing_ok=True)

    def _text(self, answer: Path) -> str:
        return (
            "global\n    nbthread 1\n    maxconn 1000\n    hard-stop-after 5s\n"
            "defaults\n    mode http\n    timeout client 10s\n    timeout http-request 10s\n    timeout http-keep-alive 1s\n"
            f"frontend stand_in\n    bind {self._bind}\n"
            f"    http-request return status 503 content-type application/json file {quoted(str(answer))} hdr Retry-After {RETRY_S}\n"
        )

"""Stands between Ray and HAProxy: starts HAProxy, and starts it again at once when it dies.

Ray looks after HAProxy by three health checks and a new actor, which takes half a minute with its defaults; until then the public port is closed. This process is what
Ray starts in HAProxy's place, so Ray's own signals, reloads and checks go on as before:

    Ray -- starts, signals --> keeper -- starts, signals --> HAProxy
    Ray -- admin socket -----> keeper -- passes on --------> HAProxy's admin socket     the answer to `show info` names the keeper's pid,
                                                                                         by which Ray knows its child again
    keeper gone -> HAProxy gone (the kernel's parent-death signal); HAProxy gone -> started again from the configuration that it had

It also changes what Ray writes into the configuration (`edited`): a path that Ray does not know yet, because the application is still starting, is a 503 that says so
and not a 404. Uses the standard library only and is started as a file, so that it costs some 10 MB and 40 ms. Does not know Ray's code or our parts.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

ENDINGS: Final = frozenset({0, -signal.SIGTERM, -signal.SIGINT, 128 + 15, 128 + 2})
"""How HAProxy ends when it was told to; after anything else it is started again."""
PASSED_ON: Final = (
    signal.SIGUSR1,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGTTOU,
    signal.SIGTTIN,
)
LAST: Final = frozenset({signal.SIGUSR1, signal.SIGTERM, signal.SIGINT})
"""Signals after which HAProxy ends, sooner or later."""
WAITS_S: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 1.0, 1.0, 1.0)
"""Pauses before each start again. One that does not come up after the last is Ray's to look after."""
RETRY_S: Final = 3
"""Seconds after which a caller shall ask again that came before the application was known."""
STEADY_S: Final = 10.0
POLL_S: Final = 0.02
ANSWER_S: Final = 10.0
"""What HAProxy has to answer a command; longer than Ray waits, so that one that hangs is not well in Ray's eyes either."""
_SOCKET: Final = re.compile(r"^(\s*stats socket )(\S+)", re.MULTILINE)
_UNKNOWN_PATH: Final = re.compile(
    r"^(backend default_backend\n\s*http-request return )status 404 .*$", re.MULTILINE
)
_PID: Final = re.compile(rb"^Pid: \d+", re.MULTILINE)
_PR_SET_PDEATHSIG: Final = 1


def edited(text: str, own_socket: str, starting: str) -> str:
    """Return Ray's configuration with our admin socket, and with an answer in place of "Path not found".

    own_socket  path of HAProxy's own admin socket; Ray's path is the keeper's
    starting    file with the JSON that tells a caller to come back
    """
    text = _SOCKET.sub(lambda found: f"{found[1]}{own_socket}", text)
    answer = f"status 503 content-type application/json file {quoted(starting)} hdr Retry-After {RETRY_S}"
    return _UNKNOWN_PATH.sub(lambda found: f"{found[1]}{answer}", text)


def quoted(text: str) -> str:
    """Return a text as one word of HAProxy's, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def admin_socket(text: str) -> str:
    """Return the path of the admin socket that a configuration names. Raises ValueError if it names none."""
    found = _SOCKET.search(text)
    if found is None:
        raise ValueError("the configuration has no 'stats socket'")
    return found[2]


def own_socket(ray_socket: str, keeper: int) -> str:
    """Return the path of the admin socket of the HAProxy of one keeper: short, because HAProxy adds to it and a path has 107 bytes."""
    return str(Path(ray_socket).with_name(f"h{keeper}"))


def arguments(words: list[str], config: str, more_old: list[int], ray_socket: str) -> list[str]:
    """Return HAProxy's arguments for its first start: our configuration, and every process whose port it takes over.

    words     as Ray wrote them
    more_old  processes beside those that Ray names, such as a keeper whose Ray actor is gone
    """
    words, old = _without_old(words)
    old += [pid for pid in more_old if pid not in old]
    made = ["-dS", *_with_config(words, config)]
    if "-x" in made:  # the sockets that listen are taken from the process that goes
        at = made.index("-x")
        theirs = own_socket(ray_socket, old[0]) if old else ""
        made[at : at + 2] = ["-x", theirs] if theirs and Path(theirs).exists() else []
    return [*made, "-sf", *map(str, old)] if old else made


def again(words: list[str], config: str) -> list[str]:
    """Return HAProxy's arguments for a start in the place of one that died: nobody to take over from."""
    words, _ = _without_old(words)
    if "-x" in words:
        at = words.index("-x")
        del words[at : at + 2]
    return ["-dS", *_with_config(words, config)]


def _with_config(words: list[str], config: str) -> list[str]:
    at = words.index("-f")
    return [*words[: at + 1], config, *words[at + 2 :]]


def _without_old(words: list[str]) -> tuple[list[str], list[int]]:
    """Return the words without `-sf` and its process numbers, and the numbers."""
    words = list(words)
    old: list[int] = []
    if "-sf" in words:
        at = words.index("-sf")
        end = at + 1
        while end < len(words) and words[end].isdigit():
            old.append(int(words[end]))
            end += 1
        del words[at:end]
    return words, old


class Keeper:
    """One HAProxy and its stand before Ray.

    binary     HAProxy
    starting   file with the JSON that tells a caller to come back
    stand_in   file with the number of a process that holds the public port until HAProxy takes it over
    words      the arguments that Ray gave
    """

    def __init__(self, binary: str, starting: str, stand_in: Path, words: list[str]) -> None:
        self._binary = binary
        self._words = words
        ray_config = Path(words[words.index("-f") + 1])
        text = ray_config.read_text(encoding="utf-8")
        self._ray_socket = admin_socket(text)
        self._own_socket = own_socket(self._ray_socket, os.getpid())
        self._config = ray_config.with_name(f"h{os.getpid()}.cfg")
        self._config.write_text(edited(text, self._own_socket, starting), encoding="utf-8")
        self._number = Path(self._ray_socket).with_name("keeper")
        # A pod's folder outlives its container, and the keeper of the next one may have the number of the last: it would end itself.
        self._others = [
            pid
            for pid in (_number_in(self._number), _number_in(stand_in))
            if pid != os.getpid() and _is_haproxy(pid)
        ]
        self._is_told = False
        self._last = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._begun = 0.0

    def run(self) -> int:
        """Keep HAProxy alive until it is told to end. Return the exit code."""
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        try:
            code = self._first()
            while code not in ENDINGS and not self._is_told:
                code = self._next(code)
        finally:
            self._tidy()
        return code if code >= 0 else 128 - code

    def _first(self) -> int:
        """Start HAProxy as Ray asked, take Ray's socket once it answers, and return how it ended."""
        child = self._start(
            arguments(self._words, str(self._config), self._others, self._ray_socket)
        )
        while child.poll() is None and not self._answers():
            time.sleep(POLL_S)
        if child.poll() is None:
            self._serve_ray()
            self._number.write_text(str(os.getpid()), encoding="ascii")
        else:  # it never came up: Ray reads what it said
            self._is_told = True
        return child.wait()

    def _next(self, code: int) -> int:
        """Start HAProxy again until it stays up for a while, and return how it ended."""
        for wait_s in WAITS_S:
            time.sleep(wait_s)
            if self._is_told:
                break
            print(f"HAProxy ended with {code}; it is started again", file=sys.stderr, flush=True)
            code = self._start(again(self._words, str(self._config))).wait()
            if code in ENDINGS or time.monotonic() - self._begun > STEADY_S:
                return code
        self._is_told = True
        return code

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        self._begun = time.monotonic()
        libc = ctypes.CDLL(None)

        def tie() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        self._child = subprocess.Popen([self._binary, *words], preexec_fn=tie)  # noqa: S603, PLW1509  # the program that Ray would start; nothing else runs in this process yet
        if self._last:  # it came while there was nobody to pass it on to
            self._child.send_signal(self._last)
        return self._child

    def _pass_on(self, number: int, _frame: object) -> None:
        if number in LAST:
            self._is_told, self._last = True, number
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _answers(self) -> bool:
        return bool(_ask(self._own_socket, b"show info\n"))

    def _serve_ray(self) -> None:
        """Listen at Ray's path, in the place of whoever did before."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = f"{self._own_socket}k"
        with suppress(FileNotFoundError):
            Path(path).unlink()
        listener.bind(path)
        listener.listen(16)
        Path(path).rename(self._ray_socket)
        threading.Thread(target=self._relay, args=(listener,), daemon=True).start()

    def _relay(self, listener: socket.socket) -> None:
        while True:
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        """Pass one command on, and its answer back."""
        with connection, suppress(OSError):
            connection.settimeout(ANSWER_S)
            command = b""
            while not command.endswith(b"\n") and (piece := connection.recv(4096)):
                command += piece
            own = f"Pid: {os.getpid()}".encode()
            connection.sendall(_PID.sub(own, _ask(self._own_socket, command)))

    def _tidy(self) -> None:
        for path in (Path(self._own_socket), self._config):
            with suppress(OSError):
                path.unlink()


def _ask(path: str, command: bytes) -> bytes:
    """Return what HAProxy answers, as far as it came; nothing if it does not."""
    answer = b""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(path)
        connection.sendall(command)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def _number_in(file: Path) -> int:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _is_haproxy(pid: int) -> bool:
    """Say whether a process is a keeper or an HAProxy: a number may have gone to somebody else meanwhile."""
    try:
        return pid > 0 and b"haproxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(Keeper(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]).run())

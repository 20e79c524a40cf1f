"""Questions to the parts that say whether they answer. Each returns at once or within a short time limit, and never raises.

Uses the standard library and small files of the kernel: the supervisor is up before anything heavy is imported.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Thread
from time import monotonic
from urllib.parse import unquote, urlsplit

from consilium.kernel.openai_errors import said_in

Probe = Callable[[], tuple[bool, str] | tuple[bool, str, bool]]
"""Says whether a part is ready and what it said, and thirdly whether it was heard at all; where that is left out, it was heard if it is ready."""


_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The preface of HTTP/2 (RFC 9113, 3.4) and an empty SETTINGS frame, which the server answers with its own."""


def redis_ready(url: str, timeout_s: float = 1.0) -> tuple[bool, str, bool]:
    """Return whether a Redis answers PING with our password, no words, and whether it was heard: an error such as LOADING or NOAUTH is also a reply."""
    if urlsplit(url).scheme != "redis":
        return _by_the_library(url, timeout_s)
    answer = _redis_reply(url, timeout_s)
    return answer.endswith(b"+PONG\r\n"), "", answer.startswith((b"+", b"-"))


def _by_the_library(url: str, timeout_s: float) -> tuple[bool, str, bool]:
    """Ask where TLS is wanted. The library knows certificates; our own server, which is asked from the first moment on, needs none."""
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        RedisError,
        ResponseError,
    )

    from consilium.kernel.redis import ping

    try:
        ping(url, timeout_s)
    except (RedisError, OSError, ValueError) as err:
        heard = isinstance(err, AuthenticationError | BusyLoadingError | ResponseError)
        return False, str(err), heard
    return True, "", True


def _redis_reply(url: str, timeout_s: float) -> bytes:
    """Return what a Redis replies to AUTH and PING, as far as it came."""
    parts = urlsplit(url)
    words = [b"PING"]
    commands = []
    if parts.password:
        user = [unquote(parts.username).encode()] if parts.username else []
        commands.append([b"AUTH", *user, unquote(parts.password).encode()])
    commands.append(words)
    answer = b""
    try:
        with socket.create_connection(
            (parts.hostname or "127.0.0.1", parts.port or 6379), timeout=timeout_s
        ) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(b"".join(_resp(command) for command in commands))
            while answer.count(b"\r\n") < len(commands):
                piece = connection.recv(1024)
                if not piece:
                    break
                answer += piece
    except OSError:
        return answer
    return answer


def _resp(words: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%s\r\n" % (len(word), word) for word in words
    )


def http_ready(url: str, timeout_s: float = 2.0) -> tuple[bool, str, bool]:
    """Return whether GET answers 200, what it said otherwise, and whether it said anything."""
    status, body = http_get(url, timeout_s=timeout_s)
    if body.startswith(b'{"error"'):
        body = said_in(body, status).message.encode()
    words = body[:200].decode("utf-8", "replace").strip()
    if not status:
        return False, f"does not answer ({words or 'nothing came'})", False
    return status == http.client.OK, "" if status == http.client.OK else words, True


def http2_ready(port: int, host: str = "127.0.0.1", timeout_s: float = 2.0) -> str:
    """Return why a gRPC server does not answer the first words of HTTP/2, or nothing if it does. It needs no token for them."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(_HTTP2_HELLO)
            return "" if connection.recv(9) else "closed the connection"
    except OSError as err:
        return str(err)


def http_get(url: str, *, key: str = "", timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Return status and body of a GET, (0, reason) if nobody answers."""
    return _ask("GET", url, b"", key, timeout_s)


def one_token(
    openai_url: str, key: str, model: str = "base", timeout_s: float = 30.0
) -> tuple[bool, str, str]:
    """Ask for one token of a chat. Return whether it came, and else the code of the error, where the answer has one, and its sentence."""
    body = json.dumps(
        {
            "model": model,
            "max_tokens": 1,
            "temperature": 0,
            "messages": [{"role": "user", "content": "Hi"}],
        }
    ).encode()
    status, answer = _ask("POST", f"{openai_url}/chat/completions", body, key, timeout_s)
    if status == http.client.OK:
        return True, "", ""
    if not status:
        return False, "", answer.decode(errors="replace")
    found = said_in(answer, status)
    return False, str(found.code or ""), found.message


def _ask(method: str, url: str, body: bytes, key: str, timeout_s: float) -> tuple[int, bytes]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if body:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, parts.path or "/", body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as err:
        return 0, str(err).encode()
    finally:
        connection.close()


def port_listens(port: int, host: str = "127.0.0.1", timeout_s: float = 0.5) -> bool:
    """Return True if something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


@dataclass(slots=True)
class Answer:
    """What a probe said last, and when (seconds of the monotonic clock); `at` is 0 before the first answer.

    heard  whether anything was heard, be it that the part is not ready yet
    asked  when the question was put
    waits  when the question was put that waits for its answer now; 0 where none does
    """

    ok: bool = False
    detail: str = ""
    at: float = 0.0
    heard: bool = False
    asked: float = 0.0
    waits: float = 0.0


class Watch:
    """Asks one probe again and again in a thread of its own, so that a slow answer holds nobody up."""

    def __init__(self, probe: Probe, every_s: float) -> None:
        self._probe = probe
        self._every_s = every_s
        self._thread: Thread | None = None
        self._next = 0.0
        self._turn = 0
        self._asked = 0.0
        self.last = Answer()

    def forget(self) -> None:
        """Drop what is known; an answer that is still under way is not taken."""
        self._turn += 1
        self.last = Answer()
        self._next = 0.0
        self._thread = None

    def look(self, every_s: float | None = None) -> Answer:
        """Return the last answer, and ask again if it is time."""
        now = monotonic()
        if self._thread is not None and self._thread.is_alive():
            return replace(self.last, waits=self._asked)
        if now >= self._next:
            self._next = now + (self._every_s if every_s is None else every_s)
            self._asked = now
            self._thread = Thread(target=self._ask, args=(self._turn,), daemon=True, name="probe")
            self._thread.start()
        return self.last

    def _ask(self, turn: int) -> None:
        try:
            ok, detail, *said = self._probe()
            heard = said[0] if said else ok
        except Exception as err:
            ok, detail, heard = False, f"{type(err).__name__}: {err}", False
        if turn == self._turn:
            self.last = Answer(ok, detail, monotonic(), heard, self._asked)

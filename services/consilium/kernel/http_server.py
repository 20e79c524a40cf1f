"""An HTTP server inside a process that has its own life: listens, serves an ASGI application, and ends when it is told.

Knows sockets and uvicorn, which the extra `serve` brings. Does not know what is served.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from typing import Any, Final, TypeAlias

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import owner

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

KEEP_ALIVE_S: Final = 75
"""Longer than callers keep an idle connection, so that it is they who close it and no request meets a closing one."""
_BACKLOG: Final = 2048
_LOOK_S: Final = 0.005


class HttpServer:
    """One server. `start`, then `stop` with a grace period; either may be called alone.

    port  0 = a free one, which `start` returns
    name  what listens, for the sentence about a port that is taken
    """

    def __init__(self, app: Asgi, host: str, port: int, *, name: str = "HTTP") -> None:
        self._app = app
        self._place = (host, port)
        self._name = name
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen and return the port. Raises ConsiliumError(port_taken)."""
        import uvicorn  # noqa: PLC0415  a process without HTTP does not need it

        listener = _bound(*self._place, self._name)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = nullcontext  # they belong to kernel/process.py
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(_LOOK_S)
        return int(listener.getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let running requests finish for `grace_s` seconds, cancel the rest."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        self._server.config.timeout_graceful_shutdown = grace_s
        self._server.should_exit = True
        await serving


def _bound(host: str, port: int, name: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio switches Nagle's delay off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as err:
        listener.close()
        if err.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise ConsiliumError(
                "config_invalid",
                key=f"the address of {name}",
                reason=f"{host}:{port} cannot be listened at ({err.strerror or err})",
            ) from None
        raise ConsiliumError("port_taken", port=port, name=name, owner=owner(port)) from None
    listener.setblocking(False)
    return listener

"""A server of Prometheus pages that can be slow, wrong or gone."""

import asyncio
from contextlib import suppress

PAGE = "# HELP turns_total Turns.\n# TYPE turns_total counter\nturns_total 5.0\n"


class Pages:
    """A server of pages on a free port of a loopback address; `said` is what it answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.status = 200
        self.said = PAGE
        self.wait_s = 0.0
        self.port = 0
        self.server: asyncio.Server | None = None
        self.over = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.server = await asyncio.start_server(self._answer, host, port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), self.wait_s)
        body = self.said.encode()
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        with suppress(OSError):
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        self.over.set()
        await asyncio.sleep(0)
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()

"""A TCP proxy that makes a service slow or unreachable, for machines whose kernel has no netem.

It stands between the gateway and one service. Faults are set while it runs: `latency_s` delays every chunk in
both directions without changing their order, `refusing` closes new connections at once, `drop()` resets those
that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16
QUEUED_CHUNKS = 256


class Proxy:
    """Forwards connections to one target; an async context manager.

    Args:
        target_host, target_port: where connections are forwarded to.
        port: where to listen on 127.0.0.1; 0 takes a free port.

    Attributes:
        latency_s: added to every chunk, in each direction, from now on.
        refusing: whether new connections are closed at once.
    """

    def __init__(self, target_host: str, target_port: int, *, port: int = 0) -> None:
        self.latency_s = 0.0
        self.refusing = False
        self._target = (target_host, target_port)
        self._port = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        """`host:port` that callers connect to."""
        assert self._server is not None, "the proxy is not running"
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._writers) // 2

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        await self._server.wait_closed()

    def drop(self) -> None:
        """Resets every open connection; chunks on their way are lost."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, target_writer}
        self._writers |= ends
        pipes = {
            asyncio.create_task(self._pipe(reader, target_writer)),
            asyncio.create_task(self._pipe(target_reader, writer)),
        }
        self._pipes |= pipes
        await asyncio.wait(pipes)
        self._pipes -= pipes
        self._writers -= ends
        for end in ends:
            end.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forwards one direction until it ends; the other side then learns that no more will come."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        sender = asyncio.create_task(self._send(queue, writer))
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await queue.put((loop.time() + self.latency_s, chunk))
        await queue.put((0.0, b""))
        await sender

    async def _send(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, chunk = await queue.get()
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not chunk:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            if not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    writer.write(chunk)
                    await writer.drain()

"""A TCP proxy that can drop connections, go silent, and be slow: a network that one can break on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

READ_BYTES = 16 * 1024
CONNECT_TIMEOUT_S = 5.0
BURST_S = 5.0
"""A slow link carries what it may carry in so many seconds at once, and then nothing until the next burst: boards that
are idle half of the time and full the other half are hit in both states."""


class Link:
    """Listens on a port of its own for as long as it is open and carries bytes to `target`, HOST:PORT."""

    def __init__(self, name: str, target: str, *, bytes_per_s: float | None = None) -> None:
        """bytes_per_s: towards the target, on average, over all connections; None: no limit."""
        self.name = name
        self.address = ""
        self.dropped = 0  # connections that a cut has ended
        self._target = target
        self._bytes_per_s = bytes_per_s
        self._burst = 0  # its number
        self._left = 0.0  # bytes that it may still carry
        self._refuses = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._life = 0  # connections of an earlier one carry nothing any more
        self._carrying: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        try:
            yield
        finally:
            server.close()
            self._drop_all()
            for task in self._carrying:
                task.cancel()
            if self._carrying:
                await asyncio.wait(self._carrying)

    def cut(self) -> None:
        """Drop every connection, and refuse new ones until it is mended."""
        self._refuses = True
        self.dropped += len(self._open) // 2
        self._drop_all()

    def stall(self) -> None:
        """Carry nothing until it is mended. Nobody is told: connections stay, and new ones are accepted."""
        self._flows.clear()

    def vanish(self) -> None:
        """Carry nothing until it is mended, and what was open by then never again, as if a router had forgotten it."""
        self._flows.clear()
        self._life += 1

    def mend(self) -> None:
        self._refuses = False
        self._flows.set()

    def unthrottle(self) -> None:
        self._bytes_per_s = None

    def _drop_all(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._carry(reader, writer), name=f"link {self.name}")
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            host, _, port = self._target.rpartition(":")
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._flows.wait()
                there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError):  # the other end is away, so this one hangs up
            self._open.discard(writer)
            writer.transport.abort()
            return
        self._open.add(there_writer)
        if writer not in self._open:  # cut while we connected
            there_writer.transport.abort()
        try:
            life = self._life
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pump(reader, there_writer, life, is_slow=True))
                ways.create_task(self._pump(there_reader, writer, life, is_slow=False))
        finally:
            for end in (writer, there_writer):
                self._open.discard(end)
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, life: int, *, is_slow: bool
    ) -> None:
        with contextlib.suppress(OSError):  # one end is gone: the other one is told by the end of its stream
            while data := await reader.read(READ_BYTES):
                if is_slow and self._bytes_per_s is not None:
                    await self._wait_turn(len(data), self._bytes_per_s)
                await self._flows.wait()
                if life == self._life:
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(OSError):
            if not writer.is_closing():
                writer.write_eof()

    async def _wait_turn(self, size: int, bytes_per_s: float) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            if self._burst != now // BURST_S:
                self._burst, self._left = int(now // BURST_S), bytes_per_s * BURST_S
            if self._left > 0:
                self._left -= size
                return
            await asyncio.sleep((self._burst + 1) * BURST_S - now)

"""One worker process: started, spoken to over a Unix socket, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agents.frames import FrameReader, WorkerMessage, frame_start

RECEIVE_BYTES = 64 * 1024
MAX_PARTS = 64  # of one system call; any system takes so many
MAX_LINE_CHARS = 1_000
OUTPUT_WAIT_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a worker's ending may take, and how soon the next one follows."""

    stop_wait_s: float = 5.0  # for "stop"; then comes SIGTERM
    terminate_wait_s: float = 5.0  # then comes SIGKILL
    first_pause_s: float = 0.2  # after the first crash; doubles with each one
    longest_pause_s: float = 10.0
    down_pause_s: float = 60.0  # after crashes in a row: on a shelf nobody is there to restart the agent
    start_timeout_s: float = 600.0  # loading models may mean building an engine, which takes minutes on some boards
    check_s: float = 2.0  # between two looks at its memory and CPU
    late_after_s: float = 1.0  # and more than LATE_FACTOR times its usual time: then nothing waits behind a picture


class WorkerProcess:
    """A running worker. One task may receive while another sends.

    Plain socket calls instead of asyncio's streams: a stream forgets what it has read when a later write fails, and
    the last frames of a dying worker say which picture killed it.
    """

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket, name: str, pace: Pace) -> None:
        self._process = process
        self._socket = sock
        self._name = name
        self._pace = pace
        self._frames = FrameReader()

    @classmethod
    @asynccontextmanager
    async def started(
        cls, command: Sequence[str], name: str, pace: Pace, on_output: Callable[[str], None]
    ) -> AsyncIterator[WorkerProcess]:
        """Start it, and see to it that it has ended when the block is left.

        command: interpreter and script; `--fd N` is added. on_output: takes the lines that it prints.
        Raises: OSError if the command cannot be started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--fd",
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal is for the daemon, which ends the worker itself
                )
            worker = cls(process, ours, name, pace)
            relay = asyncio.create_task(worker._relay_output(on_output), name=f"output of {name}")
            try:
                yield worker
            finally:
                await worker.end()
                await worker._close_output(relay)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None while it runs."""
        return self._process.returncode

    async def send(self, header: Mapping[str, Any], body: Sequence[bytes] = ()) -> None:
        """Send one frame. Raises: OSError if the worker is gone."""
        start = frame_start(header, sum(map(len, body)))
        try:
            sent = self._socket.sendmsg([start, *body[:MAX_PARTS]])  # as a rule all of it
        except BlockingIOError:
            sent = 0
        loop = asyncio.get_running_loop()
        for part in (start, *body):
            if sent < len(part):
                await loop.sock_sendall(self._socket, memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    async def listen(self, on_message: Callable[[WorkerMessage], None]) -> None:
        """Hand on what it says, until it closes its end.

        Raises: InvalidInput for a frame that breaks the protocol; what on_message raises.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            if ended.done():
                return
            try:
                data = self._socket.recv(RECEIVE_BYTES)
                for message in self._frames.feed(data):
                    on_message(message)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it died with frames of ours unread
                data = b""
            except Exception as error:  # noqa: BLE001 - whoever listens gets it
                ended.set_exception(error)
                return
            if not data:
                ended.set_result(None)

        loop.add_reader(self._socket, read)  # kept: uvloop's sock_recv asks the kernel for each message anew
        try:
            await ended
        finally:
            loop.remove_reader(self._socket)

    def terminate(self) -> None:
        """Ask it to end without waiting for anything; for one that has not begun to work."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with the programs that it started."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end, which is forced if it takes too long. Returns the exit code."""
        if not await self._has_ended(OUTPUT_WAIT_S):
            self.kill()
            await self._process.wait()
        assert self._process.returncode is not None  # wait() has returned
        return self._process.returncode

    async def end(self) -> None:
        """Ask it to stop, then insist. Nothing, if it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._pace.stop_wait_s):
                    await self.send({"type": "stop"})
            if await self._has_ended(self._pace.stop_wait_s):
                return
            log.warning("worker.stop_ignored", extra={"worker": self._name, "pid": self.pid})
            self.terminate()
            if await self._has_ended(self._pace.terminate_wait_s):
                return
            self.kill()
        await self._process.wait()

    async def _has_ended(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    def _signal(self, signum: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    async def _relay_output(self, on_output: Callable[[str], None]) -> None:
        """Hand on what the worker, or the vendor's library in it, prints, a few whole lines at a time."""
        output = self._process.stdout
        assert output is not None  # asked for above
        rest = b""
        while data := await output.read(RECEIVE_BYTES):
            lines, end_of_line, rest = (rest + data).rpartition(b"\n")
            if len(rest) > MAX_LINE_CHARS:
                lines, rest = lines + end_of_line + rest, b""
            if lines:
                on_output(lines.decode(errors="replace"))
        if rest:
            on_output(rest.decode(errors="replace"))

    async def _close_output(self, relay: asyncio.Task[None]) -> None:
        """Read the rest of the output, but not for ever: a program that it started may still hold the pipe."""
        await asyncio.wait({relay}, timeout=OUTPUT_WAIT_S)
        relay.cancel()
        await asyncio.wait({relay})


def ending_of(exit_code: int) -> str:
    """`was killed by SIGSEGV` or `ended with exit code 4`."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"

"""One real process of the cluster: it can be killed, frozen and started again, always with the same command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.chaos.schedule import Kind

READY_S = 60.0
STOP_S = 20.0
LAST_LINES = 12


class NotReady(Exception):
    """A process did not start."""


class Child:
    """`edgesched <arguments>`, with everything that it writes in one log file.

    on_end: told when it ended by itself, with its exit code; the harness's own signals are no news.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        arguments: Sequence[str],
        log_path: Path,
        *,
        on_end: Callable[[Child, int], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.log_path = log_path
        self.starts = 0
        self._arguments = arguments
        self._environment = environment or {}
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._is_told_to_stop = False
        self._is_frozen = False

    @property
    def pid(self) -> int | None:
        """None unless it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def is_ready(self) -> bool:
        """It runs, and has said so. Only then does it know what to do with SIGTERM."""
        return self.pid is not None and self._ready.is_set()

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        assert self.pid is None, f"{self.name} runs already"
        self._is_told_to_stop, self._is_frozen = False, False
        self._ready = asyncio.Event()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.starts += 1
            log.write(f"--- start {self.starts} ---\n".encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edgesched.local.tied", str(os.getpid()), *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
        self._follower = asyncio.create_task(self._follow(self._process), name=f"follow {self.name}")

    async def ready(self) -> None:
        """Wait for its READY line. Raises: NotReady, with the end of its log."""
        waiting = asyncio.create_task(self._ready.wait())
        assert self._follower is not None
        await asyncio.wait({waiting, self._follower}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._ready.is_set():
            raise NotReady(f"{self.name} was not ready within {READY_S:g} s; {self.last_words()}")

    def last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return f"its log ({self.log_path}) ends with:\n" + "\n".join(f"    {line}" for line in lines)

    async def ended(self) -> None:
        """Wait until it has ended and everything that it said is in the log."""
        if self._follower is not None:
            await asyncio.wait({self._follower})

    async def kill(self) -> None:
        """SIGKILL; a frozen process dies of it too. It may have ended by itself just before."""
        self._signal(signal.SIGKILL)
        await self.ended()

    def freeze(self) -> None:
        self._is_frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._is_frozen:
            self._is_frozen = False
            self._signal(signal.SIGCONT)

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL if that does not help. Returns: the exit code, None if it did not run."""
        if self.pid is None:
            return None
        self._is_told_to_stop = True
        self.thaw()
        self._signal(signal.SIGTERM)
        assert self._follower is not None
        await asyncio.wait({self._follower}, timeout=STOP_S)
        await self.kill()
        return self.exit_code

    def _signal(self, signum: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with self.log_path.open("ab") as log:
            while line := await process.stdout.readline():
                log.write(line)
                log.flush()
                if line.startswith(b"READY "):
                    self._ready.set()
        code = await process.wait()
        if not self._is_told_to_stop and code != -signal.SIGKILL:
            self._on_end(self, code)


def free_port(draw: random.Random) -> int:
    """A port that nobody uses, from below those that the kernel gives to connections.

    A process that is away must find its port free when it comes back: one of the kernel's own could meanwhile belong to
    somebody's connection, or even to a client's that has connected to itself.
    """
    lowest_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = draw.randrange(10_000, lowest_of_kernel)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port

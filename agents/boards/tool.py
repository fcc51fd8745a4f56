"""One program of a vendor's: asked rarely, one run at a time, never waited for without end."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agents.boards.readings import SensorSilent

ROOT = Path("/")
RUN_TIMEOUT_S = 3.0
REAP_S = 1.0
"""How long a killed process may take to die before it counts as stuck in its driver."""

MOST_BYTES = 256 * 1024

GUARD = "read -r _; kill -KILL 0"
"""Runs in the process group of the tool. Its input is a pipe from here: that ends when this process does."""


class Tool:
    """Runs the program without a shell; both its outputs are read as one text."""

    def __init__(
        self,
        name: str,
        *,
        root: Path = ROOT,
        places: Sequence[str] = (),
        advice: str,
        timeout_s: float = RUN_TIMEOUT_S,
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """root: where the machine's file system is mounted. places: directories below it to look in, and in PATH if
        that is this machine's own. advice: what to do if it is nowhere.
        """
        self.name = name
        self._root = root
        self._places = places
        self._advice = advice
        self._timeout_s = timeout_s
        self._start = start
        self._lock = threading.Lock()
        self._stuck: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str, lines: int | None = None) -> str:
        """What it prints until it ends, or until it has printed `lines` lines: then it is stopped.

        Raises: SensorSilent if it is not there, cannot be started, or does not end in time: then it is killed.
        """
        command = (self._path(), *arguments)
        if not self._lock.acquire(timeout=self._timeout_s):
            raise SensorSilent(f"{self.name} is busy with another question")
        try:
            if self._stuck is not None and self._stuck.poll() is None:
                raise SensorSilent(self._is_stuck(self._stuck))
            self._stuck = None
            return self._output(command, lines)
        finally:
            self._lock.release()

    def _path(self) -> str:
        path = shutil.which(self.name) if self._root == ROOT else None
        path = path or shutil.which(self.name, path=os.pathsep.join(str(self._root / place) for place in self._places))
        if path is None:
            places = ", ".join(["PATH", *(f"/{place}" for place in self._places)])
            raise SensorSilent(f"{self.name} is not installed (looked in {places}): {self._advice}")
        return path

    def _output(self, command: Sequence[str], lines: int | None) -> str:
        try:
            with _guarded_group() as group:
                process = self._start(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    process_group=group,
                )
                try:
                    return _read(process, time.monotonic() + self._timeout_s, lines).decode(errors="replace")
                finally:
                    self._end(process, group)
        except TimeoutError:  # an OSError too
            asked = " ".join((self.name, *command[1:]))
            raise SensorSilent(f"`{asked}` did not end within {self._timeout_s:g} s and was killed") from None
        except OSError as error:
            raise SensorSilent(f"{command[0]} cannot be started: {error.strerror}") from error

    def _end(self, process: subprocess.Popen[bytes], group: int) -> None:
        if process.stdout is not None:
            process.stdout.close()
        os.killpg(group, signal.SIGKILL)
        try:
            process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            self._stuck = process
            raise SensorSilent(self._is_stuck(process)) from None

    def _is_stuck(self, process: subprocess.Popen[bytes]) -> str:
        return (
            f"{self.name} (process {process.pid}) hangs in its driver and cannot be killed: restart the board, or "
            "reset the accelerator with the vendor's tool"
        )


@contextmanager
def _guarded_group() -> Iterator[int]:
    """The number of a process group whose members are killed when this process ends, however suddenly.

    It stays nobody else's until the block is left: only then is the guard's end taken note of. Whoever uses it kills
    what is left in it.
    """
    with subprocess.Popen(
        ("/bin/sh", "-c", GUARD),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as guard:
        yield guard.pid


def _read(process: subprocess.Popen[bytes], deadline: float, lines: int | None) -> bytes:
    """Everything it prints, at most MOST_BYTES. Raises: TimeoutError."""
    assert process.stdout is not None
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(output) < MOST_BYTES:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 64 * 1024)
            if not chunk:
                return bytes(output)
            output += chunk
            if lines is not None and output.count(b"\n") >= lines:
                return bytes(output)
    return bytes(output)

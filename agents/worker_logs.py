"""What each worker, and the vendor's library in it, had to say: one file per worker, bounded, for people and for the
gateway.

A line in a file is `<number> <milliseconds since 1970> <source> <text>`. The numbers of one worker only grow, also over
a restart of the daemon, so that a reader can ask for what came after the last line that it has; a gap says that lines
were rotated away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_LINE_CHARS = 1_000
FILE_BYTES = 512 * 1024
OLD_FILES = 2
LAST_BYTES = 16 * 1024
"""In so many bytes at the end of a file there is a whole line."""

LOG_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLine:
    number: int  # from 1
    at_ms: int  # the board's wall clock, for people: a board may boot in 1970
    source: str  # "output" (what it printed), "agent" (what became of it), or the level of a log record of its own
    text: str


class WorkerLogs:
    """All workers' files. One thread appends; others may read meanwhile."""

    def __init__(
        self,
        directory: Path,
        *,
        file_bytes: int = FILE_BYTES,
        old_files: int = OLD_FILES,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._old_files = old_files
        self._wall_ms = wall_ms
        self._numbers: dict[str, int] = {}
        self._moving = threading.Lock()  # held while names of files change, or files are opened by their names
        self._is_failing = False

    def printed(self, worker: str, text: str) -> None:
        """The worker wrote these lines to its stdout or stderr."""
        for line in filter(None, map(str.rstrip, text.splitlines())):
            log.info("worker.printed", extra={"worker": worker, "line": line[:MAX_LINE_CHARS]})
        self.append(worker, "output", text)

    def logged(self, worker: str, level: str, event: str, fields: Mapping[str, object]) -> None:
        """The worker sent a log record. Its fields get names that cannot clash with those of ours."""
        level = level if level in LOG_LEVELS else "info"
        named = {f"worker_{name}": value for name, value in fields.items()}
        log.log(LOG_LEVELS[level], "worker.logged", extra={"worker": worker, "what": event, **named})
        self.append(worker, level, " ".join((event, *(f"{name}={value}" for name, value in fields.items()))))

    def append(self, worker: str, source: str, text: str) -> None:
        """Add one record; each of its lines gets a number. A disk that refuses costs the lines and is told once."""
        try:
            last = self.last_number(worker)
            path = self._path(worker)
            with path.open("ab") as file:
                for line in text.splitlines():
                    last += 1
                    shown = line.replace("\0", "")[:MAX_LINE_CHARS]
                    file.write(f"{last} {self._wall_ms()} {source} {shown}\n".encode(errors="replace"))
                size = file.tell()
            self._numbers[worker] = last
            if size >= self._file_bytes:
                self._rotate(path)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                log.error("worker_logs.failed", extra={"worker": worker, "reason": str(error)})
            self._is_failing = True

    def last_number(self, worker: str) -> int:
        """The newest line's; 0 if there is none. Raises: OSError."""
        if worker not in self._numbers:
            self._directory.mkdir(parents=True, exist_ok=True)
            newest = max((_last_number(path) for path in self._paths(worker)), default=0)
            self._mend(self._path(worker))
            self._numbers[worker] = newest
        return self._numbers[worker]

    def tail(self, worker: str, max_lines: int, since: int | None = None) -> tuple[WorkerLine, ...]:
        """The newest lines, oldest of them first; with `since`, the first ones after that number instead.

        Nothing if this worker never said anything. Blocks while it reads: call it in a thread.
        Raises: OSError.
        """
        if since is not None and since >= self._numbers.get(worker, since + 1):
            return ()
        lines: list[WorkerLine] = []
        files = self._opened(worker)
        try:
            for file in files:  # the newest first
                older = [line for line in _lines(file) if since is None or line.number > since]
                lines = older + lines
                is_complete = lines[:1] and since is not None and lines[0].number == since + 1
                if is_complete or (since is None and len(lines) >= max_lines):
                    break
        finally:
            for file in files:
                file.close()
        chosen = lines[:max_lines] if since is not None else lines[max(0, len(lines) - max_lines) :]
        return tuple(chosen)

    def _path(self, worker: str) -> Path:
        return self._directory / f"{worker}.log"

    def _paths(self, worker: str) -> list[Path]:
        """Those that may be there, the newest first."""
        path = self._path(worker)
        return [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, self._old_files + 1))]

    def _opened(self, worker: str) -> list[BinaryIO]:
        files: list[BinaryIO] = []
        with self._moving:
            for path in self._paths(worker):
                try:
                    files.append(path.open("rb"))
                except FileNotFoundError:
                    continue
        return files

    def _rotate(self, path: Path) -> None:
        names = self._paths(path.name.removesuffix(".log"))
        with self._moving:
            for older, newer in zip(reversed(names), list(reversed(names))[1:], strict=False):
                if newer.exists():
                    newer.replace(older)

    def _mend(self, path: Path) -> None:
        """A daemon that was killed, or a disk that was full, may have left half a line: the next one begins anew."""
        try:
            with path.open("r+b") as file:
                if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                    file.write(b"\n")
        except FileNotFoundError:
            return


def _lines(file: BinaryIO) -> Iterator[WorkerLine]:
    for raw in file:
        if raw.endswith(b"\n") and (line := _parsed(raw)) is not None:
            yield line


def _parsed(raw: bytes) -> WorkerLine | None:
    """None for a line that was damaged."""
    parts = raw.decode(errors="replace").rstrip("\n").split(" ", 3)
    try:
        return WorkerLine(number=int(parts[0]), at_ms=int(parts[1]), source=parts[2], text=parts[3])
    except (ValueError, IndexError):
        return None


def _last_number(path: Path) -> int:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LAST_BYTES))
            return max((line.number for line in _lines(file)), default=0)
    except FileNotFoundError:
        return 0

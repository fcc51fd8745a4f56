"""Labels whose files may not be durable yet: one sync here stands for those of all the files.

A database would call it a write-ahead log. It holds a few seconds' worth, so it is read only after a crash.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgesched.errors import InvalidInput
from edgesched.rest import LabelledPicture, Wire

FILE_NAME = ".edgesched-redo.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redo:
    """One line: an item, and the stem of its files."""

    stem: str
    item: LabelledPicture


REDO: Wire[Redo] = Wire(Redo)


class RedoLog:
    """One process at a time, one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = 0

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[tuple[RedoLog, Sequence[Redo]]]:
        """With what an earlier life left, oldest first. Raises: OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            log = cls(descriptor)
            left = list(_whole_lines(path.read_bytes()))
            log.size_bytes = os.fstat(descriptor).st_size
            yield log, left
        finally:
            os.close(descriptor)

    def append(self, entries: Sequence[Redo]) -> None:
        """All of them are durable when this returns, none is there when it raises OSError."""
        data = memoryview(b"".join(REDO.dump(entry) + b"\n" for entry in entries))
        end = self.size_bytes
        try:
            while data:
                written = os.pwrite(self._descriptor, data, end)
                data, end = data[written:], end + written
            os.fdatasync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.size_bytes)
            raise
        self.size_bytes = end

    def clear(self) -> None:
        """Its files are durable, and so is the journal. Raises: OSError."""
        os.ftruncate(self._descriptor, 0)
        os.fsync(self._descriptor)
        self.size_bytes = 0


def sync_file_system(directory: Path) -> None:
    """Make everything that was written there durable, in one call however many files it was. Raises: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)  # Python has no name for syncfs
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"{directory} cannot be synced")
    finally:
        os.close(descriptor)


def _whole_lines(data: bytes) -> Iterator[Redo]:
    """Up to the torn end of a write that nobody was told of."""
    for line in data.splitlines():
        try:
            yield REDO.parse(line)
        except InvalidInput:
            return

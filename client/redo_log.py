"""Labels whose files may not be durable yet: one sync here stands for those of all the files.

A database would call it a write-ahead log. It holds a few seconds' worth, so it is read only after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path

from client.durable import try_lock
from edgesched.errors import InvalidInput, StartupError
from edgesched.rest import LabelledPicture, Wire

FILE_NAME = ".edgesched-redo.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redo:
    """One line: an item, and the stem of its files."""

    stem: str
    item: LabelledPicture


REDO: Wire[Redo] = Wire(Redo)


def record(stem: str, item_json: bytes) -> bytes:
    """A line for an item that is JSON already: to serialise it again would cost more than all else here."""
    return b'{"stem": %b, "item": %b}\n' % (encode_basestring(stem).encode(), item_json.replace(b"\n", b" "))


class RedoLog:
    """One process at a time, one thread at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = 0

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[tuple[RedoLog, Sequence[Redo]]]:
        """With what an earlier life left, oldest first. Holds the lock on its directory until it is closed.

        Raises: StartupError if it is in use; OSError.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(descriptor):
                raise StartupError(f"another receiver already writes to {path.parent}; stop it, or name another --dir")
            log = cls(descriptor)
            left = list(_whole_lines(path.read_bytes()))
            log.size_bytes = os.fstat(descriptor).st_size
            yield log, left
        finally:
            os.close(descriptor)

    def append(self, records: bytes) -> None:
        """All of them are durable when this returns, none is there when it raises OSError."""
        data = memoryview(records)
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


def _whole_lines(data: bytes) -> Iterator[Redo]:
    """Up to the torn end of a write that nobody was told of."""
    for line in data.splitlines():
        try:
            yield REDO.parse(line)
        except InvalidInput:
            return

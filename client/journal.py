"""Which task's labels lie under which name: an append-only file, one JSON line per task."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgesched.domain.task import TaskId
from edgesched.errors import StartupError

FILE_NAME = ".edgesched-journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    task_id: TaskId
    model: str
    stem: str  # its files are <stem>.json and <stem>.txt in the model's directory
    digest: str  # of its labels


class Journal:
    """All entries, in memory and on disk. One process at a time; one thread at a time."""

    def __init__(self, descriptor: int, entries: Sequence[Entry], size_bytes: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = size_bytes  # of what is certainly durable
        self._by_task: dict[TaskId, Entry] = {}
        self._owner: dict[tuple[str, str], TaskId] = {}
        self.remember(entries)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Journal]:
        """Read the journal, or begin one. Holds a lock on it until it is closed.

        Raises: StartupError if it is in use or damaged; OSError if it cannot be read or written.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartupError(
                    f"another receiver already writes to {path.parent}; stop it, or name another --dir"
                ) from None
            entries, size_bytes = _read(path)
            # Whatever follows is the torn end of a write that nobody was told of.
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
            yield cls(descriptor, entries, size_bytes)
        finally:
            os.close(descriptor)

    def get(self, task_id: TaskId) -> Entry | None:
        return self._by_task.get(task_id)

    def owner(self, model: str, stem: str) -> TaskId | None:
        return self._owner.get((model, stem))

    def __len__(self) -> int:
        return len(self._by_task)

    def remember(self, entries: Sequence[Entry]) -> None:
        """Know them from now on; `write` has to follow."""
        for entry in entries:
            self._by_task[entry.task_id] = entry
            self._owner[entry.model, entry.stem] = entry.task_id

    def write(self, entries: Sequence[Entry]) -> None:
        """They are durable when this returns. Raises: OSError; none of them is on the disk then."""
        lines = "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries).encode()
        try:
            # A write at the known end replaces what a failed one left there, and makes its pages dirty again.
            _write_at(self._descriptor, lines, self._size_bytes)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size_bytes)
            raise
        self._size_bytes += len(lines)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read(path: Path) -> tuple[list[Entry], int]:
    """All whole entries, and how many bytes they take.

    Raises: StartupError if a damaged line has whole ones after it.
    """
    entries: list[Entry] = []
    size_bytes = at = 0
    damaged: int | None = None  # number of the first bad line
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            at += len(line)
            entry = _parse(line)
            if entry is None:
                damaged = damaged or number
            elif damaged is not None:
                raise StartupError(
                    f"{path}: line {damaged} is damaged; restore the file from a backup, or correct the line"
                )
            else:
                entries.append(entry)
                size_bytes = at
    return entries, size_bytes


def _parse(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
        entry = Entry(**fields)
    except (ValueError, TypeError):
        return None
    return entry if all(isinstance(value, str) for value in fields.values()) else None

"""Which task's labels lie under which name, for the tasks that came last: an append-only file, one JSON line per task.

It may forget, for the label files themselves say whose they are: whatever is not known here is looked for there.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json.encoder import encode_basestring
from pathlib import Path
from typing import NamedTuple

from client.durable import write_whole
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError

FILE_NAME = ".edgesched-journal.jsonl"
KEPT_TASKS = 50_000
"""After a clean-up. It begins at half as many again: about 20 MB of memory, and 10 MB to read at the start."""

MOST_TASKS = KEPT_TASKS * 3 // 2


class Entry(NamedTuple):
    """name: `<model>/<stem>`; the task's files are <stem>.json and <stem>.txt in the model's directory."""

    task_id: TaskId
    name: str


class Journal:
    """One process at a time; one thread at a time."""

    def __init__(self, path: Path, descriptor: int, entries: Sequence[Entry], size_bytes: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size_bytes = size_bytes  # of what is certainly durable
        self._names: dict[TaskId, str] = {}  # oldest first
        self._owners: dict[str, TaskId] = {}
        for entry in entries:
            self.remember(*entry)

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Journal]:
        """Read the journal, or begin one. Raises: StartupError if it is damaged; OSError if it cannot be used."""
        descriptor = _open(path)
        entries, size_bytes = _read(path)
        # Whatever follows is the torn end of a write that nobody was told of.
        os.ftruncate(descriptor, size_bytes)
        os.fsync(descriptor)
        journal = cls(path, descriptor, entries, size_bytes)
        try:
            yield journal
        finally:
            os.close(journal._descriptor)

    def name_of(self, task_id: TaskId) -> str | None:
        return self._names.get(task_id)

    def owner(self, name: str) -> TaskId | None:
        return self._owners.get(name)

    def __len__(self) -> int:
        return len(self._names)

    def remember(self, task_id: TaskId, name: str) -> None:
        """Know it from now on; `write` has to follow."""
        self._names[task_id] = name
        self._owners[name] = task_id

    def note_owner(self, name: str, task_id: TaskId) -> None:
        """Whose it is was found on the disk, which takes longer than to look here."""
        if len(self._owners) > 2 * MOST_TASKS:
            self._owners = {name: task_id for task_id, name in self._names.items()}
        self._owners[name] = task_id

    def forget(self, task_id: TaskId) -> None:
        """It was remembered, and its labels were not stored."""
        del self._owners[self._names.pop(task_id)]

    def write(self, entries: Sequence[Entry]) -> None:
        """They are durable when this returns. Raises: OSError; none of them is on the disk then."""
        lines = b"".join(map(_line, entries))
        try:
            # A write at the known end replaces what a failed one left there, and makes its pages dirty again.
            _write_at(self._descriptor, lines, self._size_bytes)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size_bytes)
            raise
        self._size_bytes += len(lines)
        if len(self._names) > MOST_TASKS:
            self._clean_up()

    def _clean_up(self) -> None:
        """Keep the newest ones. A crash leaves the old file or the new one."""
        kept = dict(itertools.islice(self._names.items(), len(self._names) - KEPT_TASKS, None))
        lines = b"".join(_line(Entry(task_id, name)) for task_id, name in kept.items())
        write_whole(self._path, lines)
        os.close(self._descriptor)
        self._descriptor = _open(self._path)
        self._size_bytes = len(lines)
        self._names = kept
        self._owners = {name: task_id for task_id, name in kept.items()}


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _line(entry: Entry) -> bytes:
    model, _, stem = entry.name.partition("/")
    return f'{{"task_id": "{entry.task_id}", "model": "{model}", "stem": {encode_basestring(stem)}}}\n'.encode()


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
        task_id, model, stem = fields["task_id"], fields["model"], fields["stem"]
    except (ValueError, TypeError, KeyError):
        return None
    return Entry(task_id, f"{model}/{stem}") if all(isinstance(part, str) for part in (task_id, model, stem)) else None

"""The files of the run journal: one per run, two kinds of lines. The directory is locked by whoever calls."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client import durable
from edgesched.domain.task import TaskId

SUFFIX = ".jsonl"
DAMAGED = ".damaged"
KEPT_S = 7 * 24 * 3600
"""What is left of an interrupted run is forgotten after that: the task manager forgets its keys too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    identity: str  # of a picture and of where it is sent
    key: str  # its submission key
    task_id: TaskId | None = None  # once it was acknowledged

    def lines(self) -> bytes:
        line = json.dumps({"picture": self.identity, "key": self.key}).encode() + b"\n"
        return line if self.task_id is None else line + acknowledgement(self.key, self.task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """What is left of a run whose process has gone."""

    path: Path
    entries: Mapping[str, Entry]  # by their keys
    is_damaged: bool


def acknowledgement(key: str, task_id: TaskId) -> bytes:
    return json.dumps({"key": key, "task_id": task_id}).encode() + b"\n"


def write_run(directory: Path, entries: Iterable[Entry]) -> tuple[Path, int]:
    """A new file, durable. Returns: it, and its open descriptor, which has it locked. Raises: OSError."""
    path = directory / f"{uuid.uuid4().hex}{SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        durable.try_lock(descriptor)  # it is new, and nobody else looks now
        durable.write_all(descriptor, b"".join(entry.lines() for entry in entries))
        os.fsync(descriptor)
        durable.sync_directory(directory)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return path, descriptor


def take_out(run: Interrupted, taken: Collection[str]) -> Path | None:
    """Leave only those entries of an interrupted run whose keys were not taken.

    Returns: where its file was set aside, if it is damaged. Raises: OSError.
    """
    left = [entry for entry in run.entries.values() if entry.key not in taken]
    if not run.is_damaged and len(left) == len(run.entries) > 0:
        return None
    if left:
        # Before the old file goes: after a crash in between, a key in two files is still one key.
        os.close(write_run(run.path.parent, left)[1])
    if run.is_damaged:
        return run.path.replace(run.path.with_name(run.path.name + DAMAGED))
    run.path.unlink()
    return None


def interrupted_runs(directory: Path) -> Sequence[Interrupted]:
    """All runs whose process has gone, in the order in which they were last written. Raises: OSError.

    What is older than KEPT_S is removed.
    """
    forget_before = time.time() - KEPT_S
    for path in directory.glob(f"*{DAMAGED}"):
        if path.stat().st_mtime < forget_before:
            path.unlink()
    runs: list[tuple[float, Interrupted]] = []
    for path in directory.glob(f"*{SUFFIX}"):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # its run has just completed
        with file:
            if not durable.try_lock(file.fileno()):
                continue
            status = os.fstat(file.fileno())
            if status.st_nlink == 0:  # likewise
                continue
            if status.st_mtime < forget_before:
                path.unlink()
                continue
            runs.append((status.st_mtime, parse(path, file.read())))
    return [run for _, run in sorted(runs, key=lambda item: item[0])]


def parse(path: Path, content: bytes) -> Interrupted:
    """Whatever is readable.

    A torn last line is no damage: its write was not complete, so nothing was done that relies on it.
    """
    *lines, _ = content.split(b"\n")
    entries: dict[str, Entry] = {}
    is_damaged = False
    for line in lines:
        match _fields(line):
            case {"picture": str(identity), "key": str(key)}:
                entries[key] = Entry(identity=identity, key=key)
            case {"key": str(key), "task_id": str(task_id)} if key in entries:
                entries[key] = replace(entries[key], task_id=TaskId(task_id))
            case _:
                is_damaged = True
    return Interrupted(path=path, entries=entries, is_damaged=is_damaged)


def _fields(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None

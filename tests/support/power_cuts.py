"""What a disk has after a power cut: worked out from the log that disk_recorder.c writes.

Only what was synced is sure to be there: the bytes of a file after its fsync, a name after the fsync of its directory.
Everything else may be there or not, the bytes in any combination of sectors, the names in the order in which they were
made (file systems keep a journal of them).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
ENTRY = struct.Struct("<BBHHiQQ")
SOURCE = Path(__file__).with_name("disk_recorder.c")


def compile_recorder(directory: Path) -> Path | None:
    """The library to preload; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = directory / "disk_recorder.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True
    )
    return library


def recording(library: Path, root: Path, log: Path) -> dict[str, str]:
    """The environment of a process whose doings below `root` are to be recorded."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "DISK_RECORDER_ROOT": str(root),
        "DISK_RECORDER_LOG": str(log),
    }


@dataclass(frozen=True, slots=True)
class Step:
    """One record: see `struct entry` in disk_recorder.c."""

    kind: str
    is_new: bool
    fd: int
    offset: int
    length: int
    path: str
    other: str
    data: bytes


def read_log(log: Path) -> Iterator[Step]:
    content = log.read_bytes()
    at = 0
    while at + ENTRY.size <= len(content):
        kind, is_new, path_bytes, other_bytes, fd, offset, length = ENTRY.unpack_from(content, at)
        at += ENTRY.size
        path = content[at : at + path_bytes].decode()
        at += path_bytes
        other = content[at : at + other_bytes].decode()
        at += other_bytes
        data = b""
        if chr(kind) == "W":
            data = content[at : at + length]
            at += length
        yield Step(chr(kind), bool(is_new), fd, offset, length, path, other, data)


@dataclass(slots=True, eq=False)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, Step]] = field(default_factory=list)  # with the number of the step

    def sync(self, before: int) -> None:
        for number, step in self.unsynced:
            if number < before:
                _do(self.synced, step)
        self.unsynced = [item for item in self.unsynced if item[0] >= before]

    def after_cut(self, random: Random | None, survival: float) -> bytes:
        content = bytearray(self.synced)
        if random is not None:
            for _, step in self.unsynced:
                for part in _sectors(step):
                    if random.random() < survival:
                        _do(content, part)
        return bytes(content)


@dataclass(frozen=True, slots=True)
class _NameChange:
    number: int
    directory: str
    path: str
    file: _File | None  # None: the name goes


class Disk:
    """Follows the log step by step, and can say at each of them what a power cut would leave."""

    def __init__(self) -> None:
        self._number = 0
        self._names: dict[str, _File] = {}
        self._synced_names: dict[str, _File] = {}
        self._unsynced_names: list[_NameChange] = []
        self._open: dict[int, _File | str] = {}  # a file, or a directory's path
        self._syncing: dict[int, int] = {}  # descriptor -> step at which its sync began

    def follow(self, step: Step) -> None:
        self._number += 1
        match step.kind:
            case "O":
                if step.is_new:
                    self._name(step.path, _File())
                self._open[step.fd] = self._names.get(step.path, step.path)
            case "X":
                self._open.pop(step.fd, None)
            case "W" | "P" | "T":
                file = self._names[step.path] if step.path else self._open[step.fd]
                assert isinstance(file, _File)
                file.unsynced.append((self._number, step))
            case "S":
                self._syncing[step.fd] = self._number
            case "E":
                self._sync(self._open[step.fd], before=self._syncing.pop(step.fd))
            case "R":
                self._name(step.other, self._names[step.path])
                self._name(step.path, None)
            case "L":
                self._name(step.other, self._names[step.path])
            case "U":
                self._name(step.path, None)

    def after_cut(self, random: Random | None) -> dict[str, bytes]:
        """Path -> content. random: decides what of the unsynced is there; None: nothing of it."""
        names = dict(self._synced_names)
        survival = 0.0
        if random is not None:
            survival = random.choice([0.1, 0.5, 0.9, 1.0])
            for change in self._unsynced_names[: random.randint(0, len(self._unsynced_names))]:
                _rename(names, change)
        return {path: file.after_cut(random, survival) for path, file in names.items()}

    def content(self, path: str) -> bytes:
        """As the process sees it."""
        file = self._names[path]
        content = bytearray(file.synced)
        for _, step in file.unsynced:
            _do(content, step)
        return bytes(content)

    def _name(self, path: str, file: _File | None) -> None:
        change = _NameChange(self._number, os.path.dirname(path), path, file)
        _rename(self._names, change)
        self._unsynced_names.append(change)

    def _sync(self, what: _File | str, before: int) -> None:
        if isinstance(what, _File):
            what.sync(before)
            return
        synced = [c for c in self._unsynced_names if c.directory == what and c.number < before]
        for change in synced:
            _rename(self._synced_names, change)
        self._unsynced_names = [c for c in self._unsynced_names if c not in synced]


def write_out(files: dict[str, bytes], root: str, directory: Path) -> None:
    """Make these files, which were below `root`, below `directory`."""
    for path, content in files.items():
        target = directory / os.path.relpath(path, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _rename(names: dict[str, _File], change: _NameChange) -> None:
    if change.file is None:
        names.pop(change.path, None)
    else:
        names[change.path] = change.file


def _do(content: bytearray, step: Step) -> None:
    if step.kind == "T":
        del content[step.offset :]
        content.extend(bytes(step.offset - len(content)))
        return
    data = bytes(step.length) if step.kind == "P" else step.data
    if step.kind == "P":
        data = data[: max(0, len(content) - step.offset)]  # a hole makes no file longer
    content.extend(bytes(max(0, step.offset - len(content))))
    content[step.offset : step.offset + len(data)] = data


def _sectors(step: Step) -> Sequence[Step]:
    """A write as the disk does it, piece by piece."""
    if step.kind != "W":
        return [step]
    pieces = []
    at = 0
    while at < len(step.data):
        end = at + SECTOR_BYTES - (step.offset + at) % SECTOR_BYTES
        piece = step.data[at:end]
        pieces.append(Step("W", False, step.fd, step.offset + at, len(piece), "", "", piece))
        at = end
    return pieces

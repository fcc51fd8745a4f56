"""Writes labels as files below one directory: each task's once, and durably before anybody is told.

The labels are in the redo log, which is synced, before their files are written, which are not. Every few seconds the
files are synced all at once, their tasks are noted in the journal, and the redo log begins anew.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client import redo_log
from client.journal import FILE_NAME, Entry, Journal
from client.redo_log import Redo, RedoLog, sync_file_system
from edgesched.domain.detection import as_json, digest, text_lines
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.rest import LabelledPicture

log = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_NAME_BYTES = 255
LONGEST_EXTENSION = ".json"
_json = json.JSONEncoder(ensure_ascii=False).encode
TEMPORARY = ".edgesched-{}.tmp"
CHECKPOINT_S = 10.0
CHECKPOINT_BYTES = 8 * 1024 * 1024
"""Of the redo log. Files that somebody took away since the last checkpoint come back after a crash, so it is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one item. With neither `rejected` nor `error` its labels are durable."""

    is_new: bool = False
    rejected: str | None = None  # why, for good
    error: OSError | None = None  # the disk's: trying again can help


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    temporary: Path
    final: Path


@dataclass(slots=True, kw_only=True)
class _Job:
    """One task's labels on their way to disk."""

    item: LabelledPicture
    stem: str
    folder: Path
    files: Sequence[_File]  # those to write, JSON first
    is_new: bool
    error: OSError | None = None


class LabelStore:
    """The label files of one directory. One process at a time (a lock sees to it), one thread at a time."""

    def __init__(self, directory: Path, journal: Journal, redo: RedoLog) -> None:
        self._directory = directory
        self._journal = journal
        self._redo = redo
        self._in_use = threading.Lock()
        self._unwritten: list[Entry] = []  # that the journal's file does not have yet
        self._checkpoint_at = time.monotonic()
        self._numbers = itertools.count(1)
        self._durable_folders: set[Path] = set()

    @classmethod
    @contextmanager
    def opened(cls, directory: Path) -> Iterator[LabelStore]:
        """Raises: StartupError if the directory cannot be used, or another receiver uses it."""
        with ExitStack() as stack:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                journal = stack.enter_context(Journal.opened(directory / FILE_NAME))
                redo, left = stack.enter_context(RedoLog.opened(directory / redo_log.FILE_NAME))
                _sync(directory)
                for folder in ("*", "*/rst"):
                    for left_behind in directory.glob(f"{folder}/{TEMPORARY.format('*')}"):
                        left_behind.unlink()
                store = cls(directory, journal, redo)
                store._do_again(left)
            except OSError as error:
                raise StartupError(f"--dir {directory}: cannot be used: {error.strerror}") from error
            yield store
            with store._in_use:  # whoever called `store` last may have stopped waiting for it
                store._checkpoint()

    @property
    def known_tasks(self) -> int:
        return len(self._journal)

    def store(self, items: Sequence[LabelledPicture]) -> list[Verdict]:
        """Write all of them as one group. Returns: a verdict per item, in their order.

        An item that is here already is not written again, unless a file of it has gone.
        Raises: StorageFailed if nobody can tell any more what the disk has: the process must end.
        """
        jobs: dict[TaskId, _Job] = {}
        claimed: set[tuple[str, str]] = set()  # names that earlier items of this group take
        with self._in_use:
            verdicts = [self._plan(item, jobs, claimed) for item in items]
            self._carry_out(list(jobs.values()))
            if time.monotonic() - self._checkpoint_at > CHECKPOINT_S or self._redo.size_bytes > CHECKPOINT_BYTES:
                self._checkpoint()
        return [verdict or _verdict(jobs[item.task_id], item) for verdict, item in zip(verdicts, items, strict=True)]

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            with _blaming(job):
                self._make_folder(job.folder)
        sound = [job for job in jobs if job.error is None]
        with _blaming(*sound):
            if sound:
                self._redo.append([Redo(stem=job.stem, item=job.item) for job in sound])
        for job in sound:
            if job.error is None:
                _write(job)
        noted = [_entry(job) for job in sound if job.is_new and job.error is None]
        self._journal.remember(noted)
        self._unwritten += noted

    def _do_again(self, left: Sequence[Redo]) -> None:
        """After a crash: labels that were promised to be safe, and whose files may not be."""
        for redo in {redo.item.task_id: redo for redo in left}.values():
            known = self._journal.get(redo.item.task_id)
            job = self._job(redo.item, self._folder(redo.item.model), redo.stem, is_new=known is None)
            job.files = [file for file in job.files if not _has(file)]
            with _blaming(job):
                self._make_folder(job.folder)
                _write(job)
            if job.error is not None:  # it comes again: nobody was told that it is here
                log.error("labels.not_stored", extra={"task_id": redo.item.task_id, "cause": str(job.error)})
            elif job.is_new:
                self._journal.remember([_entry(job)])
                self._unwritten.append(_entry(job))
        if left:
            log.info("labels.recovered", extra={"pictures": len(left)})
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Raises: StorageFailed."""
        self._checkpoint_at = time.monotonic()
        if not self._redo.size_bytes:
            return
        try:
            sync_file_system(self._directory)
            self._journal.write(self._unwritten)
            self._redo.clear()
        except OSError as error:
            # What could not be synced may be gone from memory too. The next start writes it again.
            raise StorageFailed(f"labels in {self._directory} cannot be made durable: {error.strerror}") from error
        self._unwritten.clear()

    # --- where labels go ---

    def _plan(self, item: LabelledPicture, jobs: dict[TaskId, _Job], claimed: set[tuple[str, str]]) -> Verdict | None:
        """Add a job if something has to be written. Returns: the verdict if not."""
        if reason := why_unusable(item):
            return Verdict(rejected=reason)
        if item.task_id in jobs:
            return None
        known = self._journal.get(item.task_id)
        try:
            folder = self._folder(known.model if known else item.model)
            stem = known.stem if known else self._free_stem(item, folder, claimed)
            job = self._job(item, folder, stem, is_new=known is None)
            if known:
                job.files = [file for file in job.files if not file.final.exists()]
                if known.digest != digest(item.detections):
                    log.warning("labels.differ", extra={"task_id": item.task_id, "kept": f"{folder / stem}.json"})
        except OSError as error:
            return Verdict(error=error)
        if not job.files:
            return Verdict()
        claimed.add((item.model, stem))
        jobs[item.task_id] = job
        return None

    def _job(self, item: LabelledPicture, folder: Path, stem: str, *, is_new: bool) -> _Job:
        files = [
            self._file(folder / f"{stem}.json", label_json(item)),
            self._file(folder / f"{stem}.txt", text_lines(item.detections).encode()),
        ]
        return _Job(item=item, stem=stem, folder=folder, files=files, is_new=is_new)

    def _folder(self, model: str) -> Path:
        return self._directory / model if self._directory.absolute().name == "rst" else self._directory / model / "rst"

    def _free_stem(self, item: LabelledPicture, folder: Path, claimed: set[tuple[str, str]]) -> str:
        return next(
            stem
            for stem in _stems(item.file_name, item.task_id)
            if (item.model, stem) not in claimed
            and self._journal.owner(item.model, stem) is None
            and _is_free(folder, stem, item.task_id)
        )

    def _file(self, final: Path, content: bytes) -> _File:
        return _File(content, final.with_name(TEMPORARY.format(next(self._numbers))), final)

    # --- writing ---

    def _make_folder(self, folder: Path) -> None:
        if folder in self._durable_folders and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for parent in (folder.parent, self._directory, self._directory.absolute().parent):
            _sync(parent)
        self._durable_folders.add(folder)


@contextmanager
def _blaming(*jobs: _Job) -> Iterator[None]:
    """Whatever the disk refuses inside is these jobs' error, and nobody else's."""
    try:
        yield
    except OSError as error:
        for job in jobs:
            job.error = job.error or error


def _write(job: _Job) -> None:
    """Readers see a whole file or none, and a JSON file only with its text beside it."""
    with _blaming(job):
        try:
            for file in job.files:
                with open(file.temporary, "wb", buffering=0) as stream:
                    stream.write(file.content)
            for file in reversed(job.files):
                os.rename(file.temporary, file.final)
        except OSError:
            for file in job.files:
                file.temporary.unlink(missing_ok=True)
            raise


def _has(file: _File) -> bool:
    try:
        return file.final.read_bytes() == file.content
    except OSError:
        return False


def _entry(job: _Job) -> Entry:
    return Entry(task_id=job.item.task_id, model=job.item.model, stem=job.stem, digest=digest(job.item.detections))


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verdict(job: _Job, item: LabelledPicture) -> Verdict:
    return Verdict(is_new=job.is_new and job.item is item, error=job.error)


def _is_free(folder: Path, stem: str, task_id: TaskId) -> bool:
    """Whether no file of anybody else has this name; one of this very task may be left from a crash."""
    labels = folder / f"{stem}.json"
    if not labels.exists():
        return not (folder / f"{stem}.txt").exists()
    try:
        return bool(json.loads(labels.read_bytes())["task_id"] == task_id)
    except (ValueError, KeyError, TypeError):
        return False


def _stems(file_name: str, task_id: TaskId) -> Iterator[str]:
    """The names to try: the picture's own, then with the task's id, shortened where the file system needs it."""
    stem = os.path.splitext(file_name)[0]
    if len((stem + LONGEST_EXTENSION).encode()) <= MAX_NAME_BYTES:
        yield stem
    for suffix in itertools.chain([f".{task_id}"], (f".{task_id}.{n}" for n in itertools.count(2))):
        room = MAX_NAME_BYTES - len(suffix) - len(LONGEST_EXTENSION)
        yield stem.encode()[:room].decode(errors="ignore") + suffix


def why_unusable(item: LabelledPicture) -> str | None:
    """Why its names must not become paths; None if they may. They come from the network."""
    name = item.file_name
    if not MODEL_NAME.fullmatch(item.model):
        return f"model {item.model[:80]!r} is not a model's name"
    if not name or name in (".", ".."):
        return f"file_name {name!r} is not a file's name"
    if any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return f"file_name {name[:80]!r} holds a directory or a control character"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"file_name {name[:80]!r}... has more than {MAX_NAME_BYTES} bytes"
    return None


def label_json(item: LabelledPicture) -> bytes:
    """One line per detection. The same item always gives the same bytes."""
    facts = {
        "task_id": item.task_id,
        "attempt_id": item.attempt_id,
        "model": item.model,
        "file_name": item.file_name,
    }
    head = "".join(f"  {_json(key)}: {_json(value)},\n" for key, value in facts.items())
    detections = ",".join(f"\n    {_json(as_json(detection))}" for detection in item.detections)
    return f'{{\n{head}  "detections": [{detections}\n  ]\n}}\n'.encode()

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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path

from client import durable, journal, redo_log
from client.journal import Entry, Journal
from client.redo_log import Redo, RedoLog
from edgesched.domain.detection import text_lines
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.rest import LabelledPicture

log = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NOT_IN_A_NAME = re.compile("[/\\\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # separators, control characters, surrogates
MAX_NAME_BYTES = 255
LONGEST_EXTENSION = ".json"
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


STORED = Verdict(is_new=True)
KNOWN = Verdict()


@dataclass(slots=True, kw_only=True)
class _Job:
    """One task's labels on their way to disk."""

    item: LabelledPicture
    folder: str
    stem: str
    files: list[tuple[str, bytes]]  # path and content of those to write, JSON first
    json: bytes  # its JSON file
    is_new: bool
    error: OSError | None = None


class LabelStore:
    """The label files of one directory. One process at a time (a lock sees to it), one thread at a time.

    Paths are plain strings here: for two small files, pathlib cost as much as the system calls.
    """

    def __init__(self, directory: Path, journal: Journal, redo: RedoLog) -> None:
        self._directory = directory
        self._below = "" if directory.absolute().name == "rst" else "/rst"  # of a model's directory
        self._journal = journal
        self._redo = redo
        self._unwritten: list[Entry] = []  # that the journal's file does not have yet
        self._checkpoint_at = time.monotonic()
        self._numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def opened(cls, directory: Path) -> Iterator[LabelStore]:
        """Raises: StartupError if the directory cannot be used, or another receiver uses it."""
        with ExitStack() as stack:
            try:
                durable.make_directory(directory)
                redo, left = stack.enter_context(RedoLog.opened(directory / redo_log.FILE_NAME))
                for pattern in (f"*/{TEMPORARY}", f"*/rst/{TEMPORARY}", f".{journal.FILE_NAME}.{{}}"):
                    for left_behind in directory.glob(pattern.format("*")):
                        left_behind.unlink()
                notes = stack.enter_context(Journal.opened(directory / journal.FILE_NAME))
                durable.sync_directory(directory)
                store = cls(directory, notes, redo)
                store._do_again(left)
            except OSError as error:
                raise StartupError(f"--dir {directory}: cannot be used: {error.strerror}") from error
            yield store
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
        verdicts = [self._plan(item, jobs) for item in items]
        self._carry_out([job for job in jobs.values() if job.files])
        if time.monotonic() - self._checkpoint_at > CHECKPOINT_S or self._redo.size_bytes > CHECKPOINT_BYTES:
            self._checkpoint()
        return [verdict or _verdict(jobs[item.task_id], item) for verdict, item in zip(verdicts, items, strict=True)]

    def _carry_out(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        try:
            self._redo.append(b"".join(redo_log.record(job.stem, job.json) for job in jobs))
        except OSError as error:
            for job in jobs:
                job.error = error
        for job in jobs:
            if job.error is None:
                self._write(job)
            if job.is_new:
                if job.error is None:
                    self._unwritten.append(Entry(job.item.task_id, _name(job.item.model, job.stem)))
                else:
                    self._journal.forget(job.item.task_id)

    def _do_again(self, left: Sequence[Redo]) -> None:
        """After a crash: labels that were promised to be safe, and whose files may not be."""
        done: set[str] = set()  # tasks, and names
        # The newest first: of two that want one name, the disk refused the earlier one, and nobody was told of it.
        for redo in reversed(left):
            task_id, name = redo.item.task_id, _name(redo.item.model, redo.stem)
            if task_id in done or name in done:
                continue
            done |= {task_id, name}
            is_new = self._journal.name_of(task_id) is None
            job = self._job(redo.item, self._folder(redo.item.model), redo.stem, is_new)
            job.files = [(path, content) for path, content in job.files if _content(path) != content]
            self._write(job)
            if job.error is not None:
                raise job.error  # the log is kept: it may be the only place where these labels are
            if is_new:
                self._journal.remember(task_id, name)
                self._unwritten.append(Entry(task_id, name))
        if left:
            log.info("labels.recovered", extra={"pictures": len(left)})
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Raises: StorageFailed."""
        self._checkpoint_at = time.monotonic()
        if not self._redo.size_bytes:
            return
        try:
            durable.sync_file_system(self._directory)
            self._journal.write(self._unwritten)
            self._redo.clear()
        except OSError as error:
            # What could not be synced may be gone from memory too. The next start writes it again.
            raise StorageFailed(f"labels in {self._directory} cannot be made durable: {error.strerror}") from error
        self._unwritten.clear()

    # --- where labels go ---

    def _plan(self, item: LabelledPicture, jobs: dict[TaskId, _Job]) -> Verdict | None:
        """Add a job if something has to be written. Returns: the verdict if not."""
        if reason := why_unusable(item):
            return Verdict(rejected=reason)
        if item.task_id in jobs:
            return None
        try:
            if name := self._journal.name_of(item.task_id):
                model, _, stem = name.partition("/")
                job = self._job(item, self._folder(model), stem, False)
            else:
                folder = self._folder(item.model)
                job = self._job(item, folder, *self._place(item, folder))
            if job.is_new:
                self._journal.remember(item.task_id, _name(item.model, job.stem))
            else:
                _keep_what_is_there(job)
        except OSError as error:
            return Verdict(error=error)
        if not job.files:
            return KNOWN
        jobs[item.task_id] = job
        return None

    def _folder(self, model: str) -> str:
        """Where a model's labels lie, made if it is not there. After a power cut the redo log makes it again."""
        folder = f"{self._directory}/{model}{self._below}"
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
        return folder

    def _place(self, item: LabelledPicture, folder: str) -> tuple[str, bool]:
        """The stem for a task that the journal does not know, and whether it is new: its files may be there."""
        for stem in _stems(item.file_name, item.task_id):
            name = _name(item.model, stem)
            if (owner := self._journal.owner(name)) is None:
                owner = _owner_on_disk(f"{folder}/{stem}")
                if owner is None:
                    return stem, True
                if owner != item.task_id:
                    self._journal.note_owner(name, owner)
            if owner == item.task_id:
                return stem, False
        raise AssertionError("there is always another stem")

    def _job(self, item: LabelledPicture, folder: str, stem: str, is_new: bool) -> _Job:
        content = label_json(item)
        files = [
            (f"{folder}/{stem}.json", content),
            (f"{folder}/{stem}.txt", text_lines(item.detections).encode()),
        ]
        return _Job(item=item, folder=folder, stem=stem, files=files, json=content, is_new=is_new)

    # --- writing ---

    def _write(self, job: _Job) -> None:
        """Readers see a whole file or none, and a JSON file only with its text beside it."""
        drafts = [f"{job.folder}/{TEMPORARY.format(next(self._numbers))}" for _ in job.files]
        try:
            for draft, (_, content) in zip(drafts, job.files, strict=True):
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
                try:
                    durable.write_all(descriptor, content)
                finally:
                    os.close(descriptor)
            for draft, (path, _) in zip(reversed(drafts), reversed(job.files), strict=True):
                os.rename(draft, path)
        except OSError as error:
            job.error = error
            for draft in drafts:
                with suppress(OSError):
                    os.unlink(draft)


def _keep_what_is_there(job: _Job) -> None:
    """Of a task that was stored before, only files that have gone are written."""
    path = job.files[0][0]
    kept = _content(path)
    if kept is not None and kept != job.json and _detections(kept) != _detections(job.json):
        log.warning("labels.differ", extra={"task_id": job.item.task_id, "kept": path})
    job.files = [(path, content) for path, content in job.files if not os.path.exists(path)]


def _detections(label_file: bytes) -> object:
    try:
        return json.loads(label_file)["detections"]
    except (ValueError, KeyError, TypeError):
        return None


def _content(path: str) -> bytes | None:
    """None: it is not there, or it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _verdict(job: _Job, item: LabelledPicture) -> Verdict:
    if job.error is not None:
        return Verdict(error=job.error)
    return STORED if job.is_new and job.item is item else KNOWN


def _name(model: str, stem: str) -> str:
    return f"{model}/{stem}"


def _owner_on_disk(base: str) -> TaskId | None:
    """The task that the files of this name belong to, "" if they are not of a task; None: there are none."""
    try:
        with open(f"{base}.json", "rb") as file:
            return TaskId(str(json.load(file)["task_id"]))
    except FileNotFoundError:
        return TaskId("") if os.path.exists(f"{base}.txt") else None
    except (IsADirectoryError, PermissionError, ValueError, KeyError, TypeError):
        return TaskId("")


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
    if NOT_IN_A_NAME.search(name):
        return f"file_name {name[:80]!r} holds a directory or a control character"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"file_name {name[:80]!r}... has more than {MAX_NAME_BYTES} bytes"
    return None


def label_json(item: LabelledPicture) -> bytes:
    """One line per detection. The same item always gives the same bytes.

    Put together by hand: `json` takes five times as long, for an object of one kind and a few numbers.
    """
    quoted = encode_basestring
    detections = ",".join(
        f'\n    {{"class_id": {d.class_id}, "label": {quoted(d.label)}, "confidence": {d.confidence!r}, '
        f'"x1": {d.x1!r}, "y1": {d.y1!r}, "x2": {d.x2!r}, "y2": {d.y2!r}}}'
        for d in item.detections
    )
    return (
        f'{{\n  "task_id": {quoted(item.task_id)},\n  "attempt_id": {quoted(item.attempt_id)},\n'
        f'  "model": {quoted(item.model)},\n  "file_name": {quoted(item.file_name)},\n'
        f'  "detections": [{detections}\n  ]\n}}\n'
    ).encode()

"""Writes labels as files below one directory: each task's once, and durably before anybody is told."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.journal import FILE_NAME, Entry, Journal
from edgesched.domain.detection import as_json, digest, text_lines
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError
from edgesched.rest import LabelledPicture

log = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_NAME_BYTES = 255
LONGEST_EXTENSION = ".json"
_json = json.JSONEncoder(ensure_ascii=False).encode
TEMPORARY = ".edgesched-{}.tmp"
SYNC_THREADS = 16
"""fsync is mostly waiting, and a file system commits many of them in one go."""


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

    def __init__(self, directory: Path, journal: Journal, pool: ThreadPoolExecutor) -> None:
        self._directory = directory
        self._journal = journal
        self._pool = pool
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
                for folder in ("*", "*/rst"):
                    for left_behind in directory.glob(f"{folder}/{TEMPORARY.format('*')}"):
                        left_behind.unlink()
            except OSError as error:
                raise StartupError(f"--dir {directory}: cannot be used: {error.strerror}") from error
            yield cls(directory, journal, stack.enter_context(ThreadPoolExecutor(SYNC_THREADS, "labels")))

    @property
    def known_tasks(self) -> int:
        return len(self._journal)

    def store(self, items: Sequence[LabelledPicture]) -> list[Verdict]:
        """Write all of them as one group. Returns: a verdict per item, in their order.

        An item that is here already is not written again, unless a file of it has gone.
        """
        jobs: dict[TaskId, _Job] = {}
        claimed: set[tuple[str, str]] = set()  # names that earlier items of this group take
        verdicts = [self._plan(item, jobs, claimed) for item in items]

        by_folder: dict[Path, list[_Job]] = {}
        for job in jobs.values():
            by_folder.setdefault(job.folder, []).append(job)
        for folder, group in by_folder.items():
            with _blaming(*group):
                self._make_folder(folder)
        writes = [(job, file) for job in jobs.values() for file in job.files]
        list(self._pool.map(_write_all, (writes[n::SYNC_THREADS] for n in range(SYNC_THREADS))))
        for job in jobs.values():
            _put_in_place(job)
        for folder, group in by_folder.items():
            with _blaming(*group):
                _sync(folder)
        self._record([job for job in jobs.values() if job.is_new and job.error is None])

        return [verdict or _verdict(jobs[item.task_id], item) for verdict, item in zip(verdicts, items, strict=True)]

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
            files = [
                self._file(folder / f"{stem}.json", label_json(item)),
                self._file(folder / f"{stem}.txt", text_lines(item.detections).encode()),
            ]
            if known:
                files = [file for file in files if not file.final.exists()]
                if known.digest != digest(item.detections):
                    log.warning("labels.differ", extra={"task_id": item.task_id, "kept": f"{folder / stem}.json"})
        except OSError as error:
            return Verdict(error=error)
        if not files:
            return Verdict()
        claimed.add((item.model, stem))
        jobs[item.task_id] = _Job(item=item, stem=stem, folder=folder, files=files, is_new=known is None)
        return None

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

    def _record(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        with _blaming(*jobs):
            self._journal.append(
                [
                    Entry(
                        task_id=job.item.task_id,
                        model=job.item.model,
                        stem=job.stem,
                        digest=digest(job.item.detections),
                    )
                    for job in jobs
                ]
            )


@contextmanager
def _blaming(*jobs: _Job) -> Iterator[None]:
    """Whatever the disk refuses inside is these jobs' error, and nobody else's."""
    try:
        yield
    except OSError as error:
        for job in jobs:
            job.error = job.error or error


def _write_all(writes: Sequence[tuple[_Job, _File]]) -> None:
    for job, file in writes:
        if job.error is None:
            with _blaming(job), file.temporary.open("wb") as stream:
                stream.write(file.content)
                stream.flush()
                os.fsync(stream.fileno())


def _put_in_place(job: _Job) -> None:
    with _blaming(job):
        # The JSON file comes first: it names the task, so after a crash the pair is known as this task's.
        for file in job.files:
            if job.error is None:
                file.temporary.replace(file.final)
            else:
                file.temporary.unlink(missing_ok=True)


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

"""Which submission key each picture of a run was given: the same run, begun again after it was interrupted, uses them
again and so makes no second task.

Each run has a file of its own, and holds a lock on it while it lives. A file without a lock is of a run that was
interrupted; the next run takes over those of its pictures that it is to send too, and leaves the others there.
A key is durable before it is first used. Acknowledgements are noted without a sync: a picture whose note was lost is
sent again under the same key, and the task manager answers with the same task.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client import durable, run_files
from client.pictures import Picture
from client.run_files import Entry, Interrupted
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The same picture for another model, or with its labels posted elsewhere, is another task."""

    task_manager: str  # HOST:PORT
    model: str
    receiver_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What interrupted runs have left to this one."""

    is_resumed: bool
    acknowledged: Mapping[str, TaskId]  # source of a picture -> its task
    damaged: Sequence[Path]  # files that were set aside


class RunJournal:
    """The keys of one run. One thread at a time uses it, save that `key_for` may be called from many."""

    def __init__(
        self, path: Path, descriptor: int, destination: Destination, keys: dict[str, str], inherited: Inheritance
    ) -> None:
        """keys: by the identity of the picture."""
        self.inherited = inherited
        self._path = path
        self._descriptor = descriptor
        self._destination = destination
        self._keys = keys

    @classmethod
    def begin(cls, state_dir: Path, pictures: Sequence[Picture], destination: Destination) -> RunJournal:
        """Give every picture its key: that of an interrupted run, or a fresh one. All are durable then. Blocks.

        pictures: of files, each with its path as `source`.
        Raises: StartupError if the directory cannot be used.
        """
        directory = state_dir / "runs"
        wanted = dict(_identities(pictures, destination))
        try:
            durable.make_directory(directory)
            with durable.locked(directory):
                return cls._begin(directory, wanted, destination)
        except OSError as error:
            where = error.filename or directory
            raise StartupError(
                f"{where}: cannot be used: {error.strerror}; mend it, or name another client_state_dir"
            ) from error

    @classmethod
    def _begin(cls, directory: Path, wanted: Mapping[str, str], destination: Destination) -> RunJournal:
        """wanted: identity of each picture -> its source."""
        interrupted = run_files.interrupted_runs(directory)
        found: dict[str, Entry] = {}
        for entry in _each_key_once(interrupted):
            if entry.identity in wanted:
                found.setdefault(entry.identity, entry)
        entries = [found.get(identity) or Entry(identity=identity, key=_fresh_key()) for identity in wanted]
        path, descriptor = run_files.write_run(directory, entries)
        taken = {entry.key for entry in found.values()}
        set_aside = [run_files.take_out(run, taken) for run in interrupted]
        inherited = Inheritance(
            is_resumed=bool(found),
            acknowledged={wanted[i]: entry.task_id for i, entry in found.items() if entry.task_id is not None},
            damaged=[path for path in set_aside if path is not None],
        )
        return cls(path, descriptor, destination, {entry.identity: entry.key for entry in entries}, inherited)

    def key_for(self, picture: Picture) -> str:
        """The key to send it under, durable. To be asked for before the picture is read.

        So a picture that changes in that moment is sent once more by a later run, and never left out.
        Raises: OSError if the picture is not there, StorageFailed if the key cannot be kept.
        """
        identity = _identity(picture, self._destination)
        if identity not in self._keys:  # it has changed since the run began
            entry = Entry(identity=identity, key=_fresh_key())
            self._append(entry.lines(), sync=True)
            self._keys[identity] = entry.key
        return self._keys[identity]

    def acknowledge(self, key: str, task_id: TaskId) -> None:
        """Raises: StorageFailed."""
        self._append(run_files.acknowledgement(key, task_id), sync=False)

    def retire(self) -> None:
        """The run is complete: to send the same pictures again makes new tasks. Raises: StorageFailed."""
        try:
            self._path.unlink()
            durable.sync_directory(self._path.parent)
        except OSError as error:
            raise StorageFailed(f"{self._path}: cannot be removed: {error.strerror}") from error

    def close(self) -> None:
        """From now on the run counts as interrupted, unless it was retired."""
        os.close(self._descriptor)

    def _append(self, lines: bytes, *, sync: bool) -> None:
        try:
            durable.write_all(self._descriptor, lines)
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            raise StorageFailed(f"{self._path}: cannot be written: {error.strerror}") from error


def _identities(pictures: Iterable[Picture], destination: Destination) -> Iterator[tuple[str, str]]:
    for picture in pictures:
        try:
            yield _identity(picture, destination), picture.source
        except OSError:
            continue  # told when it is to be sent


def _identity(picture: Picture, destination: Destination) -> str:
    path = os.path.abspath(picture.source)
    status = os.stat(path)
    facts_of_picture = (path, status.st_size, status.st_mtime_ns)
    facts_of_task = (destination.task_manager, destination.model, destination.receiver_url)
    return hashlib.sha256(json.dumps(facts_of_picture + facts_of_task).encode()).hexdigest()[:32]


def _fresh_key() -> str:
    return str(uuid.uuid4())


def _each_key_once(runs: Iterable[Interrupted]) -> Iterable[Entry]:
    """A crash may have left a key in two files; then the later word on its task counts."""
    merged: dict[str, Entry] = {}
    for run in runs:
        for key, entry in run.entries.items():
            if key not in merged or entry.task_id is not None:
                merged[key] = entry
    return merged.values()

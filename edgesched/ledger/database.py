"""Opens the ledger's file: makes it, checks it, takes it over. A file that is not right is refused, never replaced."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgesched.domain.lifecycle import OPEN_STATES, State
from edgesched.domain.task import Line, Priority
from edgesched.errors import StartupError
from edgesched.ledger.base import Ownership

SCHEMA_VERSION = 3
OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables; UPDATE ... FROM came before them."""
BUSY_S = 5.0
"""For a moment in which somebody looks at the file with another program. Two owners are app.py's lock to prevent."""
CACHE_KIB = 64 * 1024
STATEMENTS = 256
"""Prepared statements that a connection keeps."""

Durability = Literal["power", "process"]


@dataclass(slots=True)
class Head:
    """What the ledger knows of itself without asking the disk, as of one commit."""

    epoch: int
    revision: int
    seq: int
    counts: dict[State, int]
    queued: dict[Line, int]
    open_bytes: int

    def copy(self) -> Head:
        return Head(self.epoch, self.revision, self.seq, dict(self.counts), dict(self.queued), self.open_bytes)

    def line_up(self, line: Line) -> None:
        """One more task is QUEUED there."""
        self.queued[line] = self.queued.get(line, 0) + 1

    def leave(self, line: Line) -> None:
        """One task less."""
        if left := self.queued[line] - 1:
            self.queued[line] = left
        else:
            del self.queued[line]


class LogFile:
    """The write-ahead log of an open ledger, to be synced by its owner: SQLite would do it within each commit."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError."""
        self._fd = os.open(beside(path, "-wal"), os.O_RDWR | os.O_CLOEXEC)

    def sync(self) -> None:
        """What was committed before survives a power cut when this returns. Raises: OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """SQLite keeps no lock on this file, so that closing it takes none away."""
        os.close(self._fd)


def fold_log(connection: sqlite3.Connection) -> None:
    """Move what the log has into the ledger's file, as far as nobody reads it; the log then begins anew.

    It syncs both, in this order. Left to SQLite it would happen within a commit.
    """
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def open_for_writing(path: Path) -> tuple[sqlite3.Connection, Ownership, Head]:
    """Open the ledger, make it if there is no such file, and take it over under a new epoch.

    Durable are the ledger's own doings here, and whatever was in its log before: a commit is not, until the log is
    synced (LogFile) or folded (fold_log). The connection may be used by one thread after the other.

    Raises: StartupError naming the file, if it cannot be made, is damaged, or is of a newer version.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise StartupError(f"SQLite {oldest} or newer is needed; this Python has {sqlite3.sqlite_version}")
    try:
        if not path.exists():
            _make(path)
        connection = connect(path, "rw")
    except (OSError, sqlite3.Error) as error:
        raise StartupError(f"the ledger {path} cannot be opened: {error}") from error
    try:
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            _check(connection, path)
            _keep_log(connection, path)
            owner = _take_over(connection)
            head = _read_head(connection, owner.epoch)
            undo.pop_all()
    except sqlite3.Error as error:
        raise StartupError(f"the ledger {path} cannot be used, and nothing was changed: {error}") from error
    return connection, owner, head


def open_for_reading(path: Path) -> sqlite3.Connection:
    return connect(path, "ro")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"]) -> Iterator[None]:
    """COMMIT at the end of the block; ROLLBACK if it, or the COMMIT, raises."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                connection.execute("ROLLBACK")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        cached_statements=STATEMENTS,
        check_same_thread=False,  # never two at the same time, though
    )
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def schema() -> str:
    """The statements that make this release's tables."""
    return importlib.resources.files("edgesched.ledger").joinpath("schema.sql").read_text(encoding="utf-8")


def check_version(connection: sqlite3.Connection, path: Path) -> None:
    """Raises: StartupError if the file is no ledger, or one of another version."""
    version = version_of(connection, path)
    if version > SCHEMA_VERSION:
        raise StartupError(
            f"the ledger {path} is of schema version {version}; this release knows {SCHEMA_VERSION}: use a newer one"
        )
    if version < SCHEMA_VERSION:
        raise StartupError(
            f"the ledger {path} is of schema version {version}; this release needs {SCHEMA_VERSION}: "
            f"run `edgesched ledger migrate --ledger {path}`"
        )


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Raises: StartupError if the file is no ledger."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    row = connection.execute("SELECT schema_version FROM meta").fetchone() if {"meta", "task"} <= tables else None
    if row is None:
        raise StartupError(f"{path} is not a ledger; give another path, or move the file away")
    return int(row[0])


def _make(path: Path) -> None:
    """The file gets its name only when it is complete, so that an empty or half-made one is always damage."""
    if log := log_of(path):  # SQLite would replay it into a database that it does not belong to
        raise StartupError(f"the ledger {path} is missing, but {log.name} is there: restore it, or move both")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = beside(path, ".new")
    for leftover in (new, beside(new, "-journal")):
        leftover.unlink(missing_ok=True)
    with contextlib.closing(connect(new, "rwc")) as connection:
        connection.executescript(f"BEGIN; {schema()}")
        connection.execute("INSERT INTO meta VALUES (1, ?, ?, '', 0, 0)", (SCHEMA_VERSION, uuid.uuid4().hex))
        counters = ["accepted", *(f"retired_{state}" for state in State)]
        connection.executemany("INSERT INTO counter VALUES (?, 0)", [(name,) for name in counters])
        connection.execute("COMMIT")
    new.rename(path)
    sync_directory(path.parent)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def log_of(path: Path) -> Path | None:
    """What was not folded into the ledger's file yet. Readers leave an empty one, which means nothing."""
    logs = (beside(path, "-wal"), beside(path, "-journal"))
    return next((log for log in logs if log.exists() and log.stat().st_size > 0), None)


def sync(path: Path) -> None:
    """Raises: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in it durable. Raises: OSError."""
    sync(path)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    check_version(connection, path)
    problems = [text for (text,) in connection.execute("PRAGMA quick_check(3)") if text != "ok"]
    if problems:
        raise StartupError(f"the ledger {path} is damaged; restore a backup. {'; '.join(problems)}")


def _keep_log(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartupError(f"the ledger {path} lies on a file system without shared memory; give a local path")
    # NORMAL syncs the log before it is folded, and its first page when it begins anew: a power cut may cost commits
    # that nobody has synced, but never damages the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def _take_over(connection: sqlite3.Connection) -> Ownership:
    owner_id = uuid.uuid4().hex
    with transaction(connection, "IMMEDIATE"):
        connection.execute("UPDATE meta SET epoch = epoch + 1, owner_id = ?", (owner_id,))
        ledger_id, epoch = connection.execute("SELECT ledger_id, epoch FROM meta").fetchone()
    return Ownership(ledger_id=ledger_id, owner_id=owner_id, epoch=epoch)


def _read_head(connection: sqlite3.Connection, epoch: int) -> Head:
    (revision,) = connection.execute("SELECT revision FROM meta").fetchone()
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'task'").fetchone()
    counts = dict.fromkeys(State, 0)
    for name, tasks in connection.execute("SELECT state, COUNT(*) FROM task GROUP BY state"):
        counts[State(name)] = tasks
    open_states = ", ".join(f"'{state}'" for state in sorted(OPEN_STATES))
    (open_bytes,) = connection.execute(
        f"SELECT COALESCE(SUM(size_bytes), 0) FROM task WHERE state IN ({open_states})"
    ).fetchone()
    queued = {
        Line(model, Priority(name)): tasks
        for model, name, tasks in connection.execute(
            "SELECT model, priority, COUNT(*) FROM task WHERE state = 'queued' GROUP BY model, priority"
        )
    }
    return Head(epoch, revision, last[0] if last else 0, counts, queued, open_bytes)

"""Copies of a ledger: made while its owner works on, checked before they get their name, and put back in its place."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgesched.errors import StartupError
from edgesched.ledger.database import beside, connect, log_of, sync, sync_directory, transaction, version_of

MAX_COPIES = 1_000


def back_up(path: Path, target: Path) -> None:
    """Write the ledger as it is at this moment to `target`, one file that needs no others. Its owner may go on writing.

    Raises: StartupError if there is no ledger, it is damaged, or `target` exists or cannot be written; then there is no
    file `target`.
    """
    if not path.is_file():
        raise StartupError(f"there is no ledger {path}")
    if target.exists():
        raise StartupError(f"{target} exists already: a backup never replaces a file; give another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _complete_or_gone(target) as new:
            _copy(path, new)
            sync(new)
            new.rename(target)
            sync_directory(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise StartupError(f"the ledger {path} cannot be copied to {target}: {error}") from error


def restore(backup: Path, path: Path, *, replace: bool) -> Path | None:
    """Put a backup in the ledger's place. The caller holds the ledger's lock.

    replace: move a ledger that is there aside; otherwise it is a refusal.
    Returns: where the old one is now, None if there was none. The restored one continues with an epoch above both.
    Raises: StartupError, and then the ledger that was there is there still.
    """
    if not backup.is_file():
        raise StartupError(f"there is no backup {backup}")
    is_there = path.exists() or log_of(path) is not None
    if is_there and not replace:
        raise StartupError(f"{path} exists: with --replace it is moved aside, and the backup takes its place")
    if path.exists() and backup.samefile(path):
        raise StartupError(f"{backup} is the ledger itself")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _complete_or_gone(path) as new:
            _copy(backup, new)
            _raise_epoch(new, _epoch_of(path))
            sync(new)
            aside = _move_aside(path) if is_there else None
            for ending in ("-wal", "-shm"):  # empty ones, left by a reader
                beside(path, ending).unlink(missing_ok=True)
            new.rename(path)
            sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise StartupError(f"the backup {backup} cannot be restored to {path}: {error}") from error
    return aside


@contextlib.contextmanager
def _complete_or_gone(target: Path) -> Iterator[Path]:
    """A name beside `target` to work under; what is left of it at the end is removed."""
    new = beside(target, ".new")
    leftovers = [new, *(beside(new, ending) for ending in ("-journal", "-wal", "-shm"))]
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    try:
        yield new
    finally:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)


def _copy(source: Path, new: Path) -> None:
    """Raises: StartupError if the copy is no sound ledger: then neither is the source."""
    with contextlib.closing(connect(source, "ro")) as original, contextlib.closing(connect(new, "rwc")) as copy:
        original.backup(copy)  # in one step: a read transaction, which keeps no writer waiting
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        version_of(copy, source)
        damage = [line for (line,) in copy.execute("PRAGMA integrity_check(3)") if line != "ok"]
    if damage:
        raise StartupError(f"{source} is damaged, and was not copied: {'; '.join(damage)}")


def _epoch_of(path: Path) -> int:
    """0 if that cannot be known: then the boards will tell."""
    if not path.exists():
        return 0
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path, "ro")) as connection:
        (epoch,) = connection.execute("SELECT epoch FROM meta").fetchone() or (0,)
        return int(epoch)
    return 0


def _raise_epoch(path: Path, epoch: int) -> None:
    with contextlib.closing(connect(path, "rw")) as connection, transaction(connection, "IMMEDIATE"):
        connection.execute("UPDATE meta SET epoch = MAX(epoch, ?)", (epoch,))


def _move_aside(path: Path) -> Path:
    """Give the ledger another name besides its own, which the restored one then takes over in one step."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(path, "rw")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # closing it then removes its log
    aside = free_name(path, ".replaced")
    for ending in ("-wal", "-journal", "-shm"):  # of a ledger too damaged to be folded together
        with contextlib.suppress(FileNotFoundError):
            beside(path, ending).rename(beside(aside, ending))
    try:
        aside.hardlink_to(path)
    except FileNotFoundError:  # only its log was left
        pass
    except OSError:  # the file system has no such links
        path.rename(aside)
    return aside


def free_name(path: Path, ending: str) -> Path:
    """A name beside the ledger that no file has. Raises: StartupError if there are too many already."""
    for number in range(1, MAX_COPIES):
        name = beside(path, f"{ending}-{number}")
        if not name.exists():
            return name
    raise StartupError(f"there are too many old copies beside {path}: remove some")

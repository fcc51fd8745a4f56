"""Files and directories of this client that survive a power cut, and a lock between its processes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgesched.errors import StartupError

LOCK_S = 10.0
"""Whoever holds the lock needs it for a moment. If it is frozen, others do not freeze with it."""
LOCK_PERIOD_S = 0.02


def make_directory(directory: Path) -> None:
    """Make it and what is missing above it, durably. Raises: OSError."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    # Its own parent is always synced: whoever made it may have died before that.
    for parent in {directory.parent, *(path.parent for path in missing)}:
        sync_directory(parent)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names durable. Raises: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(directory: Path) -> None:
    """Make everything that was written there durable, in one call however many files it was. Raises: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)  # Python has no name for syncfs
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"{directory} cannot be synced")
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: another process, or a later one, sees all of it or nothing. Raises: OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Raises: OSError; a part of it may have been written then."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def locked(directory: Path, *, within_s: float = LOCK_S) -> Iterator[None]:
    """Keep other processes that ask for the same out. Blocks.

    Raises: StartupError if it cannot be had in that time, OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up_at = time.monotonic() + within_s
        while not try_lock(descriptor):
            if time.monotonic() > give_up_at:
                raise StartupError(
                    f"{directory}: another process has locked it for {within_s:g} s; end that one, or name another "
                    "client_state_dir"
                )
            time.sleep(LOCK_PERIOD_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed. Returns: False if another process has it. Raises: OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

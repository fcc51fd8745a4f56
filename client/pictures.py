"""Pictures to send: where they are found, and how one is read."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgesched import wire
from edgesched.errors import InvalidInput, StartupError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

MAX_PICTURE_BYTES = wire.MAX_MESSAGE_BYTES - 1024 * 1024
"""A larger one would break the stream for all others; what the task manager itself allows is usually far less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to send. `load` runs in a thread, so it may block; it raises OSError or InvalidInput."""

    source: str  # what people call it, usually its path
    file_name: str
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a directory holds. `unreadable` are sub-directories that could not be looked into, with the reason."""

    pictures: tuple[Picture, ...]
    left_out: int  # there were more than the limit
    unreadable: tuple[tuple[str, str], ...]


def from_file(path: Path) -> Picture:
    return Picture(source=str(path), file_name=path.name, load=partial(read_picture, path))


def read_picture(path: Path) -> bytes:
    """The bytes of one picture.

    Raises: OSError if it cannot be read, InvalidInput if it is not a file or too large to be sent.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its other end for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput("it is not a regular file")
        check_size(status.st_size)
        return file.read()


def check_size(size_bytes: int) -> None:
    """Raises: InvalidInput if a picture of this size cannot travel in one message."""
    if size_bytes > MAX_PICTURE_BYTES:
        raise InvalidInput(
            f"it has {size_bytes / 1e6:.1f} MB, more than one message can carry ({MAX_PICTURE_BYTES / 1e6:.1f} MB); "
            "make it smaller"
        )


def find(directory: Path, limit: int | None = None) -> Found:
    """All pictures in a directory and below it, in the order of their paths, at most `limit` of them.

    Links to directories are not followed (they may form a ring), links to files are.
    Raises: StartupError if the directory cannot be read or holds no picture.
    """
    unreadable: list[OSError] = []
    paths = sorted(_walk(directory, unreadable.append))
    for error in unreadable:
        if error.filename == str(directory):
            raise StartupError(f"--dir {directory}: cannot be read: {_reason(error)}") from error
    if not paths and not unreadable:
        raise StartupError(
            f"no pictures in {directory} ({', '.join(sorted(s[1:] for s in SUFFIXES))}); name another --dir"
        )
    return Found(
        pictures=tuple(from_file(path) for path in itertools.islice(paths, limit)),
        left_out=0 if limit is None else max(0, len(paths) - limit),
        unreadable=tuple((str(error.filename), _reason(error)) for error in unreadable),
    )


def _walk(directory: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    for parent, _, names in os.walk(directory, onerror=on_error):
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield Path(parent, name)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

"""Appends pictures to segment files. Used by the store's thread alone."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from edgesched.domain.task import ImageRef
from edgesched.errors import Overloaded, StorageFailed
from edgesched.images.records import HEADER, Place, records, segment_path, sync_directory

PICTURES_PER_CALL = 500
"""Two buffers each, and one call takes 1,024 (IOV_MAX)."""
LOW_DISK_RETRY_MS = 5_000
"""Space comes back with retention, which runs every few seconds."""

T = TypeVar("T")


class Disk:
    """The system calls that a test must be able to make fail."""

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        return os.pwritev(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def free_bytes(self, directory: Path) -> int:
        state = os.statvfs(directory)
        return state.f_bavail * state.f_frsize


class SyncFailed(StorageFailed):
    """After a failed sync nobody knows what the disk has, and asking again would hide it."""


class SegmentWriter:
    """Writes one group of pictures after the other; a group is there whole or not at all.

    current: the number of the segment that grows, None if the next picture begins a new one.
    """

    def __init__(
        self, directory: Path, disk: Disk, *, next_number: int, is_synced: bool, min_free_bytes: int, segment_bytes: int
    ) -> None:
        self.current: int | None = None
        self._directory = directory
        self._disk = disk
        self._next_number = next_number
        self._is_synced = is_synced
        self._min_free_bytes = min_free_bytes
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._size = 0

    def write(self, images: Sequence[bytes], stored_at_ms: int) -> list[ImageRef]:
        """Raises: Overloaded below the low-disk mark; StorageFailed if the disk refuses. Then nothing is stored."""
        self._refuse_if_low(sum(map(len, images)) + HEADER.size * len(images))
        refs: list[ImageRef] = []
        begun: list[int] = []  # segments that this group has started
        old, old_size = self.current, self._size
        try:
            for batch in self._batches(images):
                if self.current is None:
                    begun.append(self._begin_segment())
                refs += self._append(batch, stored_at_ms)
                if self._size >= self._segment_bytes:
                    self._sync()
                    self._end_segment()
            self._sync()
        except OSError as error:
            self._undo(old, old_size, begun)
            raise StorageFailed(f"{self._directory}: a picture cannot be stored: {error.strerror}") from error
        return refs

    def close(self) -> None:
        self._end_segment()

    def _refuse_if_low(self, needed_bytes: int) -> None:
        free_bytes = self._disk.free_bytes(self._directory)
        if free_bytes - needed_bytes < self._min_free_bytes:
            raise Overloaded(
                f"the disk of {self._directory} has {free_bytes} free bytes; {self._min_free_bytes} are kept back",
                retry_after_ms=LOW_DISK_RETRY_MS,
            )

    def _batches(self, images: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Runs of pictures that fit into one call, and into the segment that is current then."""
        start = 0
        while start < len(images):
            room = self._segment_bytes - (self._size if self.current is not None else 0)
            end = start
            while end < len(images) and end - start < PICTURES_PER_CALL and room > 0:
                room -= HEADER.size + len(images[end])
                end += 1
            yield images[start:end]
            start = end

    def _append(self, batch: Sequence[bytes], stored_at_ms: int) -> list[ImageRef]:
        assert self.current is not None
        buffers = records(batch, stored_at_ms)
        wanted = sum(map(len, buffers))
        written = self._disk.write(self._fd, buffers, self._size)
        if written != wanted:
            raise OSError(errno.ENOSPC, f"only {written} of {wanted} bytes were taken")
        refs = []
        for image in batch:
            place = Place(self.current, self._size, len(image))
            refs.append(place.ref)
            self._size = place.end
        return refs

    def _begin_segment(self) -> int:
        number = self._next_number
        self._next_number += 1
        path = segment_path(self._directory, number)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.current, self._size = number, 0
        if self._is_synced:
            self._checked(sync_directory, self._directory)
        return number

    def _end_segment(self) -> None:
        if self.current is not None:
            os.close(self._fd)
            self.current = None

    def _sync(self) -> None:
        if self._is_synced and self.current is not None:
            self._checked(self._disk.sync, self._fd)

    def _checked(self, sync: Callable[[T], None], what: T) -> None:
        try:
            sync(what)
        except OSError as error:
            raise SyncFailed(f"{self._directory}: a picture cannot be synced: {error.strerror}") from error

    def _undo(self, old: int | None, old_size: int, begun: Sequence[int]) -> None:
        """Take back what a failed group has written, as far as the disk lets us; its segments get no more pictures."""
        self._end_segment()
        with contextlib.suppress(OSError):
            if old is not None:
                os.truncate(segment_path(self._directory, old), old_size)
        for number in begun:
            with contextlib.suppress(OSError):
                segment_path(self._directory, number).unlink()

"""The format of a segment file: records one behind the other, each a small header and a picture.

A reference is `segment:offset:length`: the number of the file, where the header begins, and the picture's bytes.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from edgesched.domain.task import ImageRef
from edgesched.errors import StorageFailed

MAGIC = b"ESI2"
RELEASED = b"ESI0"
"""Takes the magic's place when a picture is released: whoever looks at the file later knows that nobody misses it."""
HEADER = struct.Struct("<4sIQq")  # magic, length, XXH3 of the picture, stored at (wall milliseconds since 1970)

_FALLOC_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02  # linux/falloc.h
_LIBC = ctypes.CDLL(None)
_fallocate = getattr(_LIBC, "fallocate64", None) or getattr(_LIBC, "fallocate", None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies."""

    segment: int
    offset: int  # of its header
    length: int  # of the picture

    @property
    def end(self) -> int:
        return self.offset + HEADER.size + self.length

    @property
    def ref(self) -> ImageRef:
        return ImageRef(f"{self.segment}:{self.offset}:{self.length}")


@dataclass(frozen=True, slots=True)
class Header:
    length: int
    checksum: int
    stored_at_ms: int
    is_released: bool


def place_of(ref: ImageRef) -> Place:
    """Raises: StorageFailed if it is no reference of this store."""
    try:
        segment, offset, length = map(int, ref.split(":"))
    except ValueError:
        raise StorageFailed(f"{ref!r} is no reference of this image store") from None
    return Place(segment, offset, length)


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.segment"


def segment_numbers(directory: Path) -> list[int]:
    """Of the segments that are there. Other files are nobody's business here."""
    return sorted(int(path.stem) for path in directory.glob("*.segment") if path.stem.isdecimal())


def records(images: Sequence[bytes], stored_at_ms: int) -> list[bytes]:
    """What to write for them: headers and pictures in turn. The pictures are the very objects that came, no copies."""
    buffers: list[bytes] = []
    for image in images:
        buffers += (HEADER.pack(MAGIC, len(image), xxhash.xxh3_64_intdigest(image), stored_at_ms), image)
    return buffers


def read_header(fd: int, offset: int) -> Header | None:
    """None if no record begins there, it was released, or the file ends before it does."""
    header = _any_header(fd, offset)
    return None if header is None or header.is_released else header


def read_picture(fd: int, place: Place) -> bytes | None:
    """None if it is not there whole, or not as it was written."""
    header = read_header(fd, place.offset)
    if header is None or header.length != place.length:
        return None
    picture = os.pread(fd, place.length, place.offset + HEADER.size)
    return picture if xxhash.xxh3_64_intdigest(picture) == header.checksum else None


def unreleased(fd: int, number: int, known: Sequence[Place]) -> Iterator[tuple[Place, Header]]:
    """The records of segment `number` that were not released.

    known: where the chain is broken, by a torn write say, go on at the next one of these.
    """
    known_offsets = sorted(place.offset for place in known)
    position = 0
    while True:
        header = _any_header(fd, position)
        if header is not None:
            place = Place(number, position, header.length)
            if not header.is_released:
                yield place, header
            position = place.end
            continue
        later = bisect.bisect_right(known_offsets, position)
        if later == len(known_offsets):
            return
        position = known_offsets[later]


def mark_released(fd: int, places: Sequence[Place]) -> None:
    """Not synced: after a power cut the next start finds out by itself. What lies behind a cut is left alone."""
    size = os.fstat(fd).st_size
    for place in places:
        if place.end <= size:
            os.pwrite(fd, RELEASED, place.offset)


def free_all_but(fd: int, kept: Sequence[Place]) -> None:
    """Give the disk space between the kept records back. The file keeps its length, so that they stay where they are.

    Without it one dead letter would hold a whole segment for as long as dead letters are kept. Each gap becomes one
    released record, so that whoever follows the chain gets over it. Best effort: a file system that cannot do it
    (EOPNOTSUPP) gives the space back when the whole segment goes.
    """
    position = 0
    ordered = sorted((place.offset, place.end) for place in kept)
    for begin, end in [*ordered, (os.fstat(fd).st_size, 0)]:
        hole = position + HEADER.size
        if begin >= hole:
            os.pwrite(fd, HEADER.pack(RELEASED, begin - hole, 0, 0), position)
            if _fallocate is not None and begin > hole:
                length = ctypes.c_longlong(begin - hole)
                _fallocate(fd, _FALLOC_KEEP_SIZE_AND_PUNCH_HOLE, ctypes.c_longlong(hole), length)
        position = end


def _any_header(fd: int, offset: int) -> Header | None:
    raw = os.pread(fd, HEADER.size, offset)
    if len(raw) < HEADER.size:
        return None
    magic, length, checksum, stored_at_ms = HEADER.unpack(raw)
    if magic not in (MAGIC, RELEASED) or offset + HEADER.size + length > os.fstat(fd).st_size:
        return None
    return Header(length, checksum, stored_at_ms, is_released=magic == RELEASED)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

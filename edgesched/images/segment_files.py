"""What is done to segment files besides appending to them. Blocking: the store calls it in its threads."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgesched.domain.task import ImageRef
from edgesched.errors import StartupError, StorageFailed
from edgesched.images.base import StoredImage
from edgesched.images.records import (
    Place,
    free_all_but,
    mark_released,
    place_of,
    read_header,
    read_picture,
    segment_numbers,
    segment_path,
    sync_directory,
    unreleased,
)

log = logging.getLogger(__name__)

OWNER_FILE = "ledger-id"


def prepare(directory: Path) -> list[int]:
    """The numbers of the segments that are there. Raises: StartupError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return segment_numbers(directory)
    except OSError as error:
        raise StartupError(f"the picture directory {directory} cannot be used: {error.strerror}") from error


def owner_of(directory: Path) -> str | None:
    """The id of the ledger whose pictures these are; None if nobody has claimed them yet."""
    with contextlib.suppress(FileNotFoundError):
        return (directory / OWNER_FILE).read_text(encoding="utf-8").strip() or None
    return None


def claim(directory: Path, ledger_id: str) -> None:
    """Write down whose pictures these are: a start deletes those that its ledger does not name.

    Raises: StartupError if they are another ledger's.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        owner = owner_of(directory)
        if owner == ledger_id:
            return
        if owner is not None and segment_numbers(directory):
            raise StartupError(
                f"the pictures in {directory} belong to ledger {owner}, and this is ledger {ledger_id}: "
                "correct --ledger or --upload_path, or move the pictures away"
            )
        new = directory / f"{OWNER_FILE}.new"
        with new.open("w", encoding="utf-8") as file:
            file.write(f"{ledger_id}\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(directory / OWNER_FILE)
        sync_directory(directory)
    except OSError as error:
        raise StartupError(f"the picture directory {directory} cannot be used: {error.strerror}") from error


def refuse_if_orphaned(directory: Path, ledger_path: Path) -> None:
    """Before a new ledger is made: pictures that belong to one mean that it has gone.

    Raises: StartupError.
    """
    try:
        owner = None if ledger_path.exists() or not segment_numbers(directory) else owner_of(directory)
    except OSError:
        return  # no directory, as a rule; whoever opens it says what is wrong with it
    if owner is not None:
        raise StartupError(
            f"there is no ledger {ledger_path}, but {directory} holds the pictures of one ({owner}): correct --ledger, "
            "bring it back with `edgesched ledger restore`, or give --upload_path another directory to begin anew"
        )


def read(directory: Path, place: Place) -> bytes | None:
    """None if it is not there as it was stored. Raises: StorageFailed if the system refuses (no descriptor left, say).

    By name and not by a kept descriptor: segments may be many, and come and go while others read.
    """
    path = segment_path(directory, place.segment)
    try:
        with opened(path, os.O_RDONLY) as fd:
            return read_picture(fd, place)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EIO):  # the file is gone, or the disk cannot read it any more
            return None
        raise StorageFailed(f"{path} cannot be read: {error.strerror}") from error


def inventory(directory: Path, live: Mapping[int, Sequence[ImageRef]], now_ms: int) -> list[StoredImage]:
    found: list[StoredImage] = []
    for number, refs in live.items():
        with contextlib.suppress(FileNotFoundError), opened(segment_path(directory, number), os.O_RDONLY) as fd:
            for ref in refs:
                place = place_of(ref)
                header = read_header(fd, place.offset)
                if header is not None and header.length == place.length:
                    age_ms = max(0.0, float(now_ms - header.stored_at_ms))  # the clock may have been set back
                    found.append(StoredImage(ref=ref, size_bytes=place.length, age_ms=age_ms))
    return found


def recover(directory: Path, live: Mapping[int, Sequence[Place]]) -> int:
    """Returns: how many records were let go. Raises: StorageFailed, before anything is changed."""
    lost = [ref for number, places in live.items() for ref in _lost(segment_path(directory, number), places)]
    if lost:
        raise StorageFailed(
            f"{len(lost)} pictures that the ledger names are not in {directory}, the first is {lost[0]}: put them "
            "back, or see with `edgesched audit` whose they are and give them up with `edgesched ledger repair`"
        )
    others = 0
    for number in segment_numbers(directory):
        path, kept = segment_path(directory, number), live.get(number, [])
        kept_offsets = {place.offset for place in kept}
        with opened(path, os.O_RDWR) as fd:
            unknown = [place for place, _ in unreleased(fd, number, kept) if place.offset not in kept_offsets]
            others += len(unknown)
            if kept:  # what lies behind the last one was never acknowledged, or is released
                os.ftruncate(fd, max(place.end for place in kept))
                mark_released(fd, unknown)
                free_all_but(fd, kept)
        if not kept:
            path.unlink()
    return others


def free_space(
    directory: Path,
    released: Mapping[int, Sequence[Place]],
    empty: Iterable[int],
    sparse: Mapping[int, Sequence[Place]],
) -> None:
    """A disk that will not do it costs space, not pictures: said, and tried again at the next start.

    released: what has gone, per segment; empty: segments without any picture; sparse: what is kept of segments that
    few pictures need.
    """
    for number in empty:
        try:
            segment_path(directory, number).unlink(missing_ok=True)
        except OSError as error:
            log.warning("segment.not_deleted", extra={"segment": number, "error": error.strerror})
    for number, places in released.items():
        try:
            with opened(segment_path(directory, number), os.O_RDWR) as fd:
                mark_released(fd, places)
                if number in sparse:
                    free_all_but(fd, sparse[number])
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("segment.not_marked", extra={"segment": number, "error": error.strerror})


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _lost(path: Path, places: Sequence[Place]) -> list[ImageRef]:
    try:
        with opened(path, os.O_RDONLY) as fd:
            headers = [read_header(fd, place.offset) for place in places]
    except FileNotFoundError:
        headers = [None] * len(places)
    return [p.ref for p, header in zip(places, headers, strict=True) if header is None or header.length != p.length]

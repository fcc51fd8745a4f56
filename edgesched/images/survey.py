"""Looks at a picture directory from outside, for the audit: another process may be storing and releasing meanwhile."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesched.domain.task import ImageRef
from edgesched.errors import StorageFailed
from edgesched.images.base import digest_of
from edgesched.images.records import (
    Place,
    place_of,
    read_header,
    read_picture,
    segment_numbers,
    segment_path,
    unreleased,
)
from edgesched.images.segment_files import opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One picture that was looked for.

    problem: what is wrong with it, None if nothing is.
    digest: as `digest_of` makes it; None if it was not read, or could not be.
    """

    ref: ImageRef
    problem: str | None
    digest: str | None = None


def look_for(directory: Path, refs: Collection[ImageRef], *, whole: bool) -> Iterator[Seen]:
    """Each of them, in the order in which the disk has them.

    whole: read them and compare their checksums; otherwise only their headers are looked at.
    """
    by_segment: defaultdict[int, list[Place]] = defaultdict(list)
    for ref in refs:
        try:
            place = place_of(ref)
        except StorageFailed as error:
            yield Seen(ref=ref, problem=str(error))
        else:
            by_segment[place.segment].append(place)
    for number in sorted(by_segment):
        places = sorted(by_segment[number], key=lambda place: place.offset)
        yield from _look_into(segment_path(directory, number), places, whole)


def unknown_pictures(
    directory: Path, known: Mapping[int, Collection[Place]], *, stored_before_ms: int
) -> Iterator[ImageRef]:
    """Pictures that were stored before that time, were not released, and are none of the known ones."""
    for number in segment_numbers(directory):
        places = list(known.get(number, ()))
        known_offsets = {place.offset for place in places}
        with contextlib.suppress(FileNotFoundError), opened(segment_path(directory, number), os.O_RDONLY) as fd:
            for place, header in unreleased(fd, number, places):
                if place.offset not in known_offsets and header.stored_at_ms < stored_before_ms:
                    yield place.ref


def is_stored(directory: Path, ref: ImageRef) -> bool:
    """Whether it is there, and was not released."""
    return next(look_for(directory, [ref], whole=False)).problem is None


def _look_into(path: Path, places: Collection[Place], whole: bool) -> Iterator[Seen]:
    try:
        with opened(path, os.O_RDONLY) as fd:
            for place in places:
                yield _look_at(fd, place, path, whole)
    except FileNotFoundError:
        for place in places:
            yield Seen(ref=place.ref, problem=f"there is no file {path}")


def _look_at(fd: int, place: Place, path: Path, whole: bool) -> Seen:
    try:
        header = read_header(fd, place.offset)
        if header is None or header.length != place.length:
            return Seen(ref=place.ref, problem=f"it is not in {path}")
        if not whole:
            return Seen(ref=place.ref, problem=None)
        picture = read_picture(fd, place)
    except OSError as error:
        return Seen(ref=place.ref, problem=f"{path} cannot be read: {error.strerror}")
    if picture is None:
        return Seen(ref=place.ref, problem=f"it is damaged in {path}: its checksum does not match")
    return Seen(ref=place.ref, problem=None, digest=digest_of(picture))

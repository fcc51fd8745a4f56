from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.pictures import MAX_PICTURE_BYTES, find, read_picture
from edgesched.errors import InvalidInput, StartupError

NOBODY = 65534


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextmanager
def without_root() -> Iterator[None]:
    """Root may read everything, so for a moment be somebody else."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("root here may not become another user")
    try:
        yield
    finally:
        os.seteuid(0)


def test_pictures_are_found_by_any_spelling_of_their_suffix_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.JPG", "b/2.webp", "b/1.PnG", "a.jpeg", "c.bmp", "notes.txt", "jpg", ".gitkeep"):
        (tmp_path / name).write_bytes(name.encode())
    found = find(tmp_path)
    assert [p.source.removeprefix(f"{tmp_path}/") for p in found.pictures] == [
        "a.jpeg",
        "b/1.PnG",
        "b/2.webp",
        "c.bmp",
        "z.JPG",
    ]
    assert [p.file_name for p in found.pictures] == ["a.jpeg", "1.PnG", "2.webp", "c.bmp", "z.JPG"]
    assert found.pictures[1].load() == b"b/1.PnG"
    assert (found.left_out, found.unreadable) == (0, ())


@pytest.mark.parametrize(("limit", "taken", "left_out"), [(2, 2, 1), (3, 3, 0), (9, 3, 0)])
def test_a_limit_leaves_pictures_out_and_repeats_none(tmp_path: Path, limit: int, taken: int, left_out: int) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    found = find(tmp_path, limit)
    assert (len(found.pictures), found.left_out) == (taken, left_out)


def test_a_directory_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=f"no pictures in {tmp_path}"):
        find(tmp_path)


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="missing: cannot be read: no such file or directory"):
        find(tmp_path / "missing")


def test_a_directory_that_may_not_be_read_is_an_error(open_directory: Path) -> None:
    locked = open_directory / "locked"
    locked.mkdir(mode=0o000)
    with without_root(), pytest.raises(StartupError, match="locked: cannot be read: permission denied"):
        find(locked)


def test_a_sub_directory_that_may_not_be_read_is_named_and_the_rest_is_found(open_directory: Path) -> None:
    (open_directory / "a.jpg").touch()
    (open_directory / "locked").mkdir(mode=0o000)
    with without_root():
        found = find(open_directory)
    assert [p.file_name for p in found.pictures] == ["a.jpg"]
    assert found.unreadable == ((str(open_directory / "locked"), "permission denied"),)


def test_a_pipe_that_looks_like_a_picture_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InvalidInput, match="not a regular file"):
        find(tmp_path).pictures[0].load()


def test_a_link_that_leads_nowhere_fails_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        find(tmp_path).pictures[0].load()


def test_a_ring_of_links_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(find(tmp_path).pictures) == 1


def test_a_picture_that_no_message_can_carry_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(1000 * MAX_PICTURE_BYTES)  # sparse: to read it would not fit into memory
    with pytest.raises(InvalidInput, match="more than one message can carry"):
        read_picture(huge)

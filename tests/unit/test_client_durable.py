from __future__ import annotations

import os
from pathlib import Path

import pytest

from client import durable
from edgesched.errors import StartupError
from tests.support.disks import no_file_longer_than


def test_each_new_directory_is_synced_into_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    sync = os.fsync

    def recording(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", recording)
    durable.make_directory(tmp_path / "a" / "b")
    assert synced == {tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino}
    synced.clear()
    durable.make_directory(tmp_path / "a" / "b")
    assert synced == {(tmp_path / "a").stat().st_ino}, "whoever made it may have died before this"


def test_a_file_that_the_disk_refuses_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_whole(path, b"old")
    with no_file_longer_than(10), pytest.raises(OSError, match="File too large"):
        durable.write_whole(path, b"new" * 10)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with durable.locked(tmp_path):
        with (
            pytest.raises(StartupError, match=r"another process has locked it for 0\.05 s"),
            durable.locked(tmp_path, within_s=0.05),
        ):
            pass
    with durable.locked(tmp_path, within_s=0.0):
        pass

"""Small files that decide much: the device's name, and the epochs that were served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents.durable import write_atomically
from agents.epochs import Epochs
from agents.identity import identify
from edgesched.errors import StartupError
from edgesched.rest import DEVICE_ID_PATTERN


def test_a_name_is_made_once_and_kept(tmp_path: Path) -> None:
    first, second = identify(tmp_path, None), identify(tmp_path, None)
    assert first.device_id == second.device_id
    assert re.fullmatch(DEVICE_ID_PATTERN, first.device_id)
    assert first.boot_id != second.boot_id


def test_two_workspaces_have_two_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert identify(tmp_path / "a", None).device_id != identify(tmp_path / "b", None).device_id


def test_a_given_name_wins_and_is_not_kept(tmp_path: Path) -> None:
    assert identify(tmp_path, "shelf-3").device_id == "shelf-3"
    assert not (tmp_path / "device.json").exists()


@pytest.mark.parametrize("name", ["", "a b", "-a", "ä", "x" * 65, "a/b", "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartupError, match="--device-id"):
        identify(tmp_path, name)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"device_id": 5}', b'{"device_id": "a b"}', b"\xff"])
def test_a_damaged_name_is_set_aside_and_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device.json").write_bytes(content)
    made = identify(tmp_path, None).device_id
    assert (tmp_path / "device.json.damaged").read_bytes() == content
    assert identify(tmp_path, None).device_id == made


def test_epochs_only_grow_and_are_kept_per_ledger(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    epochs = Epochs.read(path)
    assert epochs.highest("one") == 0
    epochs.raise_to("one", 5)
    epochs.raise_to("one", 3)
    epochs.raise_to("two", 1)
    for seen in (epochs, Epochs.read(path)):
        assert (seen.highest("one"), seen.highest("two")) == (5, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"one": "x"}', b"5"])
def test_damaged_epochs_are_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "epochs.json"
    path.write_bytes(content)
    assert Epochs.read(path).highest("one") == 0
    assert (tmp_path / "epochs.json.damaged").exists()


def test_a_write_that_fails_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError, match="file"):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""Small files that decide much: the device's name, and the epochs that were served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agents.durable import write_atomically
from agents.epochs import Epochs
from agents.identity import checked_name, identify, keep_name
from agents.machine import Machine, this_machine
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


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"device_id": 5}', b'{"device_id": "a b"}', b'{"device_id": "a", "machine": 5}', b"\xff"],
)
def test_a_damaged_name_is_set_aside_and_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device.json").write_bytes(content)
    made = identify(tmp_path, None).device_id
    assert (tmp_path / "device.json.damaged").read_bytes() == content
    assert identify(tmp_path, None).device_id == made


# --- the machine behind the name ---


def machine_of(root: Path, *, serial: bytes | None = None, **macs: str) -> Machine:
    """A machine of files. macs: network device -> its address, perhaps behind the word that says how it was made."""
    if serial is not None:
        put(root, "proc/device-tree/serial-number", serial)
    for name, address in macs.items():
        how, _, mac = address.rpartition(" ")
        place = f"sys/class/net/{name}"
        put(root, f"{place}/address", mac.encode())
        put(root, f"{place}/addr_assign_type", b"3" if how == "set" else b"0")
        if how == "usb":
            (root / "sys/devices/usb1/1-1").mkdir(parents=True)
            (root / place / "device").symlink_to(root / "sys/devices/usb1/1-1")
        elif how != "virtual":
            (root / place / "device").mkdir()
    return this_machine(root)


def put(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


MAC, OTHER_MAC = "02:1a:2b:3c:4d:5e", "02:1a:2b:3c:4d:5f"


@pytest.mark.parametrize(
    ("then", "now", "is_copy"),
    [
        ({"serial": b"4fa0c1\0"}, {"serial": b"4fa0c1\0"}, False),
        ({"serial": b"4fa0c1\0"}, {"serial": b"77e2d9\0"}, True),
        ({"serial": b"4fa0c1\0", "eth0": MAC}, {"serial": b"4fa0c1\0", "eth0": OTHER_MAC}, False),  # a new card
        ({"serial": b"0000\0", "eth0": MAC}, {"serial": b"0000\0", "eth0": OTHER_MAC}, True),  # nobody set a serial
        ({"eth0": MAC}, {"eth0": OTHER_MAC}, True),
        ({"eth0": MAC}, {"eth0": OTHER_MAC, "eth1": MAC}, False),  # a driver that came late
        ({"eth0": MAC}, {"eth0": f"usb {OTHER_MAC}"}, False),  # its own one is not up yet: unknown is no other machine
        ({"eth0": MAC, "wlan0": f"set {MAC}"}, {"eth0": OTHER_MAC, "br0": f"virtual {MAC}"}, True),
        ({}, {"serial": b"4fa0c1\0"}, False),
    ],
)
def test_a_copied_disk_is_noticed_and_gets_a_name_of_its_own(
    tmp_path: Path, then: dict[str, Any], now: dict[str, Any], is_copy: bool
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    first = identify(workspace, None, machine_of(tmp_path / "then", **then)).device_id
    machine = machine_of(tmp_path / "now", **now)
    second = identify(workspace, None, machine).device_id
    assert (first != second) is is_copy
    assert identify(workspace, None, machine).device_id == second
    assert (workspace / "device.json.of-another-machine").exists() is is_copy


def test_a_name_from_before_machines_were_known_is_kept_and_bound(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text('{"device_id": "shelf-3"}')
    assert identify(tmp_path, None, machine_of(tmp_path / "one", serial=b"4fa0c1\0")).device_id == "shelf-3"
    assert identify(tmp_path, None, machine_of(tmp_path / "two", serial=b"77e2d9\0")).device_id != "shelf-3"


def test_a_chosen_name_stays_with_its_workspace(tmp_path: Path) -> None:
    keep_name(tmp_path, checked_name("shelf-3"))
    assert identify(tmp_path, None).device_id == "shelf-3"
    with pytest.raises(StartupError, match="--device-id"):
        checked_name("a b")


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

"""Who this board is: an id that stays with its workspace, and a boot id that is new at each start."""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agents.durable import set_aside, write_atomically
from agents.machine import Machine, this_machine
from edgesched.domain.device import DeviceId
from edgesched.errors import StartupError
from edgesched.rest import DEVICE_ID_PATTERN

LONGEST_HOST_NAME = 50
FILE_NAME = "device.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    device_id: DeviceId
    boot_id: str


def identify(workspace: Path, device_id: str | None, machine: Machine | None = None) -> Identity:
    """The id that was given, else the one kept in the workspace, else a new one, which is kept.

    An id that was kept on another machine came with a copied disk: this machine gets a new one.
    machine: this one, unless a test says otherwise.
    Raises: StartupError if the given id has characters that an id may not have, or if no id can be kept.
    """
    if device_id is not None:
        return Identity(device_id=checked_name(device_id), boot_id=uuid.uuid4().hex)
    machine = machine or this_machine()
    path = workspace / FILE_NAME
    try:
        kept = _kept(path)
        if kept is not None and kept.machine is not None and machine.is_other_than(kept.machine):
            aside = path.replace(path.with_name(f"{FILE_NAME}.of-another-machine"))
            log.warning("device.disk_copied", extra={"device_id": kept.device_id, "kept_as": str(aside)})
            kept = None
        if kept is None or kept.machine is None:
            kept = _Kept(device_id=kept.device_id if kept else _new_id(), machine=machine)
            _keep(path, kept)
    except OSError as error:
        raise StartupError(f"{path}: cannot be used ({error.strerror}): correct its permissions") from error
    return Identity(device_id=kept.device_id, boot_id=uuid.uuid4().hex)


class KeptName(StrEnum):
    """What `identify` would find in a workspace."""

    NONE = "none"
    OURS = "ours"
    COPIED = "copied"  # it belongs to another machine
    DAMAGED = "damaged"


def look_at_kept_name(workspace: Path) -> KeptName:
    """Changes nothing. Raises: OSError if the file cannot be read."""
    try:
        kept = _parsed((workspace / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return KeptName.NONE
    except _Damaged:
        return KeptName.DAMAGED
    is_other = kept.machine is not None and this_machine().is_other_than(kept.machine)
    return KeptName.COPIED if is_other else KeptName.OURS


def keep_name(workspace: Path, device_id: DeviceId) -> None:
    """Give this machine a name that stays with its workspace. Raises: StartupError, as above."""
    path = workspace / FILE_NAME
    try:
        _keep(path, _Kept(device_id=device_id, machine=this_machine()))
    except OSError as error:
        raise StartupError(f"{path}: cannot be written ({error.strerror}): correct its permissions") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    device_id: DeviceId
    machine: Machine | None  # None: written by a version that did not know its machine


def checked_name(device_id: str) -> DeviceId:
    """Raises: StartupError."""
    if not re.fullmatch(DEVICE_ID_PATTERN, device_id):
        raise StartupError(
            f"--device-id {device_id!r}: use letters, digits, '.', '_' and '-', at most 64, a letter or digit first"
        )
    return DeviceId(device_id)


def _keep(path: Path, kept: _Kept) -> None:
    assert kept.machine is not None
    machine = {"serial": kept.machine.serial, "macs": sorted(kept.machine.macs)}
    write_atomically(path, json.dumps({"device_id": kept.device_id, "machine": machine}).encode())
    log.info("device.named", extra={"device_id": kept.device_id, "kept_in": str(path)})


def _kept(path: Path) -> _Kept | None:
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except _Damaged as error:
        log.error("device.file_damaged", extra={"kept_as": str(set_aside(path)), "reason": str(error)})
        return None


class _Damaged(Exception):
    pass


def _parsed(text: bytes) -> _Kept:
    """Raises: _Damaged."""
    try:
        found = json.loads(text)
        device_id, machine = found["device_id"], found.get("machine")
        known = Machine(serial=machine["serial"], macs=frozenset(machine["macs"])) if machine else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(str(error)) from error
    if not (isinstance(device_id, str) and re.fullmatch(DEVICE_ID_PATTERN, device_id)):
        raise _Damaged(f"{device_id!r} is no device id")
    return _Kept(device_id=DeviceId(device_id), machine=known)


def _new_id() -> DeviceId:
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-._")[:LONGEST_HOST_NAME]
    return DeviceId(f"{host or 'board'}-{secrets.token_hex(3)}")

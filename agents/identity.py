"""Who this board is: an id that stays with its workspace, and a boot id that is new at each start."""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from agents.durable import set_aside, write_atomically
from edgesched.domain.device import DeviceId
from edgesched.errors import StartupError
from edgesched.rest import DEVICE_ID_PATTERN

LONGEST_HOST_NAME = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    device_id: DeviceId
    boot_id: str


def identify(workspace: Path, device_id: str | None) -> Identity:
    """The id that was given, else the one kept in the workspace, else a new one, which is kept.

    Raises: StartupError if the given id has characters that an id may not have, or if no id can be kept.
    """
    if device_id is not None:
        if not re.fullmatch(DEVICE_ID_PATTERN, device_id):
            raise StartupError(
                f"--device-id {device_id!r}: use letters, digits, '.', '_' and '-', at most 64, a letter or digit first"
            )
        return Identity(device_id=DeviceId(device_id), boot_id=uuid.uuid4().hex)
    path = workspace / "device.json"
    try:
        kept = _kept_id(path)
        if kept is None:
            kept = _new_id()
            write_atomically(path, json.dumps({"device_id": kept}).encode())
            log.info("device.named", extra={"device_id": kept, "kept_in": str(path)})
    except OSError as error:
        raise StartupError(f"{path}: cannot be used ({error.strerror}): correct its permissions") from error
    return Identity(device_id=DeviceId(kept), boot_id=uuid.uuid4().hex)


def _kept_id(path: Path) -> str | None:
    try:
        kept = json.loads(path.read_bytes())["device_id"]
        if isinstance(kept, str) and re.fullmatch(DEVICE_ID_PATTERN, kept):
            return kept
        reason = f"{kept!r} is no device id"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error)
    log.error("device.file_damaged", extra={"kept_as": str(set_aside(path)), "reason": reason})
    return None


def _new_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname()).strip("-._")[:LONGEST_HOST_NAME]
    return f"{host or 'board'}-{secrets.token_hex(3)}"

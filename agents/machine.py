"""What tells this machine from one that a copy of its disk was put into."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.boards.kernel import DEVICE_TREE, nodes, text_of, tree_strings
from agents.boards.readings import SensorSilent

NETWORK = "sys/class/net/*"
PERMANENT = "0"  # addr_assign_type: neither random nor set by somebody
FINGERPRINT_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Digests of its SoC's serial number and of the addresses of its own network devices; what cannot be read is None
    or missing. Not /etc/machine-id: it lies on the disk, and is copied with it."""

    serial: str | None
    macs: frozenset[str]

    def is_other_than(self, then: Machine) -> bool:
        """Whether both are known and are two machines. The serial number decides where both have one: drivers of
        network devices come late, and devices are replaced."""
        if self.serial is not None and then.serial is not None:
            return self.serial != then.serial
        return bool(self.macs and then.macs) and not self.macs & then.macs


def this_machine(root: Path = Path("/")) -> Machine:
    """Looks at files only. root: where the machine's file system is mounted."""
    serials = tree_strings(root, DEVICE_TREE / "serial-number")
    serial = serials[0] if serials and len(set(serials[0])) > 1 else None  # 0000000000000000: nobody set one
    return Machine(
        serial=_digest("serial", serial) if serial else None,
        macs=frozenset(_digest("mac", mac) for mac in _macs(root)),
    )


def _macs(root: Path) -> Iterator[str]:
    """Of network devices that are part of the machine: no bridges or tunnels, and nothing that is plugged in by USB."""
    for path in nodes(root, NETWORK):
        device = root / path / "device"
        if not os.path.exists(device) or "usb" in os.path.realpath(device):
            continue
        try:
            how, mac = (text_of(root, path / name).strip().lower() for name in ("addr_assign_type", "address"))
        except SensorSilent:
            continue
        if how == PERMANENT and len(set(mac)) > 2:  # 00:00:00:00:00:00
            yield mac


def _digest(kind: str, value: str) -> str:
    """Enough to compare with; the value itself is nobody's business."""
    return hashlib.sha256(f"edgesched {kind} {value}".encode()).hexdigest()[:FINGERPRINT_CHARS]

"""Devices as the gateway knows them: what they are, what they last said, and whether they may get work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType

from edgesched.errors import InvalidInput

DeviceId = NewType("DeviceId", str)

MAX_SLOTS = 256
"""Placement keeps account of every slot: a device must not be able to claim any number of them."""


LARGEST = 1e9
"""Of any figure that a device tells of itself, in its unit: the sums and quotients made of it stay finite."""


class BoardType(StrEnum):
    """The built-in kinds. A board that another package brings has a name of its own, so a device's kind is a `str`."""

    ATLAS = "atlas"
    RK3588 = "rk3588"
    ORIN = "orin"
    GENERIC = "generic"  # a plain CPU


class DeviceState(StrEnum):
    """Health as the gateway sees it. What an operator wants (cordon, drain) is kept beside it."""

    READY = "ready"
    UNHEALTHY = "unhealthy"  # it talks, but says that it cannot work
    SILENT = "silent"  # heartbeats stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What is known of a kind of board before it has done any work: the estimators' cold start."""

    slots: int  # pictures that it infers at the same time
    service_ms: float  # per picture and slot
    link_mbps: float
    round_trip_ms: float

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= MAX_SLOTS:
            raise InvalidInput(f"slots must be 1 to {MAX_SLOTS}, got {self.slots}")
        for name in ("service_ms", "link_mbps", "round_trip_ms"):
            value = getattr(self, name)
            if not 0 <= value <= LARGEST:
                raise InvalidInput(f"{name} must be a finite number, 0 to {LARGEST:g}, got {value}")
        if self.link_mbps == 0:
            raise InvalidInput("link_mbps must not be 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One heartbeat's readings. Fractions are 0..1 of the whole board; None means that it cannot be known."""

    cpu_used_fraction: float | None = None
    memory_used_fraction: float | None = None
    xpu_used_fraction: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    link_bandwidth_mbps: float | None = None  # measured: task manager to agent
    link_latency_ms: float | None = None  # measured: round trip

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None:
                continue
            if not -LARGEST <= value <= LARGEST:
                raise InvalidInput(f"{name} must be a finite number up to {LARGEST:g}, got {value}")
            if name.endswith("_fraction") and not 0.0 <= value <= 1.0:
                raise InvalidInput(f"{name} must be 0..1, got {value}")
            if name.startswith(("power", "link")) and value < 0:
                raise InvalidInput(f"{name} must not be negative, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One registered board."""

    device_id: DeviceId
    board_type: str
    emulated: bool
    address: str  # host:port of its agent, dialled by the task manager
    boot_id: str  # new each time that the agent starts
    profile: DeviceProfile
    models: frozenset[str]
    window_tasks: int  # how many tasks may be on their way to or on the board
    window_bytes: int
    state: DeviceState
    unhealthy_reason: str | None = None
    telemetry: Telemetry = field(default_factory=Telemetry)
    last_heartbeat_age_ms: float = 0.0
    outbox_count: int = 0  # finished on the board, not yet settled with the task manager
    is_cordoned: bool = False  # an operator wants it to get no new work
    is_draining: bool = False  # the same, and it will leave once its work is done
    labels: Mapping[str, str] = field(default_factory=dict)

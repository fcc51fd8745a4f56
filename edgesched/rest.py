"""The HTTP bodies, snake_case JSON: one definition for gateway, agents, receivers and remote placement.

Facts of the domain travel as they are (pydantic validates plain dataclasses); only what exists nowhere else is a model
here. Unknown keys are ignored, so that an older gateway understands a newer agent.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from edgesched.domain.detection import Detection
from edgesched.domain.device import BoardType, Device, DeviceProfile, Telemetry
from edgesched.domain.task import AttemptId, Task, TaskDetails, TaskId, TaskPage
from edgesched.errors import InvalidInput
from edgesched.ports import PlacementPlan, PlacementRequest

API_PREFIX = "/api/v1"
DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MAX_DELIVERY_BATCH = 64
"""Results in one POST to a receiver."""

T = TypeVar("T")


class Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeviceRegistration(Body):
    """POST /api/v1/devices. Sent again with the same boot_id it changes nothing."""

    device_id: Annotated[str, Field(pattern=DEVICE_ID_PATTERN)]
    board_type: BoardType
    emulated: bool
    boot_id: Annotated[str, Field(min_length=1, max_length=64)]
    agent_port: Annotated[int, Field(ge=1, le=65535)]
    advertise: str | None = None  # HOST:PORT; None: the address that the request came from, with agent_port
    profile: DeviceProfile
    models: frozenset[str]
    window_tasks: PositiveInt
    window_bytes: PositiveInt
    labels: dict[str, str] = {}
    agent_version: str = ""


class RegistrationReply(Body):
    address: str  # HOST:PORT that the task manager will dial
    heartbeat_interval_ms: PositiveInt


class WorkerReport(Body):
    """One worker process of a board, `<device>-<i>`."""

    name: str
    pid: int | None
    state: str  # starting, ready, busy, restarting, stopped
    current_task: str | None = None
    restarts: NonNegativeInt = 0
    last_exit_code: int | None = None


class Heartbeat(Body):
    """POST /api/v1/devices/{device_id}/heartbeat. 404 means: register again."""

    boot_id: str
    telemetry: Telemetry
    unhealthy_reason: str | None = None
    outbox_count: NonNegativeInt = 0
    simulated: tuple[str, ...] = ()  # what a test switch distorts, for people to see: "bandwidth", "disconnect"
    workers: tuple[WorkerReport, ...] = ()


class HeartbeatReply(Body):
    heartbeat_interval_ms: PositiveInt


class DeviceEntry(Body):
    """One row of GET /devices: the device, and what only its heartbeats know."""

    device: Device
    simulated: tuple[str, ...] = ()
    workers: tuple[WorkerReport, ...] = ()


class DeviceList(Body):
    devices: tuple[DeviceEntry, ...]


class LabelledPicture(Body):
    """One item of a delivery."""

    task_id: Annotated[TaskId, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    attempt_id: AttemptId
    model: str
    file_name: str
    detections: tuple[Detection, ...]


class Delivery(Body):
    """What a receiver is POSTed. Items that it has seen before are accepted again."""

    results: tuple[LabelledPicture, ...]


class RejectedItem(Body):
    task_id: TaskId
    reason: str


class DeliveryReply(Body):
    """200: every item is listed once. `rejected` is for good; anything else is tried again."""

    accepted: tuple[TaskId, ...] = ()
    rejected: tuple[RejectedItem, ...] = ()


class Problem(Body):
    """RFC 9457. `detail` says what to do."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    retry_after_ms: int | None = None


class Wire(Generic[T]):
    """JSON bytes <-> one type."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def parse(self, body: bytes | str) -> T:
        """Raises: InvalidInput naming each field that is wrong."""
        try:
            return self._adapter.validate_json(body)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}"
                for item in error.errors(include_url=False)
            ]
            raise InvalidInput("; ".join(problems[:10])) from error

    def dump(self, value: T) -> bytes:
        return self._adapter.dump_json(value)


PLACEMENT_REQUEST: Wire[PlacementRequest] = Wire(PlacementRequest)
PLACEMENT_PLAN: Wire[PlacementPlan] = Wire(PlacementPlan)
DEVICE_REGISTRATION: Wire[DeviceRegistration] = Wire(DeviceRegistration)
REGISTRATION_REPLY: Wire[RegistrationReply] = Wire(RegistrationReply)
HEARTBEAT: Wire[Heartbeat] = Wire(Heartbeat)
HEARTBEAT_REPLY: Wire[HeartbeatReply] = Wire(HeartbeatReply)
DEVICE_ENTRY: Wire[DeviceEntry] = Wire(DeviceEntry)
DEVICE_LIST: Wire[DeviceList] = Wire(DeviceList)
TASK: Wire[Task] = Wire(Task)
TASK_PAGE: Wire[TaskPage] = Wire(TaskPage)
TASK_DETAILS: Wire[TaskDetails] = Wire(TaskDetails)
DELIVERY: Wire[Delivery] = Wire(Delivery)
DELIVERY_REPLY: Wire[DeliveryReply] = Wire(DeliveryReply)
PROBLEM: Wire[Problem] = Wire(Problem)

"""The HTTP bodies, snake_case JSON: one definition for gateway, agents, receivers and remote placement.

Facts of the domain travel as they are (pydantic validates plain dataclasses); only what exists nowhere else is a model
here. Unknown keys are ignored, so that an older gateway understands a newer agent.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from edgesched.domain.detection import Detection
from edgesched.domain.device import Device, DeviceId, DeviceProfile, Telemetry
from edgesched.domain.task import AttemptId, ModelFacts, Task, TaskDetails, TaskId, TaskPage
from edgesched.errors import InvalidInput
from edgesched.ports import PlacementPlan, PlacementRequest

API_PREFIX = "/api/v1"
DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BOARD_TYPE_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
MAX_DELIVERY_BATCH = 64
"""Results in one POST to a receiver."""

T = TypeVar("T")


class Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class DeviceRegistration(Body):
    """POST /api/v1/devices. Sent again with the same boot_id it changes nothing."""

    device_id: Annotated[str, Field(pattern=DEVICE_ID_PATTERN)]
    board_type: Annotated[str, Field(pattern=BOARD_TYPE_PATTERN)]
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
    unavailable_models: dict[str, str] = {}  # that its workers were given and could not load, each with the reason


class HeartbeatReply(Body):
    heartbeat_interval_ms: PositiveInt


class DeviceEntry(Body):
    """One row of GET /devices: the device, what only its heartbeats know, and what it does.

    The figures about work come with the task manager's requests; None while it sends none.
    """

    device: Device
    simulated: tuple[str, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    unavailable_models: dict[str, str] = {}  # those that it cannot load, with the reason
    in_flight: NonNegativeInt | None = None  # tasks on their way to it or on it
    in_flight_bytes: NonNegativeInt | None = None
    window_tasks: NonNegativeInt | None = None  # how many it may hold now; at most device.window_tasks
    pictures_per_s: float | None = None  # labelled lately
    failures_in_a_row: NonNegativeInt = 0
    breaker_open_ms: float = 0.0  # for so long it gets no work, because it failed too often
    is_drained: bool = False  # it is draining, and nothing is left on it: it may be switched off
    operator_labels: dict[str, str] = {}  # the part of device.labels that operators set
    last_heard_at_ms: int | None = None  # the gateway's wall clock, milliseconds since 1970
    archived: str | None = None  # why it is not among the devices any more: "silent" or "left"


class DeviceList(Body):
    devices: tuple[DeviceEntry, ...]


class LabelChanges(Body):
    """PATCH /api/v1/devices/{device_id}/labels. null takes back what an operator set; what is not named stays."""

    labels: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")],
        Annotated[str, Field(max_length=128)] | None,
    ] = Field(max_length=64)


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
    results: tuple[SubmittedFile, ...] | None = None  # POST /tasks: what became of each file


class SubmittedFile(Body):
    """What became of one file of POST /tasks: it has a task, or a problem."""

    file_name: str
    task_id: TaskId | None = None
    problem: Problem | None = None


class Submitted(Body):
    """Files in the order in which they came."""

    results: tuple[SubmittedFile, ...]


Problem.model_rebuild()


class ModelEntry(Body):
    """One row of GET /models: the model, and the ready devices that can run it."""

    model: ModelFacts
    devices: tuple[DeviceId, ...]


class ModelList(Body):
    models: tuple[ModelEntry, ...]


class Wire(Generic[T]):
    """JSON bytes <-> one type."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    @property
    def adapter(self) -> TypeAdapter[T]:
        """For whoever needs its JSON schema."""
        return self._adapter

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
LABEL_CHANGES: Wire[LabelChanges] = Wire(LabelChanges)
LABELLED_PICTURE: Wire[LabelledPicture] = Wire(LabelledPicture)
SUBMITTED: Wire[Submitted] = Wire(Submitted)
MODEL_ENTRY: Wire[ModelEntry] = Wire(ModelEntry)
MODEL_LIST: Wire[ModelList] = Wire(ModelList)
DELIVERY: Wire[Delivery] = Wire(Delivery)
DELIVERY_REPLY: Wire[DeliveryReply] = Wire(DeliveryReply)
PROBLEM: Wire[Problem] = Wire(Problem)

"""The HTTP bodies, snake_case JSON: one definition for gateway, agents, receivers and remote placement.

Facts of the domain travel as they are (pydantic validates plain dataclasses); only what exists nowhere else is a model
here. Unknown keys are ignored, so that an older gateway understands a newer agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from edgesched.domain.command import Command, CommandId, Verb
from edgesched.domain.detection import Detection
from edgesched.domain.device import Device, DeviceId, DeviceProfile, DeviceState, Telemetry
from edgesched.domain.task import AttemptId, ModelFacts, Priority, Task, TaskDetails, TaskId, TaskPage, TaskStats
from edgesched.errors import InvalidInput, nearest, plain
from edgesched.ports import PlacementPlan, PlacementRequest

API_PREFIX = "/api/v1"
DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
BOARD_TYPE_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
MAX_DELIVERY_BATCH = 64
"""Results in one POST to a receiver."""

MAX_LOG_LINES = 500
"""In one POST of a board's log."""

MAX_LOG_LINE_CHARS = 2_000
MAX_WORKERS = 256
"""Of one board."""

T = TypeVar("T")


class Body(BaseModel):
    # Checks are compiled at first use: a process uses few of them, and each costs milliseconds.
    model_config = ConfigDict(frozen=True, defer_build=True)


class PersonsBody(Body):
    """What people write by hand: a misspelt field would do something else than they meant. Programs of ours that are
    newer than the gateway may say more than it knows, so their bodies are not as strict."""

    model_config = ConfigDict(extra="forbid")


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
    state: str  # starting, ready, busy, stopping, restarting, stopped (by an operator), down
    reason: str | None = None  # why it does not work
    current_task: str | None = None
    restarts: NonNegativeInt = 0
    last_exit_code: int | None = None
    memory_bytes: NonNegativeInt | None = None
    cpu_used: float | None = None  # CPUs' worth; 1.5: one and a half
    silent_s: float | None = None  # since its last sign of life, which a heartbeat is
    exit_codes: tuple[int, ...] = ()  # of its last processes, the newest last; negative: the signal that ended it
    batches: dict[str, PositiveInt] = {}  # model that allows them -> pictures that it runs in one inference, at most


class Heartbeat(Body):
    """POST /api/v1/devices/{device_id}/heartbeat. 404 means: register again."""

    boot_id: str
    telemetry: Telemetry
    unhealthy_reason: str | None = None
    outbox_count: NonNegativeInt = 0
    simulated: tuple[str, ...] = ()  # what a test switch distorts, for people to see: "bandwidth", "disconnect"
    workers: tuple[WorkerReport, ...] = ()
    unavailable_models: dict[str, str] = {}  # that are there and that it cannot run, each with the reason
    warnings: tuple[str, ...] = ()  # what somebody should look at, although the board works


class CommandToDo(Body):
    """What a board is told. It remembers the ids that it has carried out: the same one again is not done again."""

    command_id: Annotated[CommandId, Field(min_length=1, max_length=64)]
    verb: Verb
    worker: str | None = None  # None: all its workers


class CommandsToDo(Body):
    commands: tuple[CommandToDo, ...]


class HeartbeatReply(Body):
    heartbeat_interval_ms: PositiveInt
    commands: tuple[CommandToDo, ...] = ()  # all open ones, for a board whose long poll does not come through


class CommandOutcome(Body):
    """POST /api/v1/devices/{device_id}/commands/{command_id}: what became of it on the board."""

    boot_id: str
    succeeded: bool
    detail: Annotated[str, Field(max_length=2_000)] = ""


class Order(PersonsBody):
    """POST /api/v1/workers/{worker}/command and /api/v1/devices/{device_id}/command."""

    command: Verb
    key: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Of the client's choice. The same request with the same key again gives the same commands, and no new ones."""


class FleetOrder(Order):
    """POST /api/v1/commands, for all workers of the devices that fit everything that is given. At least one must be."""

    devices: Annotated[tuple[DeviceId, ...], Field(max_length=10_000)] | None = None
    board_type: str | None = None
    labels: dict[str, str] = {}
    all: bool = False  # every device; then nothing else may be given


class CommandList(Body):
    """Newest first."""

    commands: tuple[Command, ...]


class ShippedLine(Body):
    number: PositiveInt  # grows with each line of this worker
    age_ms: NonNegativeInt | None  # boards have no clock that others could trust; None: not even an age
    source: Annotated[str, Field(max_length=32)] = ""  # "output", "agent" or a level
    text: Annotated[str, Field(max_length=MAX_LOG_LINE_CHARS)]


class ShippedLog(Body):
    """New lines of one worker. They count if `after` is the last number that the gateway has, or null: start anew."""

    worker: Annotated[str, Field(min_length=1, max_length=128)]
    after: int | None
    lines: Annotated[tuple[ShippedLine, ...], Field(max_length=MAX_LOG_LINES)] = ()


class LogShipment(Body):
    """POST /api/v1/devices/{device_id}/logs."""

    boot_id: str
    logs: Annotated[tuple[ShippedLog, ...], Field(max_length=MAX_WORKERS)]


class LogShipmentReply(Body):
    have: dict[str, int]  # worker -> the last number that the gateway has; absent: none


class LogLine(Body):
    """One line as people read it."""

    cursor: int  # in the order in which the gateway got them, over all workers
    worker: str
    number: int  # of this worker; a gap means that it wrote faster than lines are carried
    at_ms: int  # the gateway's wall clock; when the line came, if its board could not say how old it is
    source: str  # "output": what the worker printed, "agent": what became of it, or the level of its own log
    text: str


class LogPage(Body):
    """Oldest first. cursor: ask for what is after it to go on."""

    lines: tuple[LogLine, ...]
    cursor: int


class WorkerEntry(Body):
    """One row of GET /workers: a worker process of a board, as its last heartbeat told."""

    id: str
    device_id: DeviceId
    board_type: str
    emulated: bool
    device_state: DeviceState
    last_heartbeat_age_ms: float
    report: WorkerReport
    command: Command | None = None  # one that it is about to carry out


class WorkerList(Body):
    workers: tuple[WorkerEntry, ...]


class DeviceEntry(Body):
    """One row of GET /devices: the device, what only its heartbeats know, and what it does.

    The figures about work come with the task manager's requests; None while it sends none.
    """

    device: Device
    simulated: tuple[str, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    unavailable_models: dict[str, str] = {}  # those that it cannot run, with the reason
    warnings: tuple[str, ...] = ()  # what somebody should look at, although the device works
    in_flight: NonNegativeInt | None = None  # tasks on their way to it or on it
    in_flight_bytes: NonNegativeInt | None = None
    window_tasks: NonNegativeInt | None = None  # how many it may hold now; at most device.window_tasks
    pictures_per_s: float | None = None  # labelled lately
    failing_model: str | None = None  # the one that fails worst there; the next two are about it. None: none fails
    failures_in_a_row: NonNegativeInt = 0
    breaker_open_ms: float = 0.0  # for so long it gets no work of that model, because it failed too often
    is_drained: bool = False  # it is draining, and nothing is left on it: it may be switched off
    operator_labels: dict[str, str] = {}  # the part of device.labels that operators set
    last_heard_at_ms: int | None = None  # the gateway's wall clock, milliseconds since 1970
    archived: str | None = None  # why it is not among the devices any more: "silent" or "left"


class DeviceList(Body):
    devices: tuple[DeviceEntry, ...]


class LabelChanges(PersonsBody):
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


class QueueLine(Body):
    """Queued tasks of one model and priority."""

    model: str
    priority: Priority
    tasks: int


def queue_of(stats: TaskStats) -> tuple[QueueLine, ...]:
    """By model, the highest priority first."""
    rank = list(Priority).index
    lines = sorted(stats.queued.items(), key=lambda item: (item[0].model, -rank(item[0].priority)))
    return tuple(QueueLine(model=line.model, priority=line.priority, tasks=tasks) for line, tasks in lines)


class Wire(Generic[T]):
    """JSON bytes <-> one type."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    @cached_property
    def adapter(self) -> TypeAdapter[T]:
        """Made at first use. For whoever needs its JSON schema."""
        return TypeAdapter(self._kind)

    def parse(self, body: bytes | str) -> T:
        """Raises: InvalidInput naming each field that is wrong."""
        try:
            return self.adapter.validate_json(body)
        except ValidationError as error:
            problems = [self._complaint(dict(item)) for item in error.errors(include_url=False)[:10]]
            raise InvalidInput("; ".join(problems)) from error

    def _complaint(self, item: Mapping[str, Any]) -> str:
        place = ".".join(map(str, item["loc"])) or "body"
        if item["type"] != "extra_forbidden":
            return f"{place}: {plain(item['msg'])}"
        return f"{place[:200]}: there is no such field{nearest(str(item['loc'][-1]), self._kind.model_fields)}"

    def dump(self, value: T) -> bytes:
        return self.adapter.dump_json(value)


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
QUEUE: Wire[tuple[QueueLine, ...]] = Wire(tuple[QueueLine, ...])
TASK_DETAILS: Wire[TaskDetails] = Wire(TaskDetails)
LABEL_CHANGES: Wire[LabelChanges] = Wire(LabelChanges)
LABELLED_PICTURE: Wire[LabelledPicture] = Wire(LabelledPicture)
SUBMITTED: Wire[Submitted] = Wire(Submitted)
MODEL_ENTRY: Wire[ModelEntry] = Wire(ModelEntry)
MODEL_LIST: Wire[ModelList] = Wire(ModelList)
DELIVERY: Wire[Delivery] = Wire(Delivery)
DELIVERY_REPLY: Wire[DeliveryReply] = Wire(DeliveryReply)
PROBLEM: Wire[Problem] = Wire(Problem)
COMMANDS_TO_DO: Wire[CommandsToDo] = Wire(CommandsToDo)
COMMAND_OUTCOME: Wire[CommandOutcome] = Wire(CommandOutcome)
ORDER: Wire[Order] = Wire(Order)
FLEET_ORDER: Wire[FleetOrder] = Wire(FleetOrder)
COMMAND: Wire[Command] = Wire(Command)
COMMAND_LIST: Wire[CommandList] = Wire(CommandList)
LOG_SHIPMENT: Wire[LogShipment] = Wire(LogShipment)
LOG_SHIPMENT_REPLY: Wire[LogShipmentReply] = Wire(LogShipmentReply)
LOG_PAGE: Wire[LogPage] = Wire(LogPage)
WORKER_ENTRY: Wire[WorkerEntry] = Wire(WorkerEntry)
WORKER_LIST: Wire[WorkerList] = Wire(WorkerList)

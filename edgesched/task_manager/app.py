"""The task manager's wiring: what is opened, in which order, and how it is closed again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgesched import tracing, wire
from edgesched.catalogue import Catalogue
from edgesched.clock import Clock, SystemClock
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import AttemptId, Task
from edgesched.errors import InvalidInput, StartupError
from edgesched.images.base import ImageStore
from edgesched.images.segment_files import claim, refuse_if_orphaned
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.base import Ledger
from edgesched.ledger.sqlite import SqliteLedger
from edgesched.placement.strategies import strategy_name
from edgesched.ports import Placement
from edgesched.process import sole_user
from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.attempts import OpenAttempt, OpenAttempts
from edgesched.task_manager.backlog import Backlog
from edgesched.task_manager.changes import Changes
from edgesched.task_manager.control import TaskControl
from edgesched.task_manager.delivery import Deliveries, only_from_here
from edgesched.task_manager.device_link import DeviceLink
from edgesched.task_manager.dispatcher import Dispatcher
from edgesched.task_manager.events import EventLog
from edgesched.task_manager.intake import Intake
from edgesched.task_manager.links import Links
from edgesched.task_manager.local_tasks import Figures, LocalTasks
from edgesched.task_manager.outcomes import Outcomes, RetryPolicy
from edgesched.task_manager.pictures import PictureLimits
from edgesched.task_manager.remote_placement import RemotePlacement
from edgesched.task_manager.retention import Retention, RetentionLimits
from edgesched.task_manager.service import TaskManagerService
from edgesched.task_manager.status import StatusInterceptor
from edgesched.task_manager.traces import TaskTraces
from edgesched.task_manager.watchdog import Watchdog
from edgesched.v1 import task_manager_pb2, task_manager_pb2_grpc

if TYPE_CHECKING:
    from edgesched.spans import Tracing

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0
MAX_CONCURRENT_RPCS = 4_096
SERVICE_NAME = task_manager_pb2.DESCRIPTOR.services_by_name["TaskManager"].full_name


async def serve(settings: TaskManagerSettings, stop: asyncio.Event) -> None:
    """The task manager alone; the gateway is another process."""
    async with (
        tracing.opened(settings.otlp_endpoint) as spans,
        RemotePlacement.opened(settings.gateway_url) as placement,
        opened(settings, placement, spans) as manager,
    ):
        print(f"READY grpc={manager.address}", flush=True)
        await stop.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTaskManager:
    address: str  # host:port of its gRPC server
    tasks: LocalTasks  # for a gateway in the same process


@asynccontextmanager
async def opened(
    settings: TaskManagerSettings, placement: Placement, spans: Tracing | None = None
) -> AsyncIterator[RunningTaskManager]:
    """Open ledger and images, recover, serve; on exit stop accepting, commit what is known, close.

    spans: None: tasks are not traced.
    Raises: StartupError.
    """
    clock = SystemClock()
    check_strategy(settings.strategy)
    catalogue = read_catalogue(settings)
    lock_path = settings.ledger_path.with_suffix(".lock")
    await asyncio.to_thread(refuse_if_orphaned, settings.upload_path, settings.ledger_path)
    with sole_user(lock_path, f"the ledger {settings.ledger_path}", "stop that one, or give this one --ledger"):
        async with (
            SqliteLedger.opened(settings.ledger_path, now_ms=clock.wall_ms, durability=settings.durability) as ledger,
            SegmentImageStore.opened(
                settings.upload_path,
                durability=settings.durability,
                min_free_disk_bytes=settings.min_free_disk_bytes,
                now_ms=clock.wall_ms,
            ) as images,
        ):
            await asyncio.to_thread(claim, settings.upload_path, ledger.ownership.ledger_id)
            orphans = await images.recover(await ledger.live_images())
            if orphans:
                log.info("images.orphans_removed", extra={"count": orphans})
            traces = None if spans is None else TaskTraces(spans)
            parts = await _Parts.wired(settings, ledger, images, catalogue, placement, clock, traces)
            server, address = _bind(parts.service, settings)  # before any loop runs: it may be refused
            disks = (ledger.until_failed(), images.until_failed())
            async with parts.running(disks), _serving(server):
                yield RunningTaskManager(address=address, tasks=parts.desk)
                await parts.drain(settings.drain_timeout_ms)
            if traces is not None:
                traces.close()


def check_strategy(name: str | None) -> None:
    """Raises: StartupError naming the strategies that there are."""
    try:
        if name is not None:
            strategy_name(name)
    except InvalidInput as error:
        raise StartupError(f"--strategy: {error}") from error


def read_catalogue(settings: TaskManagerSettings) -> Catalogue:
    """Raises: StartupError."""
    try:
        return Catalogue.read(settings.models_dir)
    except InvalidInput as error:
        raise StartupError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    attempts: OpenAttempts
    intake: Intake
    events: EventLog
    dispatcher: Dispatcher
    outcomes: Outcomes
    watchdog: Watchdog
    deliveries: Deliveries
    retention: Retention
    desk: LocalTasks
    service: TaskManagerService

    @classmethod
    async def wired(
        cls,
        settings: TaskManagerSettings,
        ledger: Ledger,
        images: ImageStore,
        catalogue: Catalogue,
        placement: Placement,
        clock: Clock,
        traces: TaskTraces | None,
    ) -> _Parts:
        changes = Changes(ledger)
        backlog = Backlog(clock, max_tasks=settings.max_queued_tasks, max_bytes=settings.max_queued_bytes)
        await backlog.load(ledger)
        events = EventLog(ledger, changes, backlog, clock=clock, traces=traces)
        attempts = await _open_attempts(ledger, clock)
        links = Links(
            attempts,
            images,
            ownership=lambda: ledger.ownership,
            attempt_timeout_ms=settings.attempt_timeout_ms,
        )
        dispatcher = Dispatcher(ledger, placement, attempts, events, links, clock=clock, strategy=settings.strategy)

        def tell_board(device_id: DeviceId, attempt_id: AttemptId) -> None:
            if (link := links.get(device_id)) is not None:
                link.discard(attempt_id)

        deliveries = Deliveries(
            ledger, events, clock=clock, grace_ms=settings.delivery_grace_ms, on_delivered=tell_board
        )

        def deliver_here(task: Task, link: DeviceLink) -> bool:
            host = link.address.rpartition(":")[0].strip("[]")
            if task.receiver_url is None or not only_from_here(task.receiver_url, host):
                return False
            deliveries.hand_over(task.task_id)
            return True

        def on_accepted(tasks: Sequence[Task]) -> None:
            dispatcher.offer(tasks)
            for task in tasks:
                changes.publish(task)

        outcomes = Outcomes(
            ledger,
            attempts,
            events,
            dispatcher,
            clock=clock,
            retry=RetryPolicy(max_attempts=settings.max_attempts, backoff_ms=settings.retry_backoff_ms),
            deliver_here=deliver_here,
        )
        intake = Intake(
            ledger,
            images,
            catalogue,
            backlog,
            picture_limits=PictureLimits(
                max_bytes=settings.max_picture_bytes, max_megapixels=settings.max_picture_megapixels
            ),
            on_accepted=on_accepted,
            traces=traces,
        )
        watchdog = Watchdog(
            ledger,
            attempts,
            events,
            dispatcher,
            links,
            outcomes,
            clock=clock,
            reconnect_grace_ms=settings.reconnect_grace_ms,
            attempt_timeout_ms=settings.attempt_timeout_ms,
        )
        retention = Retention(
            ledger,
            images,
            clock=clock,
            limits=RetentionLimits(
                image_s=settings.image_retention_s,
                image_bytes=settings.image_retention_bytes,
                task_s=settings.task_retention_s,
                key_s=settings.key_retention_s,
                keep_upload=settings.keep_upload,
            ),
        )
        desk = LocalTasks(
            ledger,
            images,
            catalogue,
            intake,
            TaskControl(events, dispatcher, attempts, links, on_abandoned=tell_board),
            changes,
            Figures(ledger, backlog, dispatcher, events, clock=clock),
        )
        return cls(
            attempts=attempts,
            intake=intake,
            events=events,
            dispatcher=dispatcher,
            outcomes=outcomes,
            watchdog=watchdog,
            deliveries=deliveries,
            retention=retention,
            desk=desk,
            service=TaskManagerService(intake, ledger, desk, changes),
        )

    @asynccontextmanager
    async def running(self, disks: Sequence[Coroutine[None, None, NoReturn]]) -> AsyncIterator[None]:
        """disks: they raise when a disk refuses a write, which ends everything."""
        async with asyncio.TaskGroup() as tasks:
            loops = [
                *(tasks.create_task(disk, name="disk") for disk in disks),
                tasks.create_task(self.intake.run(), name="Intake"),
                tasks.create_task(self.dispatcher.run(self.outcomes), name="Dispatcher"),
                tasks.create_task(self.watchdog.run(), name="Watchdog"),
                tasks.create_task(self.deliveries.run(), name="Deliveries"),
                tasks.create_task(self.retention.run(), name="Retention"),
            ]
            writer = tasks.create_task(self.events.run(), name="EventLog")
            yield
            for loop in loops:
                loop.cancel()
            await self.events.drained()  # what boards have reported by now is not asked for again
            writer.cancel()

    async def drain(self, timeout_ms: float) -> None:
        """Accept and dispatch nothing more, and let what is on the boards come home.

        What does not come in time stays open in the ledger: the boards keep it, and the next start asks them for it.
        """
        self.intake.close()
        self.dispatcher.close()
        log.info("process.draining", extra={"attempts": len(self.attempts), "timeout_ms": timeout_ms})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self.attempts.none_left()
        log.info("process.drained", extra={"attempts_left": len(self.attempts)})


async def _open_attempts(ledger: Ledger, clock: Clock) -> OpenAttempts:
    """What was on its way when the process ended. Their boards have the reconnect grace to say so."""
    attempts = OpenAttempts(clock)
    rows = await ledger.open_attempts()
    tasks = {task.task_id: task for task in await ledger.get_many({row.task_id for row in rows})}
    for row in rows:
        task = tasks[row.task_id]
        attempts.add(
            OpenAttempt(
                attempt_id=row.attempt_id,
                task=task,
                device_id=DeviceId(row.device_id),
                started_at_ms=clock.monotonic_ms(),
                is_accepted=task.state is State.RUNNING,
            )
        )
    if rows:
        log.info("attempts.recovered", extra={"count": len(rows)})
    return attempts


def _bind(service: TaskManagerService, settings: TaskManagerSettings) -> tuple[grpc.aio.Server, str]:
    """The server, not started yet, and its HOST:PORT. Raises: StartupError if the port is taken."""
    server = grpc.aio.server(
        interceptors=[StatusInterceptor()],
        options=wire.SERVER_OPTIONS,
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
    )
    task_manager_pb2_grpc.add_TaskManagerServicer_to_server(service, server)
    wanted = f"{settings.host}:{settings.grpc_port}"
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {wanted}: the port is taken, or {settings.host} is not an address of this machine; "
            "stop what listens there, or give another gRPC port (--port, of `up` --grpc-port)"
        ) from error
    return server, f"{settings.host}:{port}"


@asynccontextmanager
async def _serving(server: grpc.aio.Server) -> AsyncIterator[None]:
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await server.start()
    for name in ("", SERVICE_NAME):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await healthy.enter_graceful_shutdown()
        await server.stop(STOP_GRACE_S)

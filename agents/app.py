"""The agent daemon, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import aiohttp

from agents.boards.base import Board
from agents.boards.detect import emulated_board, real_board
from agents.boards.emulated import EmulatedBoard
from agents.desk import Desk, Limits, Uplink
from agents.epochs import Epochs
from agents.gateway_door import GatewayDoor
from agents.identity import Identity, identify
from agents.link import LinkMeter, LinkShaper
from agents.link_probe import LinkProbe
from agents.models import brought_backends, check_backend, worker_specs
from agents.outbox import Outbox
from agents.receive import AgentServicer
from agents.registration import Registration, check_advertised, check_gateway_url
from agents.remote_control import RemoteControl
from agents.result_sender import ResultSender
from agents.server import grpc_server
from agents.start_warnings import start_warnings
from agents.supervisor import Supervisor
from agents.work import Assignment, Outcome
from agents.worker_archive import pack_worker
from agents.worker_logs import WorkerLogs
from agents.worker_plan import Rules, WorkerPlan
from agents.worker_process import Pace
from agents.worker_state import WorkerStates
from edgesched import __version__
from edgesched.catalogue import Catalogue
from edgesched.errors import InvalidInput, StartupError
from edgesched.process import sole_user
from edgesched.rest import DeviceRegistration, Heartbeat
from edgesched.settings import MIB, AgentSettings

if TYPE_CHECKING:
    from agents.metrics import AgentMetrics

WINDOW_BYTES = 64 * MIB
WINDOW_TASKS_PER_SLOT = 8
WINDOW_BATCHES_PER_SLOT = 4
"""One in hand, one that waits, and as many on their way or just done."""

FINISH_S = 5.0
SETTLE_S = 5.0
"""Workers that load their models for longer do not keep the board from being seen; it says that it is not ready."""

log = logging.getLogger(__name__)


async def serve(settings: AgentSettings, stop: asyncio.Event) -> None:
    """Run the agent until `stop` is set.

    Raises: StartupError if it cannot start, or if the gateway refuses this device.
    """
    _check(settings)
    workspace = settings.workspace_dir
    remedy = "stop that agent, or give this one a --workspace of its own"
    with sole_user(workspace / "agent.lock", f"the workspace {workspace}", remedy):
        identity = identify(workspace, settings.device_id)
        board = _board(settings)
        uplink = Uplink()
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            Outbox.opened(workspace / "outbox", max_bytes=settings.outbox_bytes, on_due=uplink.news) as outbox,
        ):
            agent = Agent(settings, identity, board, _plan(settings, board), uplink, outbox, session)
            await agent.run(stop)


class Agent:
    """One daemon: owns the loops, the links and what is told of the board."""

    def __init__(
        self,
        settings: AgentSettings,
        identity: Identity,
        board: Board,
        plan: WorkerPlan,
        uplink: Uplink,
        outbox: Outbox,
        session: aiohttp.ClientSession,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._board = board
        self._outbox = outbox
        self._session = session
        self._slots = settings.workers or board.profile.slots
        self._plan_left_out = plan.left_out
        self._warnings = start_warnings(settings, self._slots, board)
        self._states = WorkerStates.read(settings.workspace_dir / "workers.json")
        self._supervisor = Supervisor(
            plan,
            names=[f"{identity.device_id}-{i}" for i in range(self._slots)],
            states=self._states,
            logs=WorkerLogs(settings.workspace_dir / "logs"),
            on_finished=self._finished,
            on_change=self._look_at_workers,
        )
        self._limits = Limits(
            models=frozenset(spec["name"] for spec in plan.models),
            # The most that it makes sense to have here at once; placement keeps to as many as the link and the model
            # need. With a model of a few milliseconds most pictures are on their way, or have just been done.
            window_tasks=self._slots * max(WINDOW_TASKS_PER_SLOT, WINDOW_BATCHES_PER_SLOT * plan.max_batch),
            window_bytes=WINDOW_BYTES,
        )
        self._desk = Desk(self._supervisor, outbox, self._limits)
        self._meter = LinkMeter()
        self._shaper = _shaper(settings, board)
        epochs = Epochs.read(settings.workspace_dir / "epochs.json")
        self._servicer = AgentServicer(identity, self._desk, epochs, uplink, self._meter, self._shaper)
        self._sender = ResultSender(outbox, session)
        self._probe = LinkProbe(settings.gateway_url, session, self._meter, self._shaper)
        self._remote_control = RemoteControl(self._supervisor, settings.workspace_dir, on_done=self._hurry)
        self._last_beat: Heartbeat | None = None
        self._metrics = self._make_metrics()
        self._registration: Registration | None = None
        self._health: str | None = None
        self._health_changed = asyncio.Event()
        self._busy_before: tuple[float, float] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then in order: no new work, what is in hand, goodbye, the workers."""
        settings = self._settings
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(self._outbox.run(), name="outbox"),
                tasks.create_task(self._supervisor.run(), name="supervisor"),
                tasks.create_task(self._remote_control.run(), name="remote control"),
            ]
            if self._metrics is not None and settings.metrics_port is not None:
                metrics = self._metrics.run(settings.host, settings.metrics_port)
                loops.append(tasks.create_task(metrics, name="metrics"))
            links = tasks.create_task(self._links(), name="links")
            await stop.wait()
            log.info("agent.stopping", extra={"attempts": self._supervisor.held_count})
            await self._finish()
            links.cancel()
            await asyncio.wait({links})
            if self._registration is not None:
                await self._registration.leave()
            for loop in loops:
                loop.cancel()

    async def _finish(self) -> None:
        """Let the running attempts end and their outcomes be told, within a bound; hand the others back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await self._desk.close()
                await self._servicer.finish()

    # --- links ---

    async def _links(self) -> None:
        """Keep the board reachable; with `--disconnect`, cut everything now and then without a goodbye."""
        port = self._settings.agent_port
        while True:
            async with grpc_server(self._servicer, self._settings.host, port) as port:
                linked = asyncio.create_task(self._linked(port), name="linked")
                try:
                    await asyncio.wait({linked}, timeout=self._settings.disconnect_s)
                finally:
                    linked.cancel()
                    await asyncio.wait({linked})
                if not linked.cancelled():
                    linked.result()
            log.warning("links.cut", extra={"for_s": self._settings.reconnect_s, "why": "--disconnect"})
            await asyncio.sleep(self._settings.reconnect_s)
            log.warning("links.restored")

    async def _linked(self, port: int) -> None:
        if self._registration is None:
            labels = await asyncio.to_thread(self._board.labels)  # may ask a vendor's tool, within a bound
            self._registration = self._new_registration(port, labels)
            announcing = True
        else:
            announcing = False
        door = self._door(self._registration)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sender.run(), name="result sender")
            tasks.create_task(self._register(self._registration), name="registration")
            tasks.create_task(self._probe.run(self._registration.registered), name="link probe")
            tasks.create_task(self._remote_control.link(door), name="remote control")
            if announcing:
                tasks.create_task(self._announce(self._registration, port), name="announcement")

    async def _register(self, registration: Registration) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._supervisor.settled.wait()
        await registration.run()

    async def _announce(self, registration: Registration, port: int) -> None:
        """Say once that the board works and the gateway knows it."""
        await self._supervisor.settled.wait()
        await registration.registered.wait()
        while (reason := self._desk.unhealthy_reason) is not None:
            log.error("board.unhealthy", extra={"reason": reason})
            self._health_changed.clear()
            await self._health_changed.wait()
        host = "127.0.0.1" if self._settings.host in ("0.0.0.0", "::", "") else self._settings.host
        also = ""
        if self._metrics is not None:
            await self._metrics.listening.wait()
            also = f" metrics={host}:{self._metrics.port}"
        print(f"READY grpc={host}:{port} device={self._identity.device_id}{also}", flush=True)

    # --- what is told of the board ---

    def _new_registration(self, port: int, labels: Mapping[str, str]) -> Registration:
        device = DeviceRegistration(
            device_id=self._identity.device_id,
            board_type=self._board.board_type,
            emulated=isinstance(self._board, EmulatedBoard),
            boot_id=self._identity.boot_id,
            agent_port=port,
            advertise=self._settings.advertise,
            profile=dataclasses.replace(self._board.profile, slots=self._slots),
            models=self._models(),
            window_tasks=self._limits.window_tasks,
            window_bytes=self._limits.window_bytes,
            labels=dict(labels),
            agent_version=__version__,
        )
        return Registration(
            self._settings.gateway_url,
            self._session,
            device,
            self._heartbeat,
            meter=self._meter,
            half_trip_s=self._shaper.half_trip_s if self._shaper else 0.0,
            on_commands=self._remote_control.offer,
        )

    def _door(self, registration: Registration) -> GatewayDoor:
        identity = self._identity
        return GatewayDoor(
            self._settings.gateway_url,
            self._session,
            device_id=identity.device_id,
            boot_id=identity.boot_id,
            known=registration.registered,
        )

    def _hurry(self) -> None:
        """Have the gateway hear soon how the board is."""
        if self._registration is not None:
            self._registration.hurry.set()

    async def _heartbeat(self) -> Heartbeat:
        telemetry = await asyncio.to_thread(self._board.telemetry)
        if isinstance(self._board, EmulatedBoard):
            telemetry = dataclasses.replace(telemetry, xpu_used_fraction=self._busy_fraction())
        settings = self._settings
        simulated = {"bandwidth": settings.bandwidth_fluctuate, "disconnect": settings.disconnect_s is not None}
        self._last_beat = Heartbeat(
            boot_id=self._identity.boot_id,
            telemetry=dataclasses.replace(
                telemetry,
                link_bandwidth_mbps=self._meter.bandwidth_mbps,
                link_latency_ms=self._meter.latency_ms,
            ),
            unhealthy_reason=self._desk.unhealthy_reason,
            outbox_count=self._outbox.count,
            simulated=tuple(name for name, is_on in simulated.items() if is_on),
            workers=self._supervisor.reports(),
            unavailable_models={**self._plan_left_out, **self._supervisor.left_out},
            warnings=(*self._warnings, *self._states.warnings),
        )
        return self._last_beat

    def _finished(self, assignment: Assignment, outcome: Outcome) -> None:
        self._outbox.add(assignment, outcome)
        if self._metrics is not None:
            self._metrics.count(assignment, outcome)

    def _make_metrics(self) -> AgentMetrics | None:
        if self._settings.metrics_port is None:
            return None
        from agents.metrics import AgentMetrics  # with libraries that a board else does without

        return AgentMetrics(lambda: self._last_beat, lambda: self._supervisor.held_count)

    def _busy_fraction(self) -> float | None:
        """How much of the time since the last heartbeat the workers have worked; None at the first one."""
        now, busy_s = asyncio.get_running_loop().time(), self._supervisor.busy_seconds()
        before, self._busy_before = self._busy_before, (now, busy_s)
        if before is None or now <= before[0]:
            return None
        return min(1.0, max(0.0, (busy_s - before[1]) / ((now - before[0]) * self._slots)))

    def _models(self) -> frozenset[str]:
        return self._limits.models.difference(self._supervisor.left_out)

    def _look_at_workers(self) -> None:
        if self._registration is not None:
            self._registration.offer(self._models())
        reason = self._desk.unhealthy_reason
        if reason != self._health:
            self._health = reason
            log.info("board.health_changed", extra={"unhealthy_reason": reason})
            self._health_changed.set()
            self._hurry()


def _check(settings: AgentSettings) -> None:
    """Raises: StartupError for what can never work, before anything is started."""
    check_gateway_url(settings.gateway_url)
    if settings.advertise is not None:
        check_advertised(settings.advertise)
    if settings.python_bin is not None and shutil.which(settings.python_bin) is None:
        raise StartupError(
            f"--python-bin {settings.python_bin!r} is no program that can be run: give the path of a Python interpreter"
        )


def _plan(settings: AgentSettings, board: Board) -> WorkerPlan:
    """A model that cannot be read is left out.

    Raises: StartupError if the workspace cannot be written, `--backend` names none, or another package's backend cannot
    be used.
    """
    catalogue, unreadable = Catalogue.readable(settings.models_dir)
    try:
        brought = brought_backends()
    except InvalidInput as error:
        raise StartupError(str(error)) from error
    if settings.backend is not None:
        check_backend(settings.backend, brought)
    specs, unusable = worker_specs(catalogue, board.board_type, settings.backend, brought)
    left_out = {**unreadable, **unusable}
    for name, reason in left_out.items():
        log.error("model.left_out", extra={"model": name, "reason": reason})
    archive = settings.workspace_dir.resolve() / "run" / "worker.pyz"
    pack_worker(archive, brought.values())
    return WorkerPlan(
        command=(settings.python_bin or sys.executable, "-I", str(archive), "--nice", str(settings.worker_nice)),
        models=specs,
        left_out=left_out,
        threads=settings.threads_per_worker,
        python_path=settings.python_path,
        cache_dir=str(settings.workspace_dir.resolve() / "cache"),
        emulation=board.emulation if isinstance(board, EmulatedBoard) else None,
        rules=_rules(settings),
        pace=Pace(start_timeout_s=settings.recovery_timeout_s),
    )


def _rules(settings: AgentSettings) -> Rules:
    return Rules(
        memory_bytes=settings.worker_memory_bytes,
        zombie_after_s=settings.zombie_after_s,
        max_restarts=settings.max_restarts,
        restart_window_s=settings.restart_window_s,
        is_automatic=settings.enable_auto_recovery,
        stops_all=settings.stop_all_on_failure,
    )


def _board(settings: AgentSettings) -> Board:
    if settings.emulate is None:
        return real_board(settings.device)
    if settings.device is not None:
        raise StartupError("--device and --emulate exclude each other: an emulated board is not a real one")
    return emulated_board(settings.emulate)


def _shaper(settings: AgentSettings, board: Board) -> LinkShaper | None:
    if isinstance(board, EmulatedBoard):
        profile = board.profile
        return LinkShaper(
            mbps=profile.link_mbps, round_trip_ms=profile.round_trip_ms, fluctuates=settings.bandwidth_fluctuate
        )
    return LinkShaper(mbps=None, round_trip_ms=0.0, fluctuates=True) if settings.bandwidth_fluctuate else None

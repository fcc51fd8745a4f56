"""The gateway's wiring: routes to handlers, ports to listen on, and the stand-alone process."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from edgesched.clock import Clock, SystemClock
from edgesched.errors import InvalidInput, StartupError
from edgesched.placement.fleet import TieBreakers
from edgesched.placement.memory import PlacementMemory
from edgesched.ports import TaskDesk
from edgesched.rest import API_PREFIX
from edgesched.settings import GatewaySettings
from gateway.activity import Activity, ObservedPlacement
from gateway.api.commands import CommandRoutes
from gateway.api.devices import Devices
from gateway.api.events import Events
from gateway.api.health import Health
from gateway.api.link import LinkProbe
from gateway.api.models import Models
from gateway.api.schedule import Schedule
from gateway.api.tasks import Tasks
from gateway.api.workers import WorkerRoutes
from gateway.command_rows import CommandRows
from gateway.commands import Commands
from gateway.dashboard import Dashboard
from gateway.events import EventHub
from gateway.fleet import Fleet
from gateway.log_rows import LogRows
from gateway.lookout import Lookout
from gateway.metrics import Metrics
from gateway.pages import Pages
from gateway.problems import problems
from gateway.registry import Registry
from gateway.registry import join_address as join_address  # for whoever prints where `listening` listens
from gateway.remote_tasks import RemoteTasks
from gateway.rivals import Rivals
from gateway.sending import Sender
from gateway.state import GatewayState
from gateway.uploads import Uploads
from gateway.worker_logs import WorkerLogs

log = logging.getLogger(__name__)

PREFIXES = (API_PREFIX, "/api", "")
"""Every route is at each of them: the versioned one for programs, the others for people and what they are used to."""

MAX_BODY_BYTES = 4 * 1024 * 1024
SHUTDOWN_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPorts:
    """Where the gateway listens. browser: None if there is no second port."""

    http: int
    browser: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What does the gateway's work, before it listens."""

    registry: Registry
    placement: ObservedPlacement
    activity: Activity
    rivals: Rivals
    fleet: Fleet
    commands: Commands
    logs: WorkerLogs
    clock: Clock


@asynccontextmanager
async def opened(settings: GatewaySettings, clock: Clock | None = None) -> AsyncIterator[Gateway]:
    """Raises: StartupError if the strategy is not known or the state file cannot be used."""
    clock = clock or SystemClock()
    registry = Registry(
        clock,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        heartbeat_timeout_ms=settings.heartbeat_timeout_ms,
    )
    tie_breakers = TieBreakers(cpu=settings.load_cpu_weight, xpu=settings.load_xpu_weight)
    placement = make_placement(registry, settings.strategy, tie_breakers)
    activity = Activity(clock)
    rivals = Rivals(clock)
    placement.observers = (activity.observe, rivals.observe)
    async with GatewayState.opened(settings.state_path) as state:
        fleet = Fleet(registry, placement, activity, state, clock, archive_after_s=settings.archive_after_s)
        commands = Commands(fleet, CommandRows(state), clock)
        logs = WorkerLogs(LogRows(state), clock)
        async with fleet.running(), commands.running(), logs.running():
            yield Gateway(
                registry=registry,
                placement=placement,
                activity=activity,
                rivals=rivals,
                fleet=fleet,
                commands=commands,
                logs=logs,
                clock=clock,
            )


def make_placement(
    registry: Registry, strategy: str | None, tie_breakers: TieBreakers | None = None
) -> ObservedPlacement:
    """Raises: StartupError if the strategy is not known."""
    try:
        return ObservedPlacement(registry, PlacementMemory(tie_breakers=tie_breakers), default_strategy=strategy)
    except InvalidInput as error:
        raise StartupError(f"--strategy: {error}") from error


def build_app(gateway: Gateway, tasks: TaskDesk) -> web.Application:
    lookout = Lookout(gateway.fleet, tasks, gateway.rivals)
    hub = EventHub(gateway.registry, gateway.fleet, tasks, gateway.activity, lookout)
    metrics = Metrics(gateway.fleet, tasks, gateway.activity)
    gateway.placement.observers += (metrics.observe,)
    routes = (
        *Devices(gateway.registry, gateway.fleet, gateway.commands, gateway.logs).routes(),
        *WorkerRoutes(gateway.fleet, gateway.registry, gateway.commands, gateway.logs, gateway.clock).routes(),
        *CommandRoutes(gateway.commands, gateway.fleet, gateway.registry).routes(),
        *Schedule(gateway.placement, tasks).routes(),
        *Tasks(tasks, Uploads(tasks), Sender()).routes(),
        *Models(tasks, gateway.registry).routes(),
        *Events(hub, gateway.activity).routes(),
        *Health(lookout).routes(),
        *LinkProbe().routes(),
        *metrics.routes(),
    )
    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY_BYTES)
    for route in routes:
        for prefix in PREFIXES:
            if route.method == "GET":
                app.router.add_get(prefix + route.path, route.handler)  # and HEAD
            else:
                app.router.add_route(route.method, prefix + route.path, route.handler)
    dashboard = Dashboard()
    pages = Pages(routes, dashboard)
    app.router.add_get("/", pages.index)
    app.router.add_get("/dashboard/{name}", dashboard.file)
    app.router.add_get("/openapi.json", pages.openapi)
    app.router.add_get("/docs", pages.docs)

    async def let_go(_: web.Application) -> None:
        """Of everybody who waits for news."""
        gateway.commands.close()
        gateway.logs.close()
        await hub.close()

    app.on_shutdown.append(let_go)
    return app


@asynccontextmanager
async def listening(
    app: web.Application, *, host: str, http_port: int, browser_port: int | None
) -> AsyncIterator[BoundPorts]:
    """Serve the app while the context lasts. Port 0: the operating system chooses.

    browser_port: the same again where browsers may connect; None or http_port: only one port. A taken one is a warning.
    Raises: StartupError if http_port cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        http = await _listen(runner, host, http_port, "--http-port")
        browser = None
        if browser_port is not None and (browser_port != http_port or browser_port == 0):
            try:
                browser = await _listen(runner, host, browser_port, "--browser-port")
            except StartupError as error:
                log.warning("gateway.browser_port_unavailable", extra={"port": browser_port, "note": str(error)})
        yield BoundPorts(http=http, browser=browser)
    finally:
        await runner.cleanup()


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """The gateway alone, until `stop` is set; the task manager is another process.

    Raises: StartupError.
    """
    async with (
        opened(settings) as gateway,
        RemoteTasks.connected(settings.task_manager) as tasks,
        listening(
            build_app(gateway, tasks),
            host=settings.host,
            http_port=settings.http_port,
            browser_port=settings.browser_port,
        ) as ports,
    ):
        print(ready_line(settings.host, ports), flush=True)
        await stop.wait()


def ready_line(host: str, ports: BoundPorts) -> str:
    browser = "" if ports.browser is None else f" browser={join_address(host, ports.browser)}"
    return f"READY http={join_address(host, ports.http)}{browser}"


async def _listen(runner: web.AppRunner, host: str, port: int, flag: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise StartupError(
            f"cannot listen on port {port} of {host} ({error.strerror}); "
            f"stop what listens there, or pass {flag} with another port"
        ) from error
    await web.SockSite(runner, sock).start()
    bound: int = sock.getsockname()[1]
    return bound

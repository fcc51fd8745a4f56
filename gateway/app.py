"""The gateway's wiring: routes to handlers, ports to listen on, and the stand-alone process."""

from __future__ import annotations

import asyncio
import html
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from edgesched import __version__
from edgesched.clock import SystemClock
from edgesched.errors import InvalidInput, StartupError
from edgesched.ports import TaskQueries
from edgesched.rest import API_PREFIX
from edgesched.settings import GatewaySettings
from gateway.api.devices import Devices
from gateway.api.health import Health
from gateway.api.schedule import Schedule
from gateway.api.tasks import Tasks
from gateway.local_placement import LocalPlacement
from gateway.problems import problems
from gateway.registry import Registry
from gateway.registry import join_address as join_address  # for whoever prints where `listening` listens
from gateway.remote_tasks import RemoteTasks
from gateway.routes import Route

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
SHUTDOWN_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPorts:
    """Where the gateway listens. browser: None if there is no second port."""

    http: int
    browser: int | None


def build_app(registry: Registry, placement: LocalPlacement, tasks: TaskQueries) -> web.Application:
    routes = (
        *Devices(registry).routes(),
        *Schedule(placement).routes(),
        *Tasks(tasks).routes(),
        *Health(registry, tasks).routes(),
    )
    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY_BYTES)
    for route in routes:
        for prefix in (API_PREFIX, ""):
            if route.method == "GET":
                app.router.add_get(prefix + route.path, route.handler)  # and HEAD
            else:
                app.router.add_route(route.method, prefix + route.path, route.handler)
    app.router.add_get("/", _Index(routes).show)
    return app


def make_registry(settings: GatewaySettings) -> Registry:
    return Registry(
        SystemClock(),
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        heartbeat_timeout_ms=settings.heartbeat_timeout_ms,
    )


def make_placement(registry: Registry, strategy: str | None) -> LocalPlacement:
    """Raises: StartupError if the strategy is not known."""
    try:
        return LocalPlacement(registry, default_strategy=strategy)
    except InvalidInput as error:
        raise StartupError(f"--strategy: {error}") from error


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
    registry = make_registry(settings)
    placement = make_placement(registry, settings.strategy)
    async with (
        RemoteTasks.connected(settings.task_manager) as tasks,
        listening(
            build_app(registry, placement, tasks),
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


class _Index:
    """GET /: what there is, for people who look with a browser or with curl."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def show(self, request: web.Request) -> web.Response:
        rows = [(route.method, route.path, route.summary) for route in self._routes]
        if "text/html" not in request.headers.get("Accept", ""):
            listing = [{"method": m, "path": API_PREFIX + p, "alias": p, "summary": s} for m, p, s in rows]
            body = {"name": "edgesched gateway", "version": __version__, "routes": listing}
            return web.json_response(body)
        items = "".join(f"<tr><td>{m}</td><td>{_link(m, p)}</td><td>{html.escape(s)}</td></tr>" for m, p, s in rows)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>edgesched gateway</title>'
            f"<h1>edgesched gateway {html.escape(__version__)}</h1>"
            f"<p>Each path also exists below {API_PREFIX}.</p><table>{items}</table></html>"
        )
        return web.Response(text=page, content_type="text/html", charset="utf-8")


def _link(method: str, path: str) -> str:
    shown = html.escape(path)
    return f'<a href="{shown}">{shown}</a>' if method == "GET" and "{" not in path else shown

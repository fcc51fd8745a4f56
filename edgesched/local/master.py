"""Task manager and gateway in one process: placement is a function call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edgesched import tracing
from edgesched.settings import UpSettings
from edgesched.task_manager import app as task_manager
from gateway import app as gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Master:
    """Where it listens, each HOST:PORT. browser: None if that port was taken or not wanted."""

    grpc: str
    http: str
    browser: str | None

    def ready_line(self) -> str:
        browser = f" browser={self.browser}" if self.browser else ""
        return f"READY grpc={self.grpc} http={self.http}{browser}"


@asynccontextmanager
async def opened(settings: UpSettings) -> AsyncIterator[Master]:
    """Raises: StartupError."""
    async with (
        tracing.opened(settings.otlp_endpoint) as spans,
        gateway.opened(settings) as parts,
        task_manager.opened(settings, parts.placement, spans) as manager,
        gateway.listening(
            gateway.build_app(parts, manager.tasks),
            host=settings.host,
            http_port=settings.http_port,
            browser_port=settings.browser_port,
        ) as ports,
    ):
        yield Master(
            grpc=manager.address,
            http=gateway.join_address(settings.host, ports.http),
            browser=gateway.join_address(settings.host, ports.browser) if ports.browser else None,
        )

"""The agent's door for the task manager: one gRPC port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agents.receive import AgentServicer, add_to
from edgesched import wire
from edgesched.errors import StartupError

SERVICE_NAME = "edgesched.v1.Agent"


@asynccontextmanager
async def grpc_server(servicer: AgentServicer, host: str, port: int) -> AsyncIterator[int]:
    """Serve the agent and grpc.health.v1. Yields the port. Raises: StartupError if the port is taken."""
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    add_to(server, servicer)
    states = health.aio.HealthServicer()
    register: Any = health_pb2_grpc.add_HealthServicer_to_server  # generated without types
    register(states, server)
    await states.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {address}: the port is taken or the address is not this machine's; "
            "choose another with --port or --host"
        ) from error
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)

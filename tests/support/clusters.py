"""Whole clusters of real processes on ports of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edgesched.local.boards import agent_specs, parse_boards
from edgesched.local.children import Child, ChildSpec, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    grpc: str
    http: str
    receiver_url: str
    label_dir: Path
    agents: Sequence[Child]


def files_of(workspace: Path) -> list[str]:
    return ["--ledger", str(workspace / "ledger.sqlite3"), "--upload_path", str(workspace / "upload")]


@asynccontextmanager
async def together(workspace: Path, models: Path) -> AsyncIterator[tuple[str, str]]:
    """Task manager and gateway in one process. Yields: (grpc, http), each HOST:PORT."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--browser-port", "0"]
    arguments = ["up", *ports, "--models", str(models), *files_of(workspace)]
    async with running(ChildSpec(name="up", arguments=arguments, log_path=workspace / "up.log")) as (up,):
        yield up.ready["grpc"], up.ready["http"]


@asynccontextmanager
async def apart(workspace: Path, models: Path) -> AsyncIterator[tuple[str, str]]:
    """The same in two processes. Each needs the other's address, so a first gateway finds a port and makes room."""
    async with AsyncExitStack() as stack:
        http = await _free_address(workspace)
        arguments = ["task-manager", "--port", "0", "--gateway-url", f"http://{http}", "--models", str(models)]
        spec = ChildSpec(
            name="task manager",
            arguments=[*arguments, *files_of(workspace)],
            log_path=workspace / "task_manager.log",
        )
        (manager,) = await stack.enter_async_context(running(spec))
        state = ["--state", str(workspace / "gateway.sqlite3")]
        arguments = ["gateway", "--port", http.rpartition(":")[2], "--task-manager", manager.ready["grpc"], *state]
        spec = ChildSpec(
            name="gateway",
            arguments=[*arguments, "--browser-port", "0"],
            log_path=workspace / "gateway.log",
        )
        await stack.enter_async_context(running(spec))
        yield manager.ready["grpc"], http


async def _free_address(workspace: Path) -> str:
    spec = ChildSpec(
        name="gateway",
        arguments=["gateway", "--port", "0", "--browser-port", "0", "--state", str(workspace / "gateway.sqlite3")],
        log_path=workspace / "gateway-first.log",
    )
    async with running(spec) as (first,):
        return first.ready["http"]


Master = Callable[[Path, Path], AbstractAsyncContextManager[tuple[str, str]]]


@asynccontextmanager
async def cluster(
    workspace: Path,
    boards: str,
    *,
    master: Master = together,
    models: Path = Path("models"),
) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        grpc, http = await stack.enter_async_context(master(workspace, models))
        receiver = ChildSpec(
            name="receiver",
            arguments=["receive", "--port", "0", "--dir", str(workspace / "labels")],
            log_path=workspace / "receiver.log",
        )
        specs = agent_specs(
            parse_boards(boards), gateway_url=f"http://{http}", workspace=workspace / "boards", models_dir=models
        )
        (receiving, *agents) = await stack.enter_async_context(running(receiver, *specs))
        yield Cluster(
            grpc=grpc,
            http=http,
            receiver_url=f"http://{receiving.ready['http']}",
            label_dir=workspace / "labels",
            agents=agents,
        )

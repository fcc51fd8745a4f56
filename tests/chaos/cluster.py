"""The whole cluster: every process, every link between them, and what of it can be hit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil

from edgesched.local.boards import parse_boards
from tests.chaos.child import Child, free_port
from tests.chaos.link import Link
from tests.chaos.plan import Layout, Plan
from tests.chaos.schedule import Kind

HOST = "127.0.0.1"
SENDER_WORKERS = 8


class Cluster:
    """Everything is reached through links, save the ledger's owner by its own gateway."""

    def __init__(self, plan: Plan, *, picture_bytes: float) -> None:
        """picture_bytes: of an average picture, by which the sender's link is throttled."""
        self._plan = plan
        self._draw = random.Random()  # ports only: two runs of one seed may be on one machine
        self.problems: list[str] = []  # what ended without being told to
        self.completed = asyncio.Event()  # the sender has sent all
        self._files = ["--ledger", str(plan.ledger_path), "--upload_path", str(plan.upload_dir)]
        self._models = ["--models", str(plan.models_dir)]
        self.grpc, self.http, self._receiver = (f"{HOST}:{free_port(self._draw)}" for _ in range(3))
        self.links: dict[Kind, list[Link]] = {
            Kind.LINK_TO_TASK_MANAGER: [
                Link("sender", self.grpc, bytes_per_s=plan.pictures_per_s * picture_bytes),
            ],
            Kind.LINK_TO_GATEWAY: [Link("gateway", self.http)],
            Kind.LINK_TO_RECEIVER: [Link("receiver", self._receiver)],
        }
        self.boards = [(kind, name, free_port(self._draw)) for kind, name in parse_boards(plan.boards)]
        self.links[Kind.LINK_TO_AGENT] = [Link(name, f"{HOST}:{port}") for _, name, port in self.boards]
        self.children: dict[Kind, list[Child]] = {}

    @property
    def sender(self) -> Child:
        return self.children[Kind.SENDER][0]

    def everything(self, *, but: Kind | None = None) -> Iterator[Child]:
        return (child for kind, group in self.children.items() if kind is not but for child in group)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All processes but the sender are ready. At the end whatever still runs is killed."""
        async with AsyncExitStack() as stack:
            for group in self.links.values():
                for link in group:
                    await stack.enter_async_context(link.opened())
            self.children = self._wired()
            stack.push_async_callback(self._kill_all)
            await self._bring_up()
            yield

    async def heal(self) -> None:
        """Everything but the sender is up and ready, and every link carries all that it can. Raises: NotReady."""
        for group in self.links.values():
            for link in group:
                link.mend()
                link.unthrottle()
        for child in self.everything():
            child.thaw()
        for pid in self.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await self._bring_up()

    async def stop(self) -> Mapping[str, int | None]:
        """Everything in good order: who works for somebody goes first. Returns: exit codes by name."""
        order = [Kind.SENDER, Kind.AGENT, Kind.UP, Kind.TASK_MANAGER, Kind.GATEWAY, Kind.RECEIVER]
        codes: dict[str, int | None] = {}
        for kind in order:
            group = self.children.get(kind, [])
            for child, code in zip(group, await asyncio.gather(*(child.stop() for child in group)), strict=True):
                codes[child.name] = code
        return codes

    def empty_disk(self, agent: Child) -> None:
        """Whatever this board had kept is gone."""
        shutil.rmtree(self._disk(agent.name))

    def worker_pids(self) -> Sequence[int]:
        """The agents' worker processes, board by board."""
        pids: list[int] = []
        for agent in self.children[Kind.AGENT]:
            with contextlib.suppress(psutil.Error):
                if agent.pid is not None:
                    found = psutil.Process(agent.pid).children()
                    pids += sorted(process.pid for process in found if _is_worker(process))
        return pids

    def left_behind(self) -> Sequence[str]:
        """Command lines of living processes that name this run's directory."""
        marker = str(self._plan.directory)
        ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if marker in command and process.pid not in ours:
                    found.append(f"{process.pid}: {command}")
        return found

    # --- wiring ---

    def _wired(self) -> dict[Kind, list[Child]]:
        children: dict[Kind, list[Child]] = {}
        if self._plan.layout is Layout.TOGETHER:
            children[Kind.UP] = [self._up()]
        else:
            children[Kind.TASK_MANAGER], children[Kind.GATEWAY] = [self._task_manager()], [self._gateway()]
        children[Kind.RECEIVER] = [
            self._child("receiver", Kind.RECEIVER, ["--port", _port(self._receiver), "--dir", self._plan.label_dir])
        ]
        agent_links = self.links[Kind.LINK_TO_AGENT]
        children[Kind.AGENT] = [
            self._agent(kind, name, port, link)
            for (kind, name, port), link in zip(self.boards, agent_links, strict=True)
        ]
        children[Kind.SENDER] = [self._sender()]
        return children

    def _up(self) -> Child:
        ports = ["--grpc-port", _port(self.grpc), "--http-port", _port(self.http), "--browser-port", "0"]
        return self._child("up", Kind.UP, [*ports, *self._files, *self._models])

    def _task_manager(self) -> Child:
        gateway = f"http://{self.links[Kind.LINK_TO_GATEWAY][0].address}"
        arguments = ["--port", _port(self.grpc), "--gateway-url", gateway, *self._files, *self._models]
        return self._child("task-manager", Kind.TASK_MANAGER, arguments)

    def _gateway(self) -> Child:
        state = ["--state", str(self._plan.ledger_path.with_name("gateway.sqlite3"))]
        arguments = ["--port", _port(self.http), "--task-manager", self.grpc, "--browser-port", "0", *state]
        return self._child("gateway", Kind.GATEWAY, arguments)

    def _agent(self, kind: str, name: str, port: int, link: Link) -> Child:
        workers = self._plan.workers_per_board
        arguments = [
            *("--emulate", kind, "--device-id", name, "--port", port, "--advertise", link.address),
            *("--master-url", f"http://{self.links[Kind.LINK_TO_GATEWAY][0].address}"),
            *("--workspace", self._disk(name), *self._models),
            *(("--workers", workers) if workers is not None else ()),
        ]
        return self._child(name, Kind.AGENT, arguments, command="agent")

    def _disk(self, board: str) -> Path:
        return self._plan.directory / "boards" / board

    def _sender(self) -> Child:
        plan = self._plan
        arguments = [
            *("--host", HOST, "--port", _port(self.links[Kind.LINK_TO_TASK_MANAGER][0].address)),
            *("--dir", plan.picture_dir, "--workers", SENDER_WORKERS, "--acknowledged", plan.acknowledged_path),
            *("--receiver", f"http://{self.links[Kind.LINK_TO_RECEIVER][0].address}"),
        ]
        environment = {"EDGESCHED_CLIENT_STATE_DIR": str(plan.directory / "sender")}
        return self._child("sender", Kind.SENDER, arguments, command="send", environment=environment)

    def _child(
        self,
        name: str,
        kind: Kind,
        arguments: Sequence[object],
        *,
        command: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        commands = {Kind.RECEIVER: "receive"}
        return Child(
            name,
            kind,
            [command or commands.get(kind, name), *map(str, arguments)],
            self._plan.directory / "logs" / f"{name}.log",
            on_end=self._on_end,
            environment=environment,
        )

    def _on_end(self, child: Child, code: int) -> None:
        if child.kind is Kind.SENDER and code == 0:
            self.completed.set()
            return
        self.problems.append(f"{child.name} ended by itself with exit code {code}; {child.last_words()}")

    async def _bring_up(self) -> None:
        services = list(self.everything(but=Kind.SENDER))
        for child in services:
            if child.pid is None:
                await child.start()
        await asyncio.gather(*(child.ready() for child in services))

    async def _kill_all(self) -> None:
        await asyncio.gather(*(child.kill() for child in self.everything()))


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _is_worker(process: psutil.Process) -> bool:
    return any(argument.endswith("worker.pyz") for argument in process.cmdline())

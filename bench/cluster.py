"""A cluster of real processes to measure: task manager and gateway, agents, receiver; and what each of them costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgesched.local.children import Child, ChildSpec, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one process with its children. cpu_s: user and system since it started."""

    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    grpc: str
    receiver_url: str
    label_dir: Path
    processes: dict[str, Child]

    def costs(self) -> dict[str, Cost]:
        return {name: cost_of(child.process.pid) for name, child in self.processes.items()}


def cost_of(pid: int, *, with_children: bool = False) -> Cost:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)] if with_children else [process]
    times = [member.cpu_times() for member in family]
    return Cost(
        cpu_s=sum(t.user + t.system for t in times),
        peak_rss_bytes=sum(_peak_rss_bytes(member.pid) for member in family),
    )


def _peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/{pid}/status has no VmHWM")


@asynccontextmanager
async def cluster(
    workspace: Path,
    *,
    models_dir: Path,
    durability: str = "power",
    agents: int = 1,
    workers: int = 2,
    backend: Sequence[str] = (),
) -> AsyncIterator[Cluster]:
    """The release configuration: ledger and pictures durable, labels delivered to a receiver."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--browser-port", "0", "--log-level", "warning"]
    files = ["--ledger", str(workspace / "ledger.sqlite3"), "--upload_path", str(workspace / "upload")]
    up = ChildSpec(
        name="master",
        arguments=["up", *ports, *files, "--models", str(models_dir), "--durability", durability],
        log_path=workspace / "up.log",
    )
    receive = ChildSpec(
        name="receiver",
        arguments=["receive", "--port", "0", "--dir", str(workspace / "labels"), "--log-level", "warning"],
        log_path=workspace / "receiver.log",
    )
    async with AsyncExitStack() as stack:
        master, receiver = await stack.enter_async_context(running(up, receive))
        boards = [
            ChildSpec(
                name=f"agent-{index}",
                arguments=[
                    *("agent", "--port", "0", "--device", "generic", "--device-id", f"bench-{index}"),
                    *("--master-url", f"http://{master.ready['http']}", "--workers", str(workers)),
                    *("--workspace", str(workspace / f"agent-{index}"), "--models", str(models_dir)),
                    *("--log-level", "warning", *backend),
                ],
                log_path=workspace / f"agent-{index}.log",
            )
            for index in range(agents)
        ]
        started = await stack.enter_async_context(running(*boards))
        yield Cluster(
            grpc=master.ready["grpc"],
            receiver_url=f"http://{receiver.ready['http']}",
            label_dir=workspace / "labels",
            processes={child.name: child for child in (master, receiver, *started)},
        )

"""A cluster of real processes to measure: task manager and gateway, agents, receiver; and what each of them costs."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgesched.local.children import Child, ChildSpec, running

US = "client, receiver"
"""The bench's own process: it sends the pictures and takes the labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one process, or of several that do the same. cpu_s: user and system since they started."""

    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """receiver_url, label_dir: of the receiver that is a process of its own; both None if there is none."""

    grpc: str
    http: str
    receiver_url: str | None
    label_dir: Path | None
    processes: Mapping[str, Child]

    def costs(self) -> dict[str, Cost]:
        """By process; the workers of an agent together, and this process."""
        found = {US: own_cost()}
        for name, child in self.processes.items():
            if child.process.returncode is not None:  # a bench killed it
                continue
            found[name] = cost_of([child.process.pid])
            if workers := psutil.Process(child.process.pid).children(recursive=True):
                found[f"{name}, workers"] = cost_of(worker.pid for worker in workers)
        return found


def own_cost() -> Cost:
    """Children are not counted: the plain loop's processes, for example."""
    rss_bytes, peak_bytes = _memory(os.getpid())
    return Cost(cpu_s=time.process_time(), rss_bytes=rss_bytes, peak_rss_bytes=peak_bytes)


def cost_of(pids: Iterable[int]) -> Cost:
    processes = [psutil.Process(pid) for pid in pids]
    times = [process.cpu_times() for process in processes]
    memory = [_memory(process.pid) for process in processes]
    return Cost(
        cpu_s=sum(t.user + t.system for t in times),
        rss_bytes=sum(rss for rss, _ in memory),
        peak_rss_bytes=sum(peak for _, peak in memory),
    )


def _memory(pid: int) -> tuple[int, int]:
    """Resident now, and at most ever, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    rss_kib, peak_kib = (int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return rss_kib * 1024, peak_kib * 1024


@asynccontextmanager
async def cluster(
    workspace: Path,
    *,
    models_dir: Path,
    durability: str = "power",
    agents: int = 1,
    workers: int = 2,
    board: Sequence[str] = ("--device", "generic"),
    agent_options: Sequence[str] = (),
    with_receiver: bool = False,
    heartbeat_ms: int = 2_000,
) -> AsyncIterator[Cluster]:
    """The release configuration: ledger and pictures durable, labels delivered."""
    async with AsyncExitStack() as stack:
        specs = [_master(workspace, models_dir, durability, heartbeat_ms)]
        if with_receiver:
            specs.append(_receiver(workspace))
        first = await stack.enter_async_context(running(*specs))
        master = first[0]
        boards = [
            ChildSpec(
                name=f"agent-{index}",
                arguments=[
                    *("agent", "--port", "0", *board, "--device-id", f"bench-{index}"),
                    *("--master-url", f"http://{master.ready['http']}", "--workers", str(workers)),
                    *("--workspace", str(workspace / f"agent-{index}"), "--models", str(models_dir)),
                    *("--log-level", "warning", *agent_options),
                ],
                log_path=workspace / f"agent-{index}.log",
            )
            for index in range(agents)
        ]
        started = await stack.enter_async_context(running(*boards)) if boards else []
        yield Cluster(
            grpc=master.ready["grpc"],
            http=master.ready["http"],
            receiver_url=f"http://{first[1].ready['http']}" if with_receiver else None,
            label_dir=workspace / "labels" if with_receiver else None,
            processes={child.name: child for child in (*first, *started)},
        )


def _master(workspace: Path, models_dir: Path, durability: str, heartbeat_ms: int) -> ChildSpec:
    workspace.mkdir(parents=True, exist_ok=True)
    config = workspace / "gateway.toml"
    config.write_text(f"heartbeat_interval_ms = {heartbeat_ms}\nheartbeat_timeout_ms = {3 * heartbeat_ms}\n")
    ports = ["--grpc-port", "0", "--http-port", "0", "--browser-port", "0", "--log-level", "warning"]
    files = ["--ledger", str(workspace / "ledger.sqlite3"), "--upload_path", str(workspace / "upload")]
    how = ["--models", str(models_dir), "--durability", durability, "--config", str(config)]
    return ChildSpec(name="master", arguments=["up", *ports, *files, *how], log_path=workspace / "up.log")


def _receiver(workspace: Path) -> ChildSpec:
    return ChildSpec(
        name="receiver",
        arguments=["receive", "--port", "0", "--dir", str(workspace / "labels"), "--log-level", "warning"],
        log_path=workspace / "receiver.log",
    )

"""How much the scheduler costs: `make bench`, or `python -m bench.run --help`.

Each figure is measured beside the bare loop of `plain_loop.py`, alternating with it, because these machines are noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from rich import box
from rich.console import Console
from rich.table import Table

from bench import plain_loop
from bench.cluster import Cluster, cluster
from client.pictures import Picture, from_file
from client.submitter import submit_all
from client.waiter import wait_settled
from edgesched import wire
from edgesched.catalogue import builtin_models_dir, read_model
from edgesched.demo.known_pictures import percentile
from edgesched.demo.pictures import draw_pictures
from edgesched.domain.detection import digest
from edgesched.domain.lifecycle import State
from edgesched.rest import LabelledPicture, Wire
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as pb_grpc

EMPTY_BYTES = 100_000
LABEL_FILE: Wire[LabelledPicture] = Wire(LabelledPicture)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the last table. is_least: the value must be at least the gate, not at most."""

    what: str
    value: float
    unit: str
    gate: float
    goal: float
    is_least: bool
    note: str = ""

    def verdict(self) -> str:
        def reaches(limit: float) -> bool:
            return self.value >= limit if self.is_least else self.value <= limit

        return "goal" if reaches(self.goal) else "ok" if reaches(self.gate) else "MISSED"


async def send(running: Cluster, pictures: Sequence[Picture], model: str, *, in_flight: int) -> float:
    """Seconds from the first picture until the receiver has answered for the last one."""
    async with grpc.aio.insecure_channel(running.grpc, options=wire.CHANNEL_OPTIONS) as channel:
        started = time.perf_counter()
        report = await submit_all(
            channel,
            pictures,
            model=model,
            receiver_url=running.receiver_url,
            client_id="bench",
            in_flight=in_flight,
        )
        tasks = await wait_settled(channel, [item.task_id for item in report.acknowledged], timeout_s=60)
        seconds = time.perf_counter() - started
    missing = [task for task in tasks.values() if task.state is not State.DELIVERED]
    if report.refused or missing or len(tasks) != len(pictures):
        raise SystemExit(f"the run lost pictures: {report.refused[:3]} {missing[:3]}")
    return seconds


def labels_of(running: Cluster, model: str) -> dict[str, str]:
    """File name -> digest of the labels that the receiver wrote."""
    found: dict[str, str] = {}
    for path in (running.label_dir / model / "rst").glob("*.json"):
        item = LABEL_FILE.parse(path.read_bytes())
        if found.setdefault(item.file_name, digest(item.detections)) != digest(item.detections):
            raise SystemExit(f"two labels of {item.file_name} differ")
    return found


async def throughput(options: argparse.Namespace, directory: Path, console: Console) -> list[Figure]:
    """Pictures per second against the plain loop, and what a picture costs each process."""
    model = read_model(options.model)
    pictures = [from_file(path) for path in sorted(options.pictures.iterdir())]
    ratios: list[float] = []
    async with cluster(directory / "throughput", models_dir=options.model.parent) as running:
        await send(running, pictures, model.name, in_flight=8)  # warm
        before = running.costs()
        sent = 0
        for number in range(options.repeat):
            bare = plain_loop.measure(options.model, options.pictures, count=options.count, processes=2)
            batch = [pictures[i % len(pictures)] for i in range(options.count)]
            rate = options.count / await send(running, batch, model.name, in_flight=8)
            sent += options.count
            ratios.append(rate / bare["pictures_per_s"])
            console.print(
                f"round {number + 1}: plain loop {bare['pictures_per_s']:.0f}/s, edgesched {rate:.0f}/s, "
                f"ratio {ratios[-1]:.3f}"
            )
        after = running.costs()
        if {name: bare["digests"][name] for name in bare["digests"]} != labels_of(running, model.name):
            raise SystemExit("the labels differ from those of the plain loop")
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    figures = [Figure(what="pictures/s against the plain loop", value=statistics.median(ratios), unit="ratio",
                      gate=0.87, goal=0.95, is_least=True, note=spread)]  # fmt: skip
    for name, gate, goal in (("master", 0.6, 0.4), ("agent-0", 0.5, 0.3)):
        cost_ms = (after[name].cpu_s - before[name].cpu_s) * 1000 / sent
        peak = f"peak {after[name].peak_rss_bytes / 1e6:.0f} MB"
        figures.append(Figure(what=f"CPU per task, {name}", value=cost_ms, unit="ms", gate=gate, goal=goal,
                              is_least=False, note=peak))  # fmt: skip
    return figures


async def empty_tasks(options: argparse.Namespace, directory: Path, durability: str) -> Figure:
    """Tasks per second when the boards do nothing."""
    noise = next(iter(draw_pictures(1, 1))).jpeg
    payload = noise[:-2] + b"\x00" * max(0, EMPTY_BYTES - len(noise)) + noise[-2:]
    pictures = [Picture(source=f"{i}", file_name=f"{i}.jpg", load=lambda: payload) for i in range(options.empty)]
    workspace = directory / f"empty-{durability}"
    backend = ("--backend", "echo")
    async with cluster(workspace, models_dir=builtin_models_dir(), durability=durability, backend=backend) as running:
        await send(running, pictures[:100], "shapes", in_flight=64)
        rates = [options.empty / await send(running, pictures, "shapes", in_flight=64) for _ in range(options.repeat)]
    gate, goal = (1_000, 1_500) if durability == "power" else (1_500, 2_000)
    spread = f"{min(rates):.0f}-{max(rates):.0f}"
    return Figure(what=f"empty tasks/s, 100 KB, {durability!r}, delivered", value=statistics.median(rates), unit="/s",
                  gate=gate, goal=goal, is_least=True, note=spread)  # fmt: skip


async def idle_latency(options: argparse.Namespace, directory: Path) -> list[Figure]:
    """What `Infer` adds to the device's own time when nothing else is going on."""
    image = sorted(options.pictures.iterdir())[0].read_bytes()
    model = read_model(options.model)
    added: list[float] = []
    async with (
        cluster(directory / "latency", models_dir=options.model.parent) as running,
        grpc.aio.insecure_channel(running.grpc, options=wire.CHANNEL_OPTIONS) as channel,
    ):
        stub: Any = pb_grpc.TaskManagerStub(channel)
        for _ in range(options.latency):
            request = pb.SubmitRequest(
                model=model.name, file_name="a.jpg", image=image, client_id="bench", submission_key=uuid.uuid4().hex
            )
            started = time.perf_counter()
            reply = await stub.Infer(request, timeout=30)
            added.append((time.perf_counter() - started) * 1000 - reply.result.timings.service_ms)
    fsync_ms = fsync_p99_ms(directory)
    added = added[len(added) // 10 :]  # the first ones open the stream
    p99 = percentile(added, 0.99)
    return [
        Figure(what="added latency of Infer, idle, p50", value=percentile(added, 0.5), unit="ms", gate=4, goal=3,
               is_least=False),
        Figure(what="added latency of Infer, idle, p99", value=p99, unit="ms", gate=8, goal=8, is_least=False,
               note=f"{p99 / fsync_ms:.1f} x the disk's fsync p99 ({fsync_ms:.1f} ms)"),
    ]  # fmt: skip


def fsync_p99_ms(directory: Path) -> float:
    times = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return percentile(times, 0.99)


def print_table(console: Console, figures: Sequence[Figure]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("what", "measured", "gate", "goal", "verdict", "spread, notes"):
        table.add_column(column)
    for figure in figures:
        table.add_row(
            figure.what,
            f"{figure.value:.3g} {figure.unit}",
            f"{figure.gate:g}",
            f"{figure.goal:g}",
            figure.verdict(),
            figure.note,
        )
    console.print(table)


async def run(options: argparse.Namespace) -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory(prefix="edgesched-bench-", dir=options.scratch) as scratch:
        directory = Path(scratch)
        if options.pictures is None:
            options.pictures = directory / "pictures"
            options.pictures.mkdir()
            for picture in draw_pictures(20, 5):
                (options.pictures / picture.file_name).write_bytes(picture.jpeg)
        figures = await throughput(options, directory, console)
        figures += [await empty_tasks(options, directory, durability) for durability in ("power", "process")]
        figures += await idle_latency(options, directory)
    print_table(console, figures)
    options.json.write_text(json.dumps([asdict(f) | {"verdict": f.verdict()} for f in figures], indent=2))
    console.print(f"the same as JSON: {options.json}")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=builtin_models_dir() / "shapes", help="a model's directory")
    parser.add_argument("--pictures", type=Path, help="a directory of pictures; default: 20 drawn ones")
    parser.add_argument("--count", type=int, default=600, help="pictures per round")
    parser.add_argument("--empty", type=int, default=2_000, help="empty tasks per round")
    parser.add_argument("--latency", type=int, default=200, help="calls of Infer")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--scratch", type=Path, help="where the ledger is; default: the temporary directory")
    parser.add_argument("--json", type=Path, default=Path("bench/results.json"))
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()

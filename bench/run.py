"""How much the scheduler costs: `make bench`, or `python -m bench.run --help`.

Each figure is measured on real processes; pictures per second beside the bare loop of `plain_loop.py`, alternating with
it, because these machines are noisy.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop
from rich.console import Console

from bench.failover import killed_agent
from bench.figures import Figure, print_table, write_json
from bench.grpc_floor import grpc_floor
from bench.latency import idle_latency
from bench.memory import idle_devices, queued_tasks
from bench.scale import many_devices
from bench.setup import Setup, draw_into
from bench.soak import soak
from bench.stages import stages
from bench.throughput import empty_tasks, pictures_per_s
from bench.workers import many_workers
from edgesched.catalogue import builtin_models_dir

Part = Callable[[Setup], Awaitable[Sequence[Figure]]]

PARTS: Mapping[str, Part] = {
    "pictures": pictures_per_s,
    "empty": empty_tasks,
    "floor": grpc_floor,
    "latency": idle_latency,
    "killed": killed_agent,
    "workers": many_workers,
    "scale": many_devices,
    "queue": queued_tasks,
    "devices": idle_devices,
    "stages": stages,
    "soak": soak,
}
ONLY_WHEN_ASKED = ("stages", "soak")
WIDTH = 200  # of a table that goes into a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupied:
    """CPU seconds of this machine and of the bench. What others take is missing from every absolute figure."""

    at_s: float
    machine_s: float
    ours_s: float

    @classmethod
    def now(cls) -> Occupied:
        machine, ours = psutil.cpu_times(), os.times()
        idle_s = machine.idle + machine.iowait
        return cls(
            at_s=time.monotonic(),
            machine_s=sum(machine) - machine.guest - machine.guest_nice - idle_s,
            ours_s=ours.user + ours.system + ours.children_user + ours.children_system,
        )

    def by_others(self) -> tuple[float, float]:
        """CPUs that others kept busy since then, on average, and the seconds that have passed."""
        now = Occupied.now()
        seconds = now.at_s - self.at_s
        busy_s = (now.machine_s - self.machine_s) - (now.ours_s - self.ours_s)
        return max(0.0, busy_s / seconds), seconds


async def run(setup: Setup, parts: Sequence[str], json_path: Path) -> None:
    figures: list[Figure] = []
    for name in parts:
        setup.say(f"[bold]{name}[/bold]")
        before = Occupied.now()
        figures += await PARTS[name](setup)
        others, seconds = before.by_others()
        setup.say(f"{name}: {seconds:.0f} s; other processes kept {others:.1f} of {os.cpu_count()} CPUs busy")
        note = f"of {os.cpu_count()}, in {seconds:.0f} s"
        figures.append(
            Figure(what=f"CPUs that others kept busy: {name}", value=others, unit="", setting="this machine", note=note)
        )
    if figures:
        print_table(setup.console, figures)
        write_json(json_path, figures)
        setup.say(f"the same as JSON: {json_path}")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=builtin_models_dir() / "shapes", help="a model's directory")
    parser.add_argument("--pictures", type=Path, help="a directory of pictures; default: 20 drawn ones")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--stages", action="store_true", help="only show where a picture's time goes")
    parser.add_argument(
        "--soak", type=int, nargs="?", const=600, metavar="SECONDS", help="only a long run; default 600"
    )
    parser.add_argument("--count", type=int, default=600, help="pictures per round")
    parser.add_argument("--empty", type=int, default=2_000, help="empty tasks per round")
    parser.add_argument("--latency", type=int, default=200, help="calls of Infer")
    parser.add_argument("--queued", type=int, default=100_000, help="tasks that wait in the queue")
    parser.add_argument("--repeat", type=int, default=5, help="rounds")
    parser.add_argument("--scratch", type=Path, help="where the ledger is; default: the temporary directory")
    parser.add_argument("--json", type=Path, default=Path("bench/results.json"))
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> Sequence[str]:
    if options.only:
        return list(options.only)
    asked = [name for name in ONLY_WHEN_ASKED if getattr(options, name)]
    return asked or [name for name in PARTS if name not in ONLY_WHEN_ASKED]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(f"Python {platform.python_version()}, {sys.executable}")
    with tempfile.TemporaryDirectory(prefix="edgesched-bench-", dir=options.scratch) as scratch:
        directory = Path(scratch)
        picture_dir = options.pictures or directory / "pictures"
        if options.pictures is None:
            draw_into(picture_dir)
        setup = Setup(
            model_dir=options.model,
            picture_dir=picture_dir,
            directory=directory,
            console=console,
            count=options.count,
            empty=options.empty,
            repeat=options.repeat,
            latency=options.latency,
            queued=options.queued,
            soak_s=options.soak or 600,
        )
        setup.pictures()  # or say that there are none, before anything is started
        uvloop.run(run(setup, chosen(options), options.json))  # as every process of the product does


if __name__ == "__main__":
    main()

"""What every part of the bench gets, and what several of them need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.cluster import Cost
from bench.figures import Figure, spread
from client.pictures import SUFFIXES, Picture, from_file
from edgesched.demo.known_pictures import percentile
from edgesched.demo.pictures import draw_pictures

DRAWN_PICTURES = 20
DRAWING_SEED = 5
EMPTY_BYTES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How much to measure. directory: for ledgers, labels and pictures; nothing in it outlives the run."""

    model_dir: Path
    picture_dir: Path
    directory: Path
    console: Console
    count: int  # pictures per round
    empty: int  # empty tasks per round
    repeat: int  # rounds
    latency: int  # calls of Infer
    queued: int  # tasks that wait in the queue
    soak_s: int

    def pictures(self) -> Sequence[Picture]:
        """Raises: SystemExit if there are none."""
        if not self.picture_dir.is_dir():
            raise SystemExit(f"--pictures {self.picture_dir}: there is no such directory")
        paths = [path for path in sorted(self.picture_dir.iterdir()) if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise SystemExit(f"--pictures {self.picture_dir}: there is no picture in it")
        return [from_file(path) for path in paths]

    def batch(self, count: int) -> Sequence[Picture]:
        """So many pictures, round and round over those that there are."""
        pictures = self.pictures()
        return [pictures[i % len(pictures)] for i in range(count)]

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)


def draw_into(directory: Path) -> None:
    directory.mkdir()
    for picture in draw_pictures(DRAWN_PICTURES, DRAWING_SEED):
        (directory / picture.file_name).write_bytes(picture.jpeg)


def no_work(count: int, size_bytes: int = EMPTY_BYTES) -> Sequence[Picture]:
    """Pictures of one size, for boards that do not look at them. A small one is padded within the file."""
    image = next(iter(draw_pictures(1, 1))).jpeg
    payload = image[:-2] + b"\x00" * max(0, size_bytes - len(image)) + image[-2:]
    return [Picture(source=f"{i}", file_name=f"{i}.jpg", load=lambda: payload) for i in range(count)]


def cpu_ms_per_task(before: Mapping[str, Cost], after: Mapping[str, Cost], tasks: int) -> dict[str, float]:
    """By process: user and system time."""
    return {name: (after[name].cpu_s - cost.cpu_s) * 1000 / tasks for name, cost in before.items() if name in after}


def cpu_figures(
    rounds: Sequence[Mapping[str, float]],
    after: Mapping[str, Cost],
    *,
    of: str,
    setting: str,
    limits: Mapping[str, tuple[float, float]],
) -> list[Figure]:
    """One figure per process. limits: process -> gate and goal in milliseconds."""
    figures = []
    for name in rounds[0]:
        values = [costs[name] for costs in rounds]
        gate, goal = limits.get(name, (None, None))
        peak = f"peak memory {after[name].peak_rss_bytes / 1e6:.0f} MB"
        figures.append(
            Figure(what=f"CPU per {of}, {name}", value=median(values), unit="ms", setting=setting, gate=gate,
                   goal=goal, note=f"{spread(values)}; {peak}")
        )  # fmt: skip
    return figures


def latency_figures(took_ms: Sequence[float], *, of: str, setting: str) -> list[Figure]:
    return [
        Figure(what=f"{of}, p{percent}", value=percentile(took_ms, percent / 100), unit="ms", setting=setting)
        for percent in (50, 99)
    ]

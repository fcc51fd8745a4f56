"""One round of pictures whose truth is known: draw, send, wait for the label files, compare."""

from __future__ import annotations

import asyncio
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from client.pictures import from_file
from client.submitter import Acknowledged, Step, submit_all
from client.waiter import wait_settled
from edgesched import wire
from edgesched.demo.pictures import Picture, draw_picture
from edgesched.demo.quality import mean_average_precision, precision_and_recall
from edgesched.domain.detection import Detection
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Task, TaskId

MODEL = "shapes"
SURE = 0.5  # confidence from which a detection counts for precision and recall
SETTLE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    device_id: str
    pictures: int
    share: float  # 0..1 of all labelled pictures
    p50_ms: float  # accepted -> delivered
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How the labels compare with the truth, each 0..1."""

    map50: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    sent: int
    delivered: int
    problems: Sequence[str]  # one sentence per picture that has no labels
    shares: Sequence[DeviceShare]
    quality: Quality | None  # None unless every picture has its label file
    seconds: float  # first picture sent -> last label there


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    acknowledged: int
    delivered: int


async def draw_into(directory: Path, *, count: int, seed: int) -> Sequence[Picture]:
    """Draw pictures and write them as files. Cancelled, it ends after the picture at hand."""
    return [await asyncio.to_thread(_draw_one, directory, seed, index) for index in range(count)]


def _draw_one(directory: Path, seed: int, index: int) -> Picture:
    directory.mkdir(parents=True, exist_ok=True)
    picture = draw_picture(seed, index)
    (directory / picture.file_name).write_bytes(picture.jpeg)
    return picture


async def send_and_compare(
    task_manager: str,
    pictures: Sequence[Picture],
    *,
    picture_dir: Path,
    label_dir: Path,
    receiver_url: str,
    on_progress: Callable[[Progress], None],
) -> RoundReport:
    """Send pictures that `draw_into` wrote, wait until their labels are delivered, read the files and score them.

    task_manager: HOST:PORT. label_dir: the directory that the receiver writes into.
    """
    acknowledged: set[TaskId] = set()
    delivered: set[TaskId] = set()

    def on_step(step: Step) -> None:
        if isinstance(step, Acknowledged):
            acknowledged.add(step.task_id)
            on_progress(Progress(acknowledged=len(acknowledged), delivered=len(delivered)))

    def on_change(task: Task) -> None:
        if task.state is State.DELIVERED:
            delivered.add(task.task_id)
            on_progress(Progress(acknowledged=len(acknowledged), delivered=len(delivered)))

    async with grpc.aio.insecure_channel(task_manager, options=wire.CHANNEL_OPTIONS) as channel:
        sent = await submit_all(
            channel,
            [from_file(picture_dir / picture.file_name) for picture in pictures],
            model=MODEL,
            receiver_url=receiver_url,
            client_id="edgesched-demo",
            in_flight=16,
            on_progress=on_step,
        )
        ids = [item.task_id for item in sent.acknowledged]
        tasks = await wait_settled(channel, ids, on_change=on_change, timeout_s=SETTLE_TIMEOUT_S)
    problems = [f"{item.picture.file_name}: refused: {item.reason}" for item in sent.refused]
    problems += [
        f"{task.file_name}: {task.state}: {task.last_error or 'no labels yet'}"
        for task in tasks.values()
        if task.state is not State.DELIVERED
    ]
    labels = {picture.file_name: read_labels(label_dir, picture.file_name) for picture in pictures}
    problems += [f"{name}: no label file in {label_dir}" for name, found in labels.items() if found is None]
    done = [task for task in tasks.values() if task.state is State.DELIVERED]
    return RoundReport(
        sent=len(pictures),
        delivered=len(done),
        problems=problems,
        shares=_shares(done),
        quality=None if problems else _quality(pictures, labels),
        seconds=_seconds(list(tasks.values())),
    )


def read_labels(label_dir: Path, file_name: str) -> list[Detection] | None:
    """The label file that the receiver wrote for a picture of the demo model; None if there is none."""
    path = label_dir / MODEL / "rst" / f"{Path(file_name).stem}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return [Detection(**detection) for detection in content["detections"]]


def percentile(values: Sequence[float], fraction: float) -> float:
    """Nearest-rank percentile. Raises: ValueError if there is no value."""
    if not values:
        raise ValueError("a percentile of nothing")
    return sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)]


def _quality(pictures: Sequence[Picture], labels: dict[str, list[Detection] | None]) -> Quality:
    found = [labels[picture.file_name] or [] for picture in pictures]
    truth = [picture.truth for picture in pictures]
    precision, recall = precision_and_recall(found, truth, SURE)
    return Quality(map50=mean_average_precision(found, truth), precision=precision, recall=recall)


def _shares(tasks: Sequence[Task]) -> Sequence[DeviceShare]:
    by_device: defaultdict[str, list[float]] = defaultdict(list)
    for task in tasks:
        by_device[task.device_id or "-"].append(float(task.updated_at_ms - task.created_at_ms))
    return [
        DeviceShare(
            device_id=device_id,
            pictures=len(times_ms),
            share=len(times_ms) / len(tasks),
            p50_ms=percentile(times_ms, 0.50),
            p99_ms=percentile(times_ms, 0.99),
        )
        for device_id, times_ms in sorted(by_device.items())
    ]


def _seconds(tasks: Sequence[Task]) -> float:
    if not tasks:
        return 0.0
    return (max(t.updated_at_ms for t in tasks) - min(t.created_at_ms for t in tasks)) / 1000.0

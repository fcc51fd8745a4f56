"""The demo: a cluster of emulated boards on this machine labels pictures whose truth is known."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgesched.demo import known_pictures
from edgesched.demo.known_pictures import MODEL, RoundReport, draw_into, read_labels, send_and_compare
from edgesched.demo.pictures import LABELS, Picture
from edgesched.demo.render import draw_boxes
from edgesched.local.boards import agent_specs, parse_boards
from edgesched.local.children import Child, ChildSpec, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to show, and where its files go: pictures, labels, rendered, boards, master and logs below `directory`."""

    directory: Path
    boards: str
    picture_count: int
    seed: int
    models_dir: Path


async def run(demo: Demo, console: Console) -> RoundReport:
    """Every process is stopped when it returns, also when it is cancelled (Ctrl-C, SIGTERM).

    Raises: StartupError if a process cannot start, PeerUnavailable if the task manager goes away.
    """
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    boards = parse_boards(demo.boards)
    console.print(f"[bold]edgesched demo[/]: {demo.picture_count} pictures for {len(boards)} emulated boards")
    with console.status("drawing pictures"):
        pictures = await draw_into(demo.directory / "pictures", count=demo.picture_count, seed=demo.seed)
    async with AsyncExitStack() as stack:
        with console.status("starting task manager, gateway and receiver"):
            master, receiver = await stack.enter_async_context(running(_master(demo), _receiver(demo)))
        with console.status(f"starting {', '.join(device_id for _, device_id in boards)}"):
            specs = agent_specs(
                boards,
                gateway_url=f"http://{master.ready['http']}",
                workspace=demo.directory / "boards",
                models_dir=demo.models_dir,
            )
            await stack.enter_async_context(running(*specs))
        report = await _send(demo, console, pictures, master, receiver)
        with console.status("stopping every process"):
            await stack.aclose()
    with console.status("drawing the boxes"):
        await asyncio.to_thread(_render, demo.directory, pictures)
    _print(console, demo, report)
    return report


def _master(demo: Demo) -> ChildSpec:
    files = demo.directory / "master"
    return ChildSpec(
        name="task manager and gateway",
        arguments=[
            *("up", "--grpc-port", "0", "--http-port", "0", "--browser-port", "0", "--models", str(demo.models_dir)),
            *("--ledger", str(files / "ledger.sqlite3"), "--upload_path", str(files / "upload")),
        ],
        log_path=demo.directory / "logs" / "up.log",
    )


def _receiver(demo: Demo) -> ChildSpec:
    return ChildSpec(
        name="receiver",
        arguments=["receive", "--port", "0", "--dir", str(demo.directory / "labels")],
        log_path=demo.directory / "logs" / "receiver.log",
    )


async def _send(
    demo: Demo, console: Console, pictures: Sequence[Picture], master: Child, receiver: Child
) -> RoundReport:
    bar = Progress(
        TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    accepted = bar.add_task("accepted", total=len(pictures))
    delivered = bar.add_task("delivered", total=len(pictures))

    def on_progress(progress: known_pictures.Progress) -> None:
        bar.update(accepted, completed=progress.acknowledged)
        bar.update(delivered, completed=progress.delivered)

    with bar:
        return await send_and_compare(
            master.ready["grpc"],
            pictures,
            picture_dir=demo.directory / "pictures",
            label_dir=demo.directory / "labels",
            receiver_url=f"http://{receiver.ready['http']}",
            on_progress=on_progress,
        )


def _render(directory: Path, pictures: Sequence[Picture]) -> None:
    rendered = directory / "rendered"
    rendered.mkdir(exist_ok=True)
    for picture in pictures:
        labels = read_labels(directory / "labels", picture.file_name)
        if labels is not None:
            (rendered / picture.file_name).write_bytes(draw_boxes(picture.jpeg, labels, LABELS))


def _print(console: Console, demo: Demo, report: RoundReport) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("device (emulated)")
    for column in ("pictures", "share", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for row in report.shares:
        table.add_row(row.device_id, str(row.pictures), f"{row.share:.0%}", f"{row.p50_ms:.0f}", f"{row.p99_ms:.0f}")
    console.print(table)
    console.print("[dim]ms: accepted to delivered; all came at once, so most is queueing[/]\n")
    rate = f" ({report.delivered / report.seconds:.0f} per second)" if report.seconds else ""
    console.print(
        f"{report.delivered} of {report.sent} pictures labelled and delivered in {report.seconds:.1f} s{rate}"
    )
    if report.quality is not None:
        quality = report.quality
        console.print(
            f"against the known truth: mAP@0.5 [bold]{quality.map50:.3f}[/]; "
            f"from confidence {known_pictures.SURE:g}: precision {quality.precision:.3f}, recall {quality.recall:.3f}",
            soft_wrap=True,
        )
    for problem in report.problems:
        console.print(f"[red]{problem}[/]", highlight=False)
    for what, where in (
        ("labels", demo.directory / "labels" / MODEL / "rst"),
        ("pictures with boxes", demo.directory / "rendered"),
        ("logs", demo.directory / "logs"),
    ):
        console.print(f"{what:>20}: {where}", highlight=False, soft_wrap=True)

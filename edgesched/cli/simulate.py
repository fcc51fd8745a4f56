"""`edgesched simulate`: what a fleet would do with a load, without the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgesched.simulation.fleets import Fleet
    from edgesched.simulation.runs import Run
    from edgesched.simulation.workload import Picture

LEDGER_PAGE = 1_000
SQLITE_MAGIC = b"SQLite format 3\0"
FAULT_HELP = (
    "dies, freezes (amount: seconds), slows and link-drops (how many times slower), is-shared (part that somebody else "
    "uses, up to 0.9), fails-fast or reports-freeze; like dies:0:3:6. May be repeated."
)


def command(
    fleet: Annotated[
        str,
        typer.Option(
            "--fleet", metavar="NAME|FILE", help="mixed, small, identical, links, speeds, mixed-120, or your own file."
        ),
    ] = "mixed",
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", metavar="NAMES", help="One or more, like fastest,load,predecessor.")
    ] = "fastest,load,roundrobin",
    load: Annotated[float, typer.Option("--load", min=0.01, max=2.0, help="Arrivals, as a part of capacity.")] = 0.8,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.01, max=1e6, metavar="PER_S", help="The same, per second.")
    ] = None,
    arrivals: Annotated[str, typer.Option("--arrivals", help="poisson, bursty or cameras.")] = "poisson",
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, max=100_000, metavar="N", help="N pictures at once, instead.")
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            "--clients",
            min=1,
            max=100_000,
            metavar="N",
            help="N clients that send the next picture when the last one is answered, instead.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="What really arrived: a ledger, or a trace (CSV or JSON lines)."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, max=3600.0, help="Of arrivals.")] = 10.0,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="KIND:BOARD:AT_S[:UNTIL_S[:AMOUNT]]", help=FAULT_HELP),
    ] = None,
    service_cv: Annotated[float, typer.Option("--cv", min=0.0, max=2.0, help="How unlike pictures are.")] = 0.15,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same run.")] = 1,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Also draw a picture.")] = None,
) -> None:
    """Would one more board be enough? The scheduler that runs in production, under simulated time."""
    from random import Random

    from edgesched.errors import EdgeSchedError
    from edgesched.process import fail
    from edgesched.simulation import fleets, runs, traces, workload

    if sum(given is not None for given in (burst, clients, replay)) > 1:
        fail("--burst, --clients and --replay exclude each other: pictures arrive in one way")
    try:
        boards = fleets.load(fleet)
        random = Random(seed)
        capacity = runs.capacity_per_s(boards)
        if replay is not None:
            pictures: Sequence[Picture] = traces.pictures(_trace(replay), service_cv=service_cv, random=random)
        elif burst is not None or clients is not None:
            count = burst or max(clients or 0, round(seconds * capacity))
            pictures = workload.burst(count, boards.sizes, at_ms=0.0, service_cv=service_cv, random=random)
        else:
            pictures = workload.stream(
                arrivals,
                boards.sizes,
                rate_per_s=rate or load * capacity,
                duration_s=seconds,
                service_cv=service_cv,
                random=random,
            )
        faults = [runs.parse_fault(text, boards) for text in fault or ()]
        names = [name.strip() for name in strategy.split(",")]
        done = [runs.run(boards, pictures, name, seed=seed, faults=faults, clients=clients) for name in names]
    except EdgeSchedError as error:
        fail(str(error))
    if clients is not None:
        how = f"{clients:,} clients send {len(pictures):,} pictures, each one the next when the last is answered."
    else:
        how = f"{len(pictures):,} pictures arrive in {pictures[-1].at_ms / 1000:.1f} s."
    _show(boards, how, runs.capacity_per_s(boards, pictures), done)
    if plot is not None:
        try:
            plot.write_text(runs.chart(boards, done, f"{boards.name}: {how} Seed {seed}"), "utf-8")
        except OSError as error:
            fail(f"--plot {plot}: {error}")
        print(f"wrote {plot}")


def _trace(path: Path) -> Sequence[tuple[float, int]]:
    """Raises: InvalidInput."""
    import sqlite3

    from edgesched.errors import InvalidInput
    from edgesched.ledger import reader
    from edgesched.ledger.database import open_for_reading
    from edgesched.simulation import traces

    try:
        with path.open("rb") as file:
            is_ledger = file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
        if not is_ledger:
            return traces.parse(path.read_text("utf-8"))
        rows: list[tuple[float, int]] = []
        connection = open_for_reading(path)
        try:
            cursor = 0
            while tasks := reader.changes_since(connection, cursor, LEDGER_PAGE):
                rows += [(float(task.created_at_ms), task.size_bytes) for task in tasks]
                cursor = tasks[-1].revision
        finally:
            connection.close()
        return traces.arranged(rows)
    except (OSError, UnicodeDecodeError, sqlite3.Error) as error:
        raise InvalidInput(f"--replay {path}: {error}") from error


def _show(boards: Fleet, how: str, capacity: float, done: Sequence[Run]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"Fleet {boards.name}: {len(boards.boards)} boards, at most {capacity:.0f} such pictures a second. {how}"
    )
    table = Table("strategy", "p50 ms", "p99 ms", "worst ms", "answers/s", "lost", "boards busy")
    for run in done:
        p50, p99, worst = (f"{run.percentile(percent):,.1f}" for percent in (50, 99, 100))
        busy = f"{min(run.busy):.0%} .. {max(run.busy):.0%}" if run.busy else ""
        table.add_row(run.strategy, p50, p99, worst, f"{run.answers_per_s:.1f}", str(run.lost), busy)
    console.print(table)

"""Where a picture's time goes, stage by stage.

The client, the receiver and a relay between task manager and agent are this one process: one clock stamps everything
but the board's own work, which the board measures. The relay makes each way a little longer: look at the shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.table import Table

from bench.closed_loop import Lap, delivered_loop
from bench.cluster import cluster
from bench.figures import Figure
from bench.relay import relaying
from bench.setup import Setup
from bench.throughput import CLIENTS
from edgesched.catalogue import read_model
from edgesched.demo.known_pictures import percentile
from edgesched.v1 import types_pb2 as types

Clock = Mapping[str, float]  # seconds
SETTLE_S = 10.0

STAGES: Sequence[tuple[str, Callable[[Clock, types.Timings], float]]] = (
    ("submitted -> acknowledged (checked, image and row durable)", lambda at, _: at["acknowledged"] - at["submitted"]),
    ("acknowledged -> dispatched (below 0: before that)", lambda at, _: at["announced"] - at["acknowledged"]),
    ("dispatched -> on the board (picture on the stream)", lambda at, _: at["whole"] - at["announced"]),
    ("on the board -> a worker begins", lambda _, board: board.queued_ms / 1000),
    ("a worker begins -> done",  lambda _, board: board.service_ms / 1000),
    ("  of it: decode", lambda _, board: board.decode_ms / 1000),
    ("  of it: resize", lambda _, board: board.preprocess_ms / 1000),
    ("  of it: infer", lambda _, board: board.infer_ms / 1000),
    ("  of it: boxes", lambda _, board: board.postprocess_ms / 1000),
    ("done -> told (labels durable on the board)", lambda at, board: at["told"] - at["whole"] - on_board_s(board)),
    ("told -> DONE committed, and the board knows", lambda at, _: at["judged"] - at["told"]),
    ("DONE -> posted, labels durable with the receiver", lambda at, _: at["arrived"] - at["judged"]),
    ("all of it: submitted -> labels with the receiver", lambda at, _: at["arrived"] - at["submitted"]),
    ("afterwards: receiver has them -> board reports it", lambda at, _: at["reported"] - at["arrived"]),
    ("afterwards: reported -> DELIVERED committed", lambda at, _: at["settled"] - at["reported"]),
)  # fmt: skip


def on_board_s(board: types.Timings) -> float:
    return (board.queued_ms + board.service_ms) / 1000


async def stages(setup: Setup) -> list[Figure]:
    """Prints a table; there is no target for a stage."""
    model = read_model(setup.model_dir)
    workspace = setup.directory / "stages"
    batch = setup.batch(setup.count)
    async with (
        relaying() as (relay, address),
        cluster(workspace, models_dir=setup.model_dir.parent, agent_options=("--advertise", address)) as running,
        delivered_loop(running.grpc, model=model.name, label_dir=workspace / "labels") as loop,
    ):
        relay.agent_address = running.processes["agent-0"].ready["grpc"]
        await loop.run(batch[: setup.count // 3], clients=CLIENTS)  # warm
        laps = await loop.run(batch, clients=CLIENTS)
        async with asyncio.timeout(SETTLE_S):
            await relay.until_settled([lap.task_id for lap in laps])
    setup.console.print(
        table_of(
            [clock_of(lap, relay.seen[lap.task_id]) for lap in laps],
            [relay.timings[lap.task_id] for lap in laps],
            title=f"{len(laps)} pictures, {CLIENTS} clients, 2 workers, 'power', milliseconds",
        )
    )
    return []


def table_of(clocks: Sequence[Clock], boards: Sequence[types.Timings], *, title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "p50", "p99", "mean", "share"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    whole_s = sum(clock["arrived"] - clock["submitted"] for clock in clocks)
    for name, stage in STAGES:
        took_ms = [stage(clock, board) * 1000 for clock, board in zip(clocks, boards, strict=True)]
        share = "" if name.startswith("afterwards") else f"{sum(took_ms) / 1000 / whole_s:.0%}"
        p50, p99 = (percentile(took_ms, fraction) for fraction in (0.5, 0.99))
        table.add_row(name, f"{p50:.2f}", f"{p99:.2f}", f"{sum(took_ms) / len(took_ms):.2f}", share)
    return table


def clock_of(lap: Lap, seen: Clock) -> Clock:
    client = {"submitted": lap.started_s, "acknowledged": lap.acknowledged_s, "arrived": lap.arrived_s}
    return {**client, **seen}

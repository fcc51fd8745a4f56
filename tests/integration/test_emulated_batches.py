"""Emulated boards with real workers: one whose chip gains by batches, and the same one without."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from agents.worker_archive import pack_worker
from agents.worker_plan import WorkerPlan
from tests.support.agent_parts import WITHIN_S
from tests.support.boards import Board, job, running
from tests.support.graphs import echo_spec

BOARD = {"service_ms": 50.0, "shared_fraction": 0.5}
"""A batch of eight takes the time of 4.5 pictures. Slow, so that what the test itself costs hardly counts."""
PICTURES = 120


def plan(archive: Path, **changes: Any) -> WorkerPlan:
    """Real workers that look at nothing and take the time of the emulated board."""
    pack_worker(archive)
    model = echo_spec("shapes", **changes)
    return WorkerPlan(command=(sys.executable, "-I", str(archive)), models=(model,), emulation=BOARD)


async def test_a_board_that_gains_by_batches_does_nearly_twice_the_pictures(tmp_path: Path) -> None:
    """Both run side by side for the same time, with as much work as they can hold."""
    archive = tmp_path / "worker.pyz"
    async with running(plan(archive, max_batch=8)) as batching, running(plan(archive)) as single:
        async with asyncio.timeout(WITHIN_S):
            while len(batching.outcomes) < PICTURES:
                for board in (batching, single):
                    keep_busy(board)
                await batching.changed()
        counts = len(batching.outcomes), len(single.outcomes)
    assert 1.5 * counts[1] < counts[0] < 2.2 * counts[1], counts  # 8 / 4.5 = 1.78, less the gaps between


def keep_busy(board: Board) -> None:
    while board.supervisor.held_count < 24:
        board.supervisor.submit(job(f"a{len(board.outcomes) + board.supervisor.held_count}"))

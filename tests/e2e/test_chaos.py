"""Faults of all kinds on a cluster of real processes, for some seconds: `make chaos` does the same for minutes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.plan import Layout, Plan
from tests.chaos.run import run

FIXED_SEED = 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "seed"), [(Layout.TOGETHER, FIXED_SEED), (Layout.APART, None)], ids=["fixed-together", "random-apart"]
)
async def test_nothing_acknowledged_is_lost_whatever_dies_freezes_or_falls_silent(
    tmp_path: Path, layout: Layout, seed: int | None
) -> None:
    plan = Plan(
        seed=random.SystemRandom().randrange(1_000_000) if seed is None else seed,
        pictures=200,
        boards="atlas,rk3588,orin:2",
        layout=layout,
        directory=tmp_path / "chaos",
        pictures_per_s=12.0,
        fault_every_s=0.4,
        fault_length=0.4,
        rounds=1,
        workers_per_board=1,
        settle_s=45.0,
    )
    report = await run(plan)

    print("\n".join(report.lines))
    assert report.passed, "\n".join(report.lines)

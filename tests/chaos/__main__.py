"""`python -m tests.chaos`: faults of all kinds on a cluster of real processes, and a check that nothing was lost."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from functools import partial
from pathlib import Path

from tests.chaos.plan import Layout, Plan
from tests.chaos.run import run
from tests.chaos.schedule import Kind


def main() -> int:
    options = _parser().parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    directory = options.dir or Path("workspace/chaos") / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    if directory.exists() and any(directory.iterdir()):
        print(f"chaos: --dir {directory} is not empty; name another one", file=sys.stderr)
        return 2
    layout = options.layout or (Layout.TOGETHER if seed % 2 else Layout.APART)
    plan = Plan(
        seed=seed,
        pictures=options.pictures,
        boards=options.boards,
        layout=Layout(layout),
        directory=directory.resolve(),
        models_dir=options.models,
        pictures_per_s=options.rate,
        fault_every_s=options.every,
        rounds=options.rounds,
        only=frozenset(options.only),
        workers_per_board=options.workers,
        settle_s=options.settle,
        goal_s=options.goal,
    )
    print(f"chaos: seed {seed}, {plan.pictures} pictures, {plan.boards}, {plan.layout}; logs: {directory}", flush=True)
    report = asyncio.run(run(plan, tell=partial(print, flush=True)))
    print("\n".join(report.lines), flush=True)
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="decides faults and pictures; None: drawn, and printed")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--boards", default="atlas,rk3588,orin:2", help="emulated boards")
    parser.add_argument("--layout", choices=list(Layout), help="None: the seed decides")
    parser.add_argument("--rate", type=float, default=15.0, help="pictures per second that the sender's link carries")
    parser.add_argument("--every", type=float, default=1.5, help="a fault begins every so many seconds, on average")
    parser.add_argument("--rounds", type=int, help="each holds every possible fault; None: until the work is done")
    parser.add_argument("--only", nargs="*", choices=list(Kind), default=[], help="hit nothing else")
    parser.add_argument("--workers", type=int, help="worker processes per board; None: as the board's profile says")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--dir", type=Path, help="keep everything here; None: workspace/chaos/<time>-<seed>")
    parser.add_argument("--settle", type=float, default=90.0, help="longest wait for the last deliveries, in seconds")
    parser.add_argument("--goal", type=float, default=10.0, help="longest gap in deliveries that passes, in seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())

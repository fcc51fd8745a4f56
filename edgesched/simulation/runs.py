"""One run of one strategy or baseline, and what people want to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgesched.errors import InvalidInput
from edgesched.placement.strategies import STRATEGIES, strategy_name
from edgesched.simulation import bounds
from edgesched.simulation.baselines import BASELINES, ORACLES, latencies_ms
from edgesched.simulation.chart import svg
from edgesched.simulation.engine import Simulation
from edgesched.simulation.faults import Fault
from edgesched.simulation.figures import percentile
from edgesched.simulation.fleets import Fleet
from edgesched.simulation.workload import Picture

SIZES_SEEN = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """latencies_ms: of the answered pictures. busy: part of the slots' time, per board; none for a baseline."""

    strategy: str
    latencies_ms: Sequence[float]
    lost: int
    ended_at_ms: float
    busy: Sequence[float]

    def percentile(self, percent: float) -> float:
        return percentile(self.latencies_ms, percent) if self.latencies_ms else float("nan")

    @property
    def answers_per_s(self) -> float:
        return 1000 * len(self.latencies_ms) / self.ended_at_ms if self.ended_at_ms else 0.0


def run(
    fleet: Fleet,
    pictures: Sequence[Picture],
    name: str,
    *,
    seed: int = 0,
    faults: Sequence[Fault] = (),
    clients: int | None = None,
) -> Run:
    """name: a strategy, or a baseline or an oracle, which know no faults and no closed loop.

    clients: see `Simulation`.
    Raises: InvalidInput.
    """
    if not pictures:
        raise InvalidInput("no picture arrives: more --seconds or a higher --load are needed")
    rule = BASELINES.get(name) or ORACLES.get(name)
    if rule is None:
        try:
            known = strategy_name(name)
        except InvalidInput:
            names = ", ".join((*STRATEGIES, *BASELINES, *ORACLES))
            raise InvalidInput(f"there is no strategy {name!r}; use one of: {names}") from None
        outcome = Simulation(fleet, pictures, known, seed=seed, faults=faults, clients=clients).run()
        answered = [ms for ms in outcome.latencies_ms if ms is not None]
        return Run(
            strategy=known,
            latencies_ms=answered,
            lost=len(pictures) - len(answered),
            ended_at_ms=outcome.ended_at_ms,
            busy=outcome.busy_fractions,
        )
    if faults:
        raise InvalidInput(f"{name} is compared on healthy boards only; leave --fault out, or {name}")
    if clients is not None:
        raise InvalidInput(f"{name} decides when a picture arrives, before any answer; leave --clients out, or {name}")
    latencies = latencies_ms(fleet, pictures, rule, seed=seed)
    ended_at_ms = max(p.at_ms + ms for p, ms in zip(pictures, latencies, strict=True))
    return Run(strategy=name, latencies_ms=latencies, lost=0, ended_at_ms=ended_at_ms, busy=())


def capacity_per_s(fleet: Fleet, pictures: Sequence[Picture] = ()) -> float:
    """The fluid bound for such pictures; if there are none, for pictures of the fleet's own sizes."""
    sizes = [picture.size_bytes for picture in pictures]
    return bounds.capacity_per_s(fleet, sizes or [fleet.sizes.at((i + 0.5) / SIZES_SEEN) for i in range(SIZES_SEEN)])


def parse_fault(text: str, fleet: Fleet) -> Fault:
    """`KIND:BOARD:AT_S[:UNTIL_S[:AMOUNT]]`, the board by its number or its name. Raises: InvalidInput."""
    parts = text.split(":")
    names = [str(board.device_id) for board in fleet.boards]
    try:
        kind, board, at_s, *more = parts
        number = names.index(board) if board in names else int(board)
        fault = Fault(
            kind=kind,
            board=number,
            at_ms=1000 * float(at_s),
            until_ms=1000 * float(more[0]) if more and more[0] else None,
            amount=float(more[1]) if len(more) > 1 else 1.0,
        )
    except InvalidInput as error:
        raise InvalidInput(f"--fault {text}: {error}") from None
    except ValueError:
        raise InvalidInput(f"--fault {text}: it is KIND:BOARD:AT_S[:UNTIL_S[:AMOUNT]], like dies:0:3:6") from None
    if not 0 <= number < len(names) or len(more) > 2:
        raise InvalidInput(f"--fault {text}: the boards are 0 to {len(names) - 1}, or {', '.join(names[:3])} ..")
    return fault


def chart(fleet: Fleet, runs: Sequence[Run], title: str) -> str:
    """An SVG file."""
    return svg(
        {run.strategy: run.latencies_ms for run in runs if run.latencies_ms},
        {run.strategy: run.busy for run in runs if run.busy},
        [str(board.device_id) for board in fleet.boards],
        title,
    )

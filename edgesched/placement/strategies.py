"""How eligible devices are compared. A strategy is a pure function in the table at the end.

It is given one task and one device that could take it, and returns what that device scores: lower is better. The
planner asks for every device, takes the best, and breaks ties (see `planner.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgesched.errors import InvalidInput
from edgesched.placement.fleet import Standing
from edgesched.ports import Candidate, TaskToPlace

Strategy = Callable[[TaskToPlace, Standing], Candidate]

TIE_BREAKER_WEIGHT = 0.001
"""Seconds of work that a fully used CPU or accelerator counts for: it decides between equals, and nothing else."""


def by_load(task: TaskToPlace, standing: Standing) -> Candidate:
    """Least work in flight: seconds until the device's bottleneck would be through with this task.

    In-flight count, device speed, link and picture size all enter with one unit, so there is nothing to weigh. A load
    that a device cannot report adds nothing.
    Score: (work in flight + this task, ms of bottleneck time) / 1000 + 0.001 * (CPU + accelerator use, 0..1).
    Source: least-work-left dispatching; the bottleneck bound of operational analysis.
    """
    telemetry = standing.device.telemetry
    this_task_ms = standing.bottleneck_ms(task.model, task.size_bytes)
    terms = {
        "work_in_flight_ms": standing.work_ms,
        "this_task_ms": this_task_ms,
        "transfer_ms": standing.transfer_ms(task.size_bytes),
        "service_ms": standing.service_ms(task.model),
        "slots": float(standing.device.profile.slots),
        "in_flight_tasks": float(standing.in_flight_tasks),
    }
    score = (standing.work_ms + this_task_ms) / 1000
    for name in ("cpu_used_fraction", "xpu_used_fraction"):
        used: float | None = getattr(telemetry, name)
        if used is not None:
            terms[name] = used
            score += TIE_BREAKER_WEIGHT * used
    return Candidate(device_id=standing.device.device_id, score=score, terms=terms)


def by_turn(task: TaskToPlace, standing: Standing) -> Candidate:
    """Round robin: the device whose last turn is longest ago.

    Unlike a pointer into a list this stays fair while devices come, go and fill up, and one that was away for long
    gets no flood when it is back.
    Score: number of the device's last turn; 0 if it never had one.
    """
    turn = float(standing.memory.last_turn)
    terms = {"last_turn": turn, "in_flight_tasks": float(standing.in_flight_tasks)}
    return Candidate(device_id=standing.device.device_id, score=turn, terms=terms)


STRATEGIES: Mapping[str, Strategy] = {"load": by_load, "roundrobin": by_turn}
ALIASES: Mapping[str, str] = {"round_robin": "roundrobin"}
DEFAULT_STRATEGY = "load"


def strategy_name(name: str | None) -> str:
    """The name in `STRATEGIES` that is meant. None: the default.

    Raises: InvalidInput that lists the strategies.
    """
    if name is None:
        return DEFAULT_STRATEGY
    known = ALIASES.get(name, name)
    if known not in STRATEGIES:
        raise InvalidInput(f"there is no strategy {name!r}; use one of: {', '.join(STRATEGIES)}")
    return known

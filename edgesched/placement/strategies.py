"""How devices are compared. The strategies are the table at the end; each is one formula.

A formula is given a task and devices and returns what each device scores: lower is better. `few` goes from device to
device, `many` is the same formula for arrays of devices (a property test holds them together). The planner asks for all
devices, takes the best and breaks ties (see `planner.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgesched.errors import InvalidInput
from edgesched.placement.fleet import Standing
from edgesched.placement.view import Column, Columns
from edgesched.ports import TaskToPlace

Terms = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """few: (bytes of the picture, devices, their service times in ms for the task's model) -> scores."""

    few: Callable[[int, Sequence[Standing], Sequence[float]], list[float]]
    many: Callable[[int, Columns], Column]
    terms: Callable[[TaskToPlace, Standing], Terms]
    excludes_full: bool = True  # people are told which devices have no room
    waits: bool = False  # a device without room may be the best one, and then the task waits for it
    step: float = 1.0  # how much a device's score grows with each task, in seconds of its bottleneck time per second


# --- load: least work left ---


def work_left(size_bytes: int, standings: Sequence[Standing], services_ms: Sequence[float]) -> list[float]:
    """Seconds until the device's bottleneck would be through with this task.

    In-flight work, device speed, link and picture size all enter with one unit, so there is nothing to weigh.
    Score: (bottleneck time of the work in flight that is left, plus this task's) / 1000, plus at most some
    milliseconds for reported CPU and accelerator use.
    Source: least-work-left dispatching (M. Harchol-Balter, "Performance Modeling and Design of Computer Systems",
    ch. 24), with the bottleneck bound of operational analysis (P. Denning and J. Buzen, 1978) as the unit of work.
    """
    scores = []
    for standing, service_ms in zip(standings, services_ms, strict=True):
        transfer_ms, share_ms = size_bytes * standing.ms_per_byte, service_ms / standing.slots
        this_task_ms = transfer_ms if transfer_ms > share_ms else share_ms
        scores.append((standing.work_ms + this_task_ms) / 1000 + standing.tie_breaker_s)
    return scores


def work_left_of_many(size_bytes: int, columns: Columns) -> Column:
    total_ms = size_bytes * columns.ms_per_byte
    np.maximum(total_ms, columns.share_ms, out=total_ms)
    total_ms += columns.work_ms
    total_ms /= 1000
    total_ms += columns.tie_breaker_s
    return total_ms


def load_terms(task: TaskToPlace, standing: Standing) -> Terms:
    terms = {
        "work_in_flight_ms": standing.work_ms,
        "this_task_ms": standing.bottleneck_ms(task.model, task.size_bytes),
        "tie_breaker_s": standing.tie_breaker_s,
        **_device_terms(task, standing),
    }
    for name in ("cpu_used_fraction", "xpu_used_fraction"):
        used: float | None = getattr(standing.device.telemetry, name)
        if used is not None:
            terms[name] = used
    return terms


# --- fastest: earliest finish with reservations ---


def finish_ms(size_bytes: int, standing: Standing, service_ms: float) -> float:
    """Time until the answer would be here.

    The picture leaves when the window has a place, travels when the link is free, is worked on when a slot is free.
    A device without room is compared as well: waiting for a fast one can be better than having a slow one at once.
    Source: the earliest-finish-time rule of HEFT (H. Topcuoglu et al., 2002), used online with reservations.
    """
    arrival_ms = standing.ready_ms if size_bytes <= standing.room_bytes else standing.ready_with_place_ms
    arrival_ms += size_bytes * standing.ms_per_byte
    return max(arrival_ms, standing.free_ms) + service_ms + standing.way_back_ms


def finish_and_work(size_bytes: int, standings: Sequence[Standing], services_ms: Sequence[float]) -> list[float]:
    """Seconds until this task's answer, plus seconds of work that the device then has left for those behind it.

    The first alone is selfish: every task crowds the fastest board, and pictures that need its link later find it
    taken. The second is what the choice costs the others. Together they are better than either alone: in median, p99
    and makespan, on the unlike fleets that the simulator has, and costs nothing on alike ones (docs/placement.md).
    Score: (finish + work in flight + this task's bottleneck time) / 1000.
    """
    scores = []
    for standing, service_ms in zip(standings, services_ms, strict=True):
        transfer_ms, share_ms = size_bytes * standing.ms_per_byte, service_ms / standing.slots
        total_ms = standing.ready_ms if size_bytes <= standing.room_bytes else standing.ready_with_place_ms
        total_ms += transfer_ms
        if standing.free_ms > total_ms:
            total_ms = standing.free_ms
        total_ms += service_ms + standing.way_back_ms + standing.work_ms
        scores.append((total_ms + (transfer_ms if transfer_ms > share_ms else share_ms)) / 1000)
    return scores


def finish_and_work_of_many(size_bytes: int, columns: Columns) -> Column:
    transfer_ms = size_bytes * columns.ms_per_byte
    total_ms = np.where(size_bytes > columns.room_bytes, columns.ready_with_place_ms, columns.ready_ms)
    total_ms += transfer_ms
    np.maximum(total_ms, columns.free_ms, out=total_ms)
    total_ms += columns.service_and_way_back_ms
    total_ms += columns.work_ms
    np.maximum(transfer_ms, columns.share_ms, out=transfer_ms)
    total_ms += transfer_ms
    total_ms /= 1000
    return total_ms


def finish_terms(task: TaskToPlace, standing: Standing) -> Terms:
    return {
        "finish_ms": finish_ms(task.size_bytes, standing, standing.service_ms(task.model)),
        "work_in_flight_ms": standing.work_ms,
        "this_task_ms": standing.bottleneck_ms(task.model, task.size_bytes),
        "link_free_in_ms": standing.link_free_ms,
        "slot_free_in_ms": standing.free_ms,
        "round_trip_ms": standing.half_trip_ms + standing.way_back_ms,
        **_device_terms(task, standing),
    }


# --- roundrobin ---


def last_turn(size_bytes: int, standings: Sequence[Standing], services_ms: Sequence[float]) -> list[float]:
    """Round robin: the device whose last turn is longest ago.

    Unlike a pointer into a list this stays fair while devices come, go and fill up, and one that was away for long
    gets no flood when it is back.
    Score: number of the device's last turn; 0 if it never had one.
    """
    return [float(standing.memory.last_turn) for standing in standings]


def last_turn_of_many(size_bytes: int, columns: Columns) -> Column:
    return columns.last_turn.copy()


def turn_terms(task: TaskToPlace, standing: Standing) -> Terms:
    return {"last_turn": float(standing.memory.last_turn), "in_flight_tasks": float(standing.in_flight_tasks)}


def _device_terms(task: TaskToPlace, standing: Standing) -> dict[str, float]:
    return {
        "transfer_ms": standing.transfer_ms(task.size_bytes),
        "service_ms": standing.service_ms(task.model),
        "slots": float(standing.slots),
        "in_flight_tasks": float(standing.in_flight_tasks),
        "window_tasks": float(standing.window),
    }


STRATEGIES: Mapping[str, Strategy] = {
    "load": Strategy(few=work_left, many=work_left_of_many, terms=load_terms, waits=True),
    "roundrobin": Strategy(few=last_turn, many=last_turn_of_many, terms=turn_terms),
    "fastest": Strategy(
        few=finish_and_work, many=finish_and_work_of_many, terms=finish_terms, excludes_full=False, waits=True, step=2.0
    ),
}
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

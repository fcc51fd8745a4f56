"""Snapshot, filter, score, choose: where each task of a request goes, and why.

Pure but for the memory that is handed in: the same request, fleet and memory always give the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from edgesched.domain.fact import replace
from edgesched.domain.task import TaskId
from edgesched.placement.choice import best_two, lowest, scores_of
from edgesched.placement.explain import candidate, excluded
from edgesched.placement.filters import inability
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.line import queue_ahead
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.strategies import STRATEGIES, strategy_name
from edgesched.placement.view import FleetView, Lane
from edgesched.ports import Decision, PlacementRequest, TaskToPlace

LOOK = 64
"""Tasks that wait in one line and are decided one by one; more are only counted (see `line.py`)."""

NO_END = 1 << 62


def plan(
    request: PlacementRequest, fleet: FleetSnapshot, memory: PlacementMemory, *, default_strategy: str | None = None
) -> Sequence[Decision]:
    """One decision per task, in the order of the tasks; each one counts the earlier ones.

    Tasks of one model are taken as a line, oldest first: with a strategy that waits, those that wait have their places
    reserved before those behind them are looked at.
    memory: learns from `request.finished` and the fleet's reports, and remembers whose turn it was.
    default_strategy: where the request names none; None means placement's own.
    Raises: InvalidInput if the strategy is not known; the memory is unchanged then.
    """
    name = strategy_name(request.strategy or default_strategy)
    view = memory.look(request, fleet)
    lines: dict[int, _Line] = {}
    decisions: list[Decision] = []
    for task in request.tasks:
        lane = view.lane(task)
        line = lines.get(id(lane))
        if line is None:
            line = lines[id(lane)] = _Line(name, lane, view, memory, explain=request.explain)
        decisions.append(line.decide(task, len(decisions)))
    for line in lines.values():
        if line.last_waiting is not None:
            i = line.last_waiting
            opening = line.next_opening(request.tasks[i])
            decisions[i] = replace(decisions[i], next_opening=opening)
    return decisions


def preview(
    *, model: str, size_bytes: int, strategy: str | None, fleet: FleetSnapshot, memory: PlacementMemory
) -> Decision:
    """What `plan` would decide next for such a task if nothing were in flight. Changes nothing.

    model: `filters.ANY_MODEL` asks for devices that can run any model at all.
    Raises: InvalidInput if the strategy is not known.
    """
    name = strategy_name(strategy)
    task = TaskToPlace(task_id=TaskId("dry-run"), model=model, size_bytes=size_bytes)
    view = memory.idle_view(fleet)
    same_draws = Random()
    same_draws.setstate(memory.random.getstate())
    line = _Line(name, view.lane(task), view, memory, explain=True)
    return line.choose(task, same_draws)


class _Line:
    """The tasks of one lane in a request, oldest first.

    A task that waits has its place reserved, so that those behind it see the devices as they will be then.
    """

    def __init__(self, name: str, lane: Lane, view: FleetView, memory: PlacementMemory, *, explain: bool) -> None:
        self.last_waiting: int | None = None  # number of that task in the request
        self._name = name
        self._strategy = STRATEGIES[name]
        self._lane = lane
        self._view = view
        self._memory = memory
        self._explain = explain
        self._tasks = 0
        self._waiting = 0
        self._skip = 0  # so many more are known to wait

    def decide(self, task: TaskToPlace, number: int) -> Decision:
        """number: of the task in the request."""
        self._tasks += 1
        if task.avoid:
            task = _without_vain_avoidance(task, self._view)
        if self._skip and not task.avoid:
            self._skip -= 1
            self.last_waiting = number
            return self._waits(task)
        decision = self.choose(task, self._memory.random)
        if decision.waits_for is not None:
            self.last_waiting = number
        elif decision.device_id is not None:
            best = self._view.standings[decision.device_id]
            self._memory.take_turn(best)
            self._view.has_changed(best)
        return decision

    def choose(self, task: TaskToPlace, random: Random) -> Decision:
        """The decision for one task; what it takes is reserved."""
        lane = self._lane
        scores = scores_of(task, lane, self._strategy)
        first = lowest(scores)
        if first is not None and self._waiting and task.size_bytes > lane.standings[first].room_bytes:
            self._reserve(task, first)
            return self._waits(task)
        second = None
        if first is not None:
            first, second = best_two(task, lane.standings, scores, first, random)
        chosen = candidate(task, self._strategy, lane, scores, first, explain=self._explain)
        runner_up = candidate(task, self._strategy, lane, scores, second, explain=self._explain)
        left_out = excluded(task, self._strategy, lane)
        best, promise, waits_for = None if first is None else lane.standings[first], None, None
        if first is not None and best is not None:
            if task.size_bytes > best.room_bytes:
                waits_for = best.full_reason(task.size_bytes)
                self._reserve(task, first)
            else:
                promise = best.take(task.model, task.size_bytes)
        return Decision(
            task_id=task.task_id,
            device_id=best.device.device_id if best is not None and promise is not None else None,
            strategy=self._name,
            chosen=chosen,
            runner_up=runner_up,
            excluded=left_out,
            promise=promise,
            waits_for=waits_for,
        )

    def next_opening(self, task: TaskToPlace) -> int | None:
        """How many tasks like this one must be in line before the last of them finds a device with room."""
        ahead = queue_ahead(task, self._lane, self._strategy)
        if ahead is None:
            return None
        return self._tasks + 1 + (ahead.tasks if self._waiting >= LOOK else 0)

    def _reserve(self, task: TaskToPlace, i: int) -> None:
        """Device number i has no room: the task stands in line for it. How many behind this one wait as well?"""
        best = self._lane.standings[i]
        self._waiting += 1
        best.reserve(task.model, task.size_bytes, self._lane.services_ms[i])
        self._view.has_changed(best)
        if self._waiting == 1 or self._waiting >= LOOK:
            self._look_ahead(task)

    def _look_ahead(self, task: TaskToPlace) -> None:
        ahead = queue_ahead(task, self._lane, self._strategy)
        if ahead is None:  # no device has room: nobody behind needs to be looked at
            self._skip = NO_END
        elif self._waiting >= LOOK and ahead.tasks:
            self._skip = ahead.tasks
            for standing in ahead.stand_in_line(task):
                self._view.has_changed(standing)

    def _waits(self, task: TaskToPlace) -> Decision:
        """In short: the first that waits was explained, and nobody reads why the hundredth does."""
        return Decision(
            task_id=task.task_id,
            device_id=None,
            strategy=self._name,
            chosen=None,
            runner_up=None,
            excluded=self._lane.unable,
            waits_for="for a better device, behind others",
        )


def _without_vain_avoidance(task: TaskToPlace, view: FleetView) -> TaskToPlace:
    """Where the task failed is avoided only while another device could run it, now or when its window opens."""
    for standing in view.standings.values():
        if standing.device.device_id not in task.avoid and inability(task, standing) is None:
            return task
    return replace(task, avoid=frozenset())

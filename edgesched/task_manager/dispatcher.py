"""Takes tasks from the queue to devices: placement decides, the ledger is told, the link carries."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Sequence

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event
from edgesched.domain.task import AttemptId, Line, Task, TaskId, new_id
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.ledger.base import Ledger, LedgerEvent
from edgesched.ledger.transition import is_overdue
from edgesched.ports import Asker, Decision, FinishedSample, Placement, PlacementPlan, PlacementRequest, TaskToPlace
from edgesched.task_manager.attempts import OpenAttempt, OpenAttempts
from edgesched.task_manager.device_link import LinkListener
from edgesched.task_manager.events import EventLog
from edgesched.task_manager.links import Links
from edgesched.task_manager.queue import QueuedTask, TaskQueue
from edgesched.wake import Wake

log = logging.getLogger(__name__)

QUEUE_CAPACITY = 8_192  # rows cached in memory, shared by the lines; the rest waits in the ledger
LONGEST_LINE = 2_048
SHORTEST_LINE = 64  # however many lines there are: enough for the boards that run one model
FIRST_BITE = 8  # tasks per model in the first placement call of a round; doubled while all of them find a device
LARGEST_BITE = 256
DEEPEST_LOOK = 1_024  # into one line, when its first tasks wait for busy devices while another device has room
LOOK_AGAIN_MS = 1_000.0  # at least this often, hint or no hint
FULL_MS = 100.0  # so long a line that found every device full is believed to, however many join it
MAX_SAMPLES = 4_096
ROOM_PAUSE_S = 0.002  # ends of attempts on a full fleet within this time are one decision: a window holds more
FLEET_PAUSE_S = 0.1  # changes of the fleet that come within this time are one: a thousand boards may register at once


class Dispatcher:
    """Owns the queue. Everything else tells it what changed, and it decides again."""

    def __init__(
        self,
        ledger: Ledger,
        placement: Placement,
        attempts: OpenAttempts,
        events: EventLog,
        links: Links,
        *,
        clock: Clock,
        strategy: str | None,
    ) -> None:
        self._ledger = ledger
        self._placement = placement
        self._attempts = attempts
        self._events = events
        self._links = links
        self._clock = clock
        self._strategy = strategy
        self._queue = TaskQueue()
        self._claimed: dict[Line, int] = {}  # every QUEUED row of the line up to this seq is in the queue or in flight
        self._has_more: set[Line] = set()  # lines of which the ledger has rows beyond those
        self._samples: list[FinishedSample] = []
        self._waits: dict[str, Decision] = {}  # model -> the decision about the first task in its line that had to wait
        self._claimed_at_ms = -math.inf
        self._wake = Wake()
        self._has_news = True  # something happened after which a task may find a device
        self._is_fleet_new = True
        self._full: frozenset[str] = frozenset()  # models for which no device had room, when it was looked last
        self._looked_at_ms = -math.inf
        self._is_placement_away = False
        self._is_open = True

    def offer(self, tasks: Sequence[Task]) -> None:
        """Newly accepted tasks."""
        for task in tasks:
            line = task.line
            claimed_seq = self._claimed.get(line)
            if claimed_seq is None or line in self._has_more or self._queue.length(line) >= self._capacity():
                self._has_more.add(line)
            else:
                self._queue.add(QueuedTask(task), self._clock.monotonic_ms())
                self._claimed[line] = max(claimed_seq, task.seq)
        if all(task.model in self._full for task in tasks):
            self._wake.within(FULL_MS / 1000)
        else:
            self.poke()

    def requeue(self, task: Task, *, delay_ms: float = 0.0, avoid: frozenset[DeviceId] = frozenset()) -> None:
        """A task whose attempt ended without labels and that may be tried again."""
        now_ms = self._clock.monotonic_ms()
        self._queue.add(QueuedTask(task, not_before_ms=now_ms + delay_ms, avoid=avoid), now_ms)
        self.poke()

    def forget(self, task_id: TaskId) -> None:
        """The task was cancelled, expired, or its labels came from somewhere else."""
        self._queue.drop(task_id)

    def why_waiting(self, task: Task) -> str | None:
        """Why a QUEUED task is not with a device yet, for people. None: it is on its way to one."""
        now_ms = self._clock.monotonic_ms()
        if task.task_id in self._attempts.task_ids():
            return None
        if self._is_placement_away:
            return "placement does not answer: is the gateway running?"
        if task.task_id not in self._queue:
            return f"at least {self._queue.length(task.line)} tasks are in line before it"
        delay_ms = self._queue.delay_ms(task.task_id, now_ms)
        if delay_ms > 0:
            return f"its next try is due in {delay_ms / 1000:.1f} s"
        decision = self._waits.get(task.model)
        reason = "placement decides next" if decision is None else decision.reason()
        ahead = self._queue.ahead_of(task)
        line = f"the line of its model and priority ({task.priority})"
        return f"number {ahead + 1} in {line}; number 1: {reason}" if ahead else reason

    def learn(self, sample: FinishedSample) -> None:
        """What a finished attempt taught; travels with the next placement call."""
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(sample)

    def made_room(self) -> None:
        """An attempt has ended. Devices have more in hand: the next decision may be about a few of them together."""
        self._has_news = True
        if self._full:
            self._wake.within(ROOM_PAUSE_S)
        else:
            self._wake.now()

    def poke(self) -> None:
        """Something changed: decide again."""
        self._has_news = True
        self._wake.now()

    def close(self) -> None:
        """Dispatch nothing more (the process is stopping)."""
        self._is_open = False

    async def run(self, listener: LinkListener) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_fleet(), name="Dispatcher.follow_fleet")
            self._has_more |= (await self._ledger.queued()).keys()
            while True:
                if self._is_open:
                    await self._refill()
                    if self._is_look_due():
                        await self._place_all(listener, tasks)
                await self._rest()

    def _is_look_due(self) -> bool:
        """With an empty queue there is nothing to decide; only the routes are looked at, when the fleet has changed."""
        now_ms = self._clock.monotonic_ms()
        since_ms = now_ms - self._looked_at_ms
        if len(self._queue):
            is_due = self._has_news or since_ms >= FULL_MS or self._queue.next_delay_ms(now_ms) == 0.0
        else:
            is_due = since_ms >= LOOK_AGAIN_MS
        if is_due or self._is_fleet_new:
            self._has_news, self._is_fleet_new, self._looked_at_ms = False, False, now_ms
            return True
        return False

    async def _follow_fleet(self) -> None:
        while True:
            await self._placement.wait_for_change()
            self._is_fleet_new = True
            self._wake.now()
            await asyncio.sleep(FLEET_PAUSE_S)

    async def _rest(self) -> None:
        delay_ms = self._queue.next_delay_ms(self._clock.monotonic_ms())
        wait_ms = LOOK_AGAIN_MS if delay_ms is None else min(LOOK_AGAIN_MS, delay_ms)
        self._wake.within(max(0.001, wait_ms / 1000.0))
        await self._wake.wait()
        is_quiet = not len(self._queue) and not len(self._attempts) and self._events.is_idle
        if is_quiet and self._clock.monotonic_ms() - self._claimed_at_ms >= LOOK_AGAIN_MS:
            self._claimed.clear()  # rows are the truth: look at all of them again
            self._has_more |= (await self._ledger.queued()).keys()
            self._claimed_at_ms = self._clock.monotonic_ms()

    async def _refill(self) -> None:
        capacity = self._capacity()
        for line in sorted(self._has_more):
            length = self._queue.length(line)
            if length < capacity // 4:
                await self._claim(line, capacity - length)

    def _capacity(self) -> int:
        """Rows of one line that may be in memory: with many models the queue is not to grow with each of them."""
        return max(SHORTEST_LINE, min(LONGEST_LINE, QUEUE_CAPACITY // max(1, len(self._claimed))))

    async def _claim(self, line: Line, limit: int) -> None:
        self._claimed_at_ms = self._clock.monotonic_ms()
        after_seq = self._claimed.get(line, 0)
        rows = await self._ledger.claim(line, limit=limit, after_seq=after_seq)
        in_flight = self._attempts.task_ids()
        now_ms = self._clock.monotonic_ms()
        for task in rows:
            if task.task_id not in self._queue and task.task_id not in in_flight:
                self._queue.add(QueuedTask(task), now_ms)
                self._has_news = True
        self._claimed[line] = rows[-1].seq if rows else after_seq
        if len(rows) < limit:
            self._has_more.discard(line)

    async def _place_all(self, listener: LinkListener, tasks: asyncio.TaskGroup) -> None:
        """Placement calls until nothing more finds a device. The first one of a round also fetches the routes."""
        bite = min(FIRST_BITE, len(self._samples) + 1) if self._full else FIRST_BITE  # each end makes room for one
        models: Sequence[str] | None = None
        openings: dict[str, int] = {}  # model -> how deep in its line the next task is that finds a device
        full: set[str] = set()
        self._full = frozenset()
        while True:
            heads = self._queue.heads(bite, self._clock.monotonic_ms(), models=models)
            if models is not None and not heads and not openings:
                return  # all that waited found a device
            plan = await self._ask(heads)
            if plan is None:
                return
            self._links.follow(plan.routes, listener, tasks)
            waiting = [
                (head.task.model, decision)
                for head, decision in zip(heads, plan.decisions, strict=True)
                if not self._send_out(decision, listener, tasks)
            ]
            stuck = {model: decision.next_opening or 0 for model, decision in waiting}
            asked = Counter(head.task.model for head in heads)
            if models is None:
                self._waits.clear()
            self._waits |= reversed(waiting)  # of each line the first one stays
            full |= {model for model, at in stuck.items() if not at}
            self._full = frozenset(full)
            openings |= {model: at for model, at in stuck.items() if asked[model] == bite < at <= DEEPEST_LOOK}
            models = sorted(asked.keys() - stuck.keys())
            bite = min(LARGEST_BITE, bite * 2)
            if not models and openings:
                deepest = max(openings, key=openings.__getitem__)
                models, bite = [deepest], openings.pop(deepest) + LARGEST_BITE // 4
            if not models:
                return

    async def _ask(self, heads: Sequence[QueuedTask]) -> PlacementPlan | None:
        samples, self._samples = self._samples, []
        ours = self._ledger.ownership
        request = PlacementRequest(
            tasks=[_to_place(head) for head in heads],
            in_flight=self._attempts.snapshot(self._clock.monotonic_ms()),
            finished=samples,
            unreachable=self._links.suspects(),
            strategy=self._strategy,
            asker=Asker(ledger_id=ours.ledger_id, owner_id=ours.owner_id),
            explain=False,
        )
        try:
            plan = await self._placement.place(request)
        except (PeerUnavailable, InvalidInput) as error:  # the latter: a gateway that does not know our strategy
            self._samples = (samples + self._samples)[-MAX_SAMPLES:]
            if not self._is_placement_away:
                log.error("placement.unavailable", extra={"cause": str(error)})
            self._is_placement_away = True
            return None
        if self._is_placement_away:
            log.info("placement.available")
        self._is_placement_away = False
        return plan

    def _send_out(self, decision: Decision, listener: LinkListener, tasks: asyncio.TaskGroup) -> bool:
        """Returns: False if the task has to wait."""
        if decision.device_id is None:
            return False
        link = self._links.open_to(decision.device_id, listener, tasks)
        entry = self._queue.take(decision.task_id) if link else None
        if link is None or entry is None:
            return True  # the device left, or the task was cancelled, while placement was thinking
        if is_overdue(entry.task, self._clock.wall_ms()):
            self._events.add(LedgerEvent(task_id=entry.task.task_id, event=Event.EXPIRED))
            return True
        attempt = OpenAttempt(
            attempt_id=AttemptId(new_id()),
            task=entry.task,
            device_id=decision.device_id,
            started_at_ms=self._clock.monotonic_ms(),
            avoid=entry.avoid,
            promise=decision.promise,
        )
        self._attempts.add(attempt)
        reason = decision.reason()
        self._events.add(
            LedgerEvent(
                task_id=entry.task.task_id,
                event=Event.SENT_OUT,
                attempt_id=attempt.attempt_id,
                device_id=attempt.device_id,
                reason=reason,
            )
        )
        link.dispatch(attempt)
        log.debug(
            "task.dispatched",
            extra={"task_id": entry.task.task_id, "attempt_id": attempt.attempt_id, "reason": reason},
        )
        return True


def _to_place(entry: QueuedTask) -> TaskToPlace:
    task = entry.task
    return TaskToPlace(task_id=task.task_id, model=task.model, size_bytes=task.size_bytes, avoid=entry.avoid)

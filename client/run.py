"""One run of the sender: take up what an interrupted run left, send the rest, wait, and call it complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from client.pictures import Picture
from client.run_journal import Destination, RunJournal
from client.submitter import Acknowledged, Patience, Step, Waiting, submit_all
from client.tally import Tally
from client.waiter import are_known, wait_settled
from edgesched import wire
from edgesched.domain.task import Priority, Task, TaskId

if TYPE_CHECKING:
    from edgesched.spans import Tracing

Show = Callable[[str, int, int, str], None]
"""(stage, how many of it are done, of how many, a remark)"""
Note = Callable[[Picture, TaskId], None]
"""What keeps an acknowledgement for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    destination: Destination
    client_id: str
    in_flight: int
    deadline_s: float | None
    priority: Priority
    give_up_after_s: float
    wait: bool  # until every task has settled


class Run:
    """Sends the pictures that the tally has planned, under the keys that the journal has for them."""

    def __init__(
        self,
        plan: Plan,
        journal: RunJournal,
        tally: Tally,
        *,
        show: Show,
        note: Note,
        tell: Callable[[str], None],
        tracing: Tracing | None = None,
    ) -> None:
        """tell: takes a line for people. tracing: None if it is off."""
        self._plan = plan
        self._journal = journal
        self._tally = tally
        self._show = show
        self._note = note
        self._tell = tell
        self._tracing = tracing

    async def complete(self) -> None:
        """Raises: PeerUnavailable, StorageFailed, NotKnown. Then, as after a crash, the next run resumes this one."""
        target = self._plan.destination.task_manager
        async with grpc.aio.insecure_channel(target, options=wire.CHANNEL_OPTIONS) as channel:
            await self._send_and_wait(channel)
        if not self._plan.wait or self._tally.all_settled:
            await asyncio.to_thread(self._journal.retire)

    async def _send_and_wait(self, channel: grpc.aio.Channel) -> None:
        earlier = await self._earlier(channel)
        self._tally.begin()
        for picture in self._tally.planned:
            if task_id := earlier.get(picture.source):
                self._tally.take_earlier(picture, task_id)
                self._note(picture, task_id)  # the interrupted run may not have come to it
        await self._send(channel, [picture for picture in self._tally.planned if picture.source not in earlier])
        self._tally.end_sending()
        if self._plan.wait:
            await wait_settled(
                channel,
                self._tally.acknowledged,
                on_change=self._on_change,
                timeout_s=self._plan.give_up_after_s,
            )

    async def _earlier(self, channel: grpc.aio.Channel) -> Mapping[str, TaskId]:
        """Tasks of interrupted runs, by the source of their picture, if none of these has to be sent again."""
        inherited = self._journal.inherited
        for path in inherited.damaged:
            self._tell(f"warning: the journal of an interrupted run was damaged; what is readable is used, see {path}")
        if not inherited.is_resumed:
            return {}
        earlier = inherited.acknowledged
        total = len(self._tally.planned)
        self._tell(f"resuming an interrupted run: {len(earlier)} of {total} pictures were acknowledged before")
        # Its ledger may have been lost or replaced since: to skip a picture then would be to lose it.
        if earlier and not await are_known(channel, earlier.values()):
            self._tell("the task manager does not confirm all of them: they are sent again, and none is labelled twice")
            return {}
        return earlier

    async def _send(self, channel: grpc.aio.Channel, pictures: list[Picture]) -> None:
        await submit_all(
            channel,
            pictures,
            model=self._plan.destination.model,
            receiver_url=self._plan.destination.receiver_url,
            client_id=self._plan.client_id,
            in_flight=self._plan.in_flight,
            deadline_s=self._plan.deadline_s,
            priority=self._plan.priority,
            patience=Patience.up_to(self._plan.give_up_after_s),
            key_for=self._journal.key_for,
            on_progress=self._on_step,
            tracing=self._tracing,
        )

    def _on_step(self, step: Step) -> None:
        if isinstance(step, Waiting):
            remark = step.reason
        else:
            self._tally.take(step)
            remark = f"{self._tally.pictures_per_s:.1f} pictures/s"
        if isinstance(step, Acknowledged):
            self._journal.acknowledge(step.submission_key, step.task_id)
            self._note(step.picture, step.task_id)
        self._show("sending", self._tally.answered, len(self._tally.planned), remark)

    def _on_change(self, task: Task) -> None:
        self._tally.learn(task)
        self._show("labels", self._tally.settled, len(self._tally.acknowledged), self._tally.by_state())

"""Writes: whatever waits becomes one transaction, and is answered once that is durable.

A transaction runs on the event loop's own thread. It only fills the operating system's memory, and costs less than the
way to a thread and back. In a thread, each of its statements would moreover let go of the interpreter lock, and wait up
to 5 ms to get it back from a busy loop. What really waits for the disk has a thread, and lets go of the lock once.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

from edgesched.domain.lifecycle import OPEN_STATES
from edgesched.errors import EdgeSchedError, StorageFailed
from edgesched.ledger.base import NowMs
from edgesched.ledger.database import Head, LogFile, fold_log, transaction
from edgesched.ledger.group import Command, Group, RowCache
from edgesched.own_thread import OwnThread

log = logging.getLogger(__name__)

PAUSE_FACTOR = 2.0
SHORTEST_PAUSE_S = 0.005
"""A commit that does not wait for the disk takes so little that each event would get one of its own."""
LONGEST_PAUSE_S = 0.01
"""With eight pictures in flight, longer pauses save CPU but leave workers without work: nothing is won."""
MAX_WAITING = 1_024
"""Commands in the queue; further callers wait for room."""
FOLD_AFTER_ROWS = 4_000
"""Rows that change before the log is folded into the ledger's file: some megabytes, which a start has to go through."""

T = TypeVar("T")
_Waiting = tuple[Command[Any], "asyncio.Future[Any]"]


class Writer:
    """Groups commands while the group before them is made durable.

    `head` is as of the newest commit whose callers have been answered.
    """

    def __init__(
        self,
        thread: OwnThread,
        connection: sqlite3.Connection,
        log_file: LogFile | None,
        head: Head,
        now_ms: NowMs,
    ) -> None:
        """log_file: synced before anybody is answered; None: the operating system does it when it likes."""
        self.head = head
        self._thread = thread
        self._connection = connection
        self._log_file = log_file
        self._now_ms = now_ms
        self._cache = RowCache()
        self._room = asyncio.Semaphore(MAX_WAITING)
        self._waiting: list[_Waiting] = []
        self._is_busy = False
        self._started_at = 0.0  # the latest group
        self._folded_at_row = connection.total_changes
        self._idle = asyncio.Event()
        self._error: EdgeSchedError | None = None
        self._failed = asyncio.Event()

    async def write(self, command: Command[T]) -> T:
        """What command.run returns, once it is durable.

        Raises: what command.run raises; StaleEpoch if there is a newer owner; StorageFailed if the disk refused, now or
        earlier, or after close(). A caller that is cancelled does not take its command back.
        """
        async with self._room:
            if self._error is not None:
                raise _again(self._error)
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[T] = loop.create_future()
            self._waiting.append((command, answer))
            if not self._is_busy:
                self._is_busy = True
                loop.call_soon(self._start_group)  # not at once: whoever else is ready to run now joins the group
            return await answer

    async def until_failed(self) -> NoReturn:
        """Wait for the error after which nothing can be written any more, and raise it: the process must end."""
        await self._failed.wait()
        assert self._error is not None
        raise _again(self._error)

    async def close(self) -> None:
        """Commit what waits, then refuse the rest."""
        while self._is_busy:
            self._idle.clear()
            await self._idle.wait()
        self._error = self._error or StorageFailed("the ledger is closed")

    def _start_group(self) -> None:
        group, self._waiting = self._waiting, []
        if not group:
            self._is_busy = False
            self._idle.set()
            return
        self._started_at = asyncio.get_running_loop().time()
        try:
            head, outcomes = self._commit([command for command, _ in group])
        except Exception as error:  # noqa: BLE001 - a bug included: every caller is told, and the process ends
            self._fail(error, group)
            return
        is_log_long = self._connection.total_changes - self._folded_at_row >= FOLD_AFTER_ROWS
        if is_log_long:
            self._folded_at_row = self._connection.total_changes
        if self._log_file is None and not is_log_long:
            self._answer(group, head, outcomes)
            return
        done = self._thread.call(self._make_durable, is_log_long)
        done.add_done_callback(partial(self._on_durable, group, head, outcomes))

    def _commit(self, commands: Sequence[Command[Any]]) -> tuple[Head, list[Any]]:
        """Returns each command's answer, or its refusal."""
        with transaction(self._connection, "IMMEDIATE"):
            group = Group(self._connection, self._cache, self.head, self._now_ms())
            group.load(commands)
            outcomes = [_outcome(command, group) for command in commands]
            group.end()
        group.trim_cache()
        return group.head, outcomes

    def _make_durable(self, is_log_long: bool) -> None:
        """In the thread. Nobody uses the connection meanwhile."""
        if self._log_file is not None:
            self._log_file.sync()
        if is_log_long:
            fold_log(self._connection)

    def _on_durable(
        self, group: Sequence[_Waiting], head: Head, outcomes: Sequence[Any], done: asyncio.Future[None]
    ) -> None:
        error = done.exception()
        if error is None:
            self._answer(group, head, outcomes)
        else:
            self._fail(error, group)

    def _answer(self, group: Sequence[_Waiting], head: Head, outcomes: Sequence[Any]) -> None:
        self.head = head
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            if answer.done():  # its caller was cancelled
                continue
            if isinstance(outcome, EdgeSchedError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        loop = asyncio.get_running_loop()
        if sum(head.counts[state] for state in OPEN_STATES) <= 1:
            loop.call_soon(self._start_group)  # nobody else is there to wait for
            return
        # A group that starts at once would be small, and the next ones too: what a group costs hardly depends on its
        # size. So commits take a part of the time only, whatever the disk is like.
        pause_s = max(SHORTEST_PAUSE_S, PAUSE_FACTOR * (loop.time() - self._started_at))
        loop.call_later(min(LONGEST_PAUSE_S, pause_s), self._start_group)

    def _fail(self, error: BaseException, group: Sequence[_Waiting]) -> None:
        """Any error here, a bug included, leaves it open what the disk has: only a new start can tell."""
        log.error("ledger.failed", exc_info=error)
        if isinstance(error, EdgeSchedError):
            self._error = error
        else:
            self._error = StorageFailed(f"the ledger cannot be written: {error}")
            self._error.__cause__ = error
        self._failed.set()
        for _, answer in (*group, *self._waiting):
            if not answer.done():
                answer.set_exception(_again(self._error))
        self._waiting = []
        self._is_busy = False
        self._idle.set()


def _outcome(command: Command[Any], group: Group) -> Any:
    try:
        return command.run(group)
    except EdgeSchedError as error:  # it has changed nothing: the others of its group go on
        return error


def _again(error: EdgeSchedError) -> EdgeSchedError:
    """A copy for each caller: an exception that is raised in many places collects all their tracebacks."""
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy

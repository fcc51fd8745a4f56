"""Looks at the workers' memory and CPU: one that takes too much of the first, or none of the second, is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import psutil

from agents.worker_hand import Hand
from agents.worker_plan import MIB, Rules
from edgesched.domain.task import FailureKind

QUIET_CPU_SHARE = 0.01
QUIET_CPU_S = 0.02
"""A process that only says that it lives uses less of a CPU than this share, and two ticks of the kernel's clock."""


class Watched(Protocol):
    """A slot, as far as it is looked at."""

    progress: int
    usage: Usage | None
    hand: Hand

    @property
    def pid(self) -> int | None: ...

    def kill(self, kind: FailureKind, why: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of a worker, with its programs. cpu_used: CPUs' worth since the last look; None at the first."""

    memory_bytes: int
    cpu_used: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Of a child of this process, with all programs below it."""

    memory_bytes: int
    cpu_s: float


@dataclass(slots=True)
class _Seen:
    """What was seen of a worker, and since when it has shown nothing."""

    pid: int
    progress: int
    cpu_s: float
    looked_at: float
    quiet_s: float | None = None  # for so long it has shown nothing; None if it has
    quiet_cpu_s: float = 0.0  # its CPU seconds when that began


async def watch(workers: Sequence[Watched], rules: Rules, check_s: float) -> None:
    """Until cancelled."""
    seen: dict[int, _Seen] = {}
    while True:
        await asyncio.sleep(check_s)
        readings = await asyncio.to_thread(usage_of_children)
        now = asyncio.get_running_loop().time()
        for index, worker in enumerate(workers):
            before = seen.pop(index, None)
            pid = worker.pid
            reading = None if pid is None else readings.get(pid)
            if pid is None or reading is None:
                worker.usage = None
                continue
            after = _Seen(pid, worker.progress, reading.cpu_s, now)
            if before is None or before.pid != pid:
                worker.usage = Usage(memory_bytes=reading.memory_bytes, cpu_used=None)
            else:
                used = max(0.0, after.cpu_s - before.cpu_s) / (now - before.looked_at)
                worker.usage = Usage(memory_bytes=reading.memory_bytes, cpu_used=used)
                _look_for_life(worker, before, after, longest_s=2 * check_s)
            seen[index] = after
            _judge(worker, reading.memory_bytes, after, rules)


def _look_for_life(worker: Watched, before: _Seen, after: _Seen, *, longest_s: float) -> None:
    """Note whether it has shown anything since the last look.

    longest_s: a longer time between two looks is not held against the worker: this daemon did not run either.
    """
    if not worker.hand.jobs or after.progress != before.progress:
        return
    after.quiet_s, after.quiet_cpu_s = 0.0, after.cpu_s
    if before.quiet_s is not None:
        quiet_s = before.quiet_s + min(longest_s, after.looked_at - before.looked_at)
        # Less than before says that a program of its own has ended: that is a sign of life too.
        if abs(after.cpu_s - before.quiet_cpu_s) <= QUIET_CPU_S + QUIET_CPU_SHARE * quiet_s:
            after.quiet_s, after.quiet_cpu_s = quiet_s, before.quiet_cpu_s


def _judge(worker: Watched, memory_bytes: int, seen: _Seen, rules: Rules) -> None:
    if memory_bytes > rules.memory_bytes:
        limit = f"{rules.memory_bytes // MIB} MiB (worker_memory_bytes)"
        used = f"the worker and its programs used {memory_bytes // MIB} MiB of memory"
        why = f"{used}, more than {limit}, so it was replaced"
        worker.kill(FailureKind.WORKER_CRASHED, why)
    elif seen.quiet_s is not None and seen.quiet_s >= rules.zombie_after_s:
        limit = f"{rules.zombie_after_s:g} s (zombie_after_s)"
        why = f"the worker had work and showed neither progress nor CPU time for {limit}, so it was replaced"
        worker.kill(FailureKind.TIMED_OUT, why)


def usage_of_children() -> dict[int, Reading]:
    """By process id. It asks for every process of the machine, so not too often, and not in an event loop."""
    families: dict[int, list[psutil.Process]] = {}
    child_above: dict[int, int] = {}
    for process in psutil.Process().children(recursive=True):  # each one after its parent
        with suppress(psutil.Error):  # it has just ended
            child_above[process.pid] = child_above.get(process.ppid(), process.pid)
            families.setdefault(child_above[process.pid], []).append(process)
    return {
        pid: Reading(memory_bytes=_memory_bytes(family), cpu_s=sum(map(_cpu_s, family)))
        for pid, family in families.items()
    }


def _memory_bytes(family: Sequence[psutil.Process]) -> int:
    """Resident; what several processes share is counted once, where the kernel tells."""
    total = 0
    for process in family:
        with suppress(psutil.Error):
            try:
                total += process.memory_info().rss if len(family) == 1 else process.memory_full_info().pss
            except psutil.AccessDenied:  # a program of another user's
                total += process.memory_info().rss
    return total


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0

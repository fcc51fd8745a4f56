"""Looks at the workers' memory and CPU: one that takes too much of the first, or none of the second, is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    """What one worker takes of the machine. cpu_used: CPUs' worth since the last look; None at the first."""

    memory_bytes: int
    cpu_used: float | None


@dataclass(slots=True)
class _Seen:
    """What was seen of a worker, and since when it has shown nothing."""

    pid: int
    progress: int
    cpu_s: float
    looked_at: float
    quiet_s: float | None = None  # for so long it has shown nothing; None if it has
    tree_cpu_s: float = 0.0  # with the programs that it started, when that began


async def watch(workers: Sequence[Watched], rules: Rules, check_s: float) -> None:
    """Until cancelled."""
    seen: dict[int, _Seen] = {}
    while True:
        await asyncio.sleep(check_s)
        for index, worker in enumerate(workers):
            before = seen.pop(index, None)
            pid = worker.pid
            reading = None if pid is None else _reading(pid)
            if pid is None or reading is None:
                worker.usage = None
                continue
            memory_bytes, cpu_s = reading
            now = asyncio.get_running_loop().time()
            after = _Seen(pid, worker.progress, cpu_s, now)
            if before is None or before.pid != pid:
                worker.usage = Usage(memory_bytes=memory_bytes, cpu_used=None)
            else:
                used = max(0.0, cpu_s - before.cpu_s) / (now - before.looked_at)
                worker.usage = Usage(memory_bytes=memory_bytes, cpu_used=used)
                await _look_for_life(worker, before, after, longest_s=2 * check_s)
            seen[index] = after
            _judge(worker, memory_bytes, after, rules)


async def _look_for_life(worker: Watched, before: _Seen, after: _Seen, *, longest_s: float) -> None:
    """Note whether it has shown anything since the last look. Only of one that has not are the children looked at.

    longest_s: a longer time between two looks is not held against the worker: this daemon did not run either.
    """
    passed_s = min(longest_s, after.looked_at - before.looked_at)
    if not worker.hand.jobs or after.progress != before.progress or _is_active(after.cpu_s - before.cpu_s, passed_s):
        return
    tree_cpu_s = await asyncio.to_thread(_tree_cpu_s, after.pid)
    quiet_s = None if before.quiet_s is None else before.quiet_s + passed_s
    if quiet_s is None or _is_active(tree_cpu_s - before.tree_cpu_s, quiet_s):
        after.quiet_s, after.tree_cpu_s = 0.0, tree_cpu_s
    else:
        after.quiet_s, after.tree_cpu_s = quiet_s, before.tree_cpu_s


def _is_active(cpu_s: float, passed_s: float) -> bool:
    """A negative CPU time says that a program below it has ended: that is a sign of life too."""
    return abs(cpu_s) > QUIET_CPU_S + QUIET_CPU_SHARE * passed_s


def _judge(worker: Watched, memory_bytes: int, seen: _Seen, rules: Rules) -> None:
    if worker.pid != seen.pid:
        return
    if memory_bytes > rules.memory_bytes:
        limit = f"{rules.memory_bytes // MIB} MiB (worker_memory_bytes)"
        why = f"the worker used {memory_bytes // MIB} MiB of memory, more than {limit}, so it was replaced"
        worker.kill(FailureKind.WORKER_CRASHED, why)
    elif seen.quiet_s is not None and seen.quiet_s >= rules.zombie_after_s:
        limit = f"{rules.zombie_after_s:g} s (zombie_after_s)"
        why = f"the worker had work and showed neither progress nor CPU time for {limit}, so it was replaced"
        worker.kill(FailureKind.TIMED_OUT, why)


def _reading(pid: int) -> tuple[int, float] | None:
    """Resident bytes and CPU seconds."""
    try:
        process = psutil.Process(pid)
        return int(process.memory_info().rss), _cpu_s(process)
    except psutil.Error:  # it has just ended
        return None


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all programs below it. Asks for every process of the machine: keep it rare."""
    total_s = 0.0
    try:
        process = psutil.Process(pid)
        total_s += _cpu_s(process)
        for child in process.children(recursive=True):
            total_s += _cpu_s(child)
    except psutil.Error:  # one of them has just ended; the next look tells
        pass
    return total_s

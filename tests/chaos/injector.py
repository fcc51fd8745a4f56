"""Carries the schedule out: several faults may be in force at the same time, on different targets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.child import Child
from tests.chaos.cluster import Cluster
from tests.chaos.link import Link
from tests.chaos.schedule import LINKS, Action, Fault, Kind

FREE_TARGET_S = 6.0
LOOK_EVERY_S = 0.1


@dataclass(slots=True, kw_only=True)
class Injected:
    """One fault that was carried out. Times are wall seconds, as files have them."""

    fault: Fault
    target: str
    began_at: float
    ended_at: float  # started again, thawed or mended; what follows is the product's own recovery

    def __str__(self) -> str:
        lasted_s = self.ended_at - self.began_at
        return f"#{self.fault.number} {self.fault.action} {self.target} ({lasted_s:.1f} s)"


Target = Child | Link | int  # an int is a worker's process id


class Injector:
    def __init__(self, cluster: Cluster, log_path: Path, tell: Callable[[str], None]) -> None:
        """tell: hears of each fault when it has ended."""
        self.injected: list[Injected] = []
        self._cluster = cluster
        self._log_path = log_path
        self._tell = tell
        self._hit: set[Target] = set()  # what a fault is on at the moment
        self._over = asyncio.Event()

    async def run(self, schedule: Iterator[Fault], *, is_over: Callable[[], bool]) -> None:
        """One fault after the other until `is_over`; that ends those in force too."""
        async with asyncio.TaskGroup() as tasks:
            for fault in schedule:
                await asyncio.sleep(fault.after_s)
                if is_over():
                    break
                target = await self._free_target(fault)
                if target is not None:
                    tasks.create_task(self._inject(fault, target), name=str(fault.number))
            self._over.set()

    async def _free_target(self, fault: Fault) -> Target | None:
        """None if there is none for some time. Nothing tells when a process can be hit again, so it is looked at."""
        for _ in range(int(FREE_TARGET_S / LOOK_EVERY_S)):
            if (target := self._choose(fault)) is not None:
                return target
            await asyncio.sleep(LOOK_EVERY_S)
        return None

    def _choose(self, fault: Fault) -> Target | None:
        """One of the targets on which no fault is; None if there is none just now."""
        free = [target for target in self._targets(fault.kind) if target not in self._hit]
        if fault.action is Action.STOP:
            free = [target for target in free if isinstance(target, Child) and target.is_ready]
        return free[int(fault.pick * len(free))] if free else None

    def _targets(self, kind: Kind) -> list[Target]:
        if kind in LINKS:
            return [*self._cluster.links[kind]]
        if kind is Kind.WORKER:
            return [*self._cluster.worker_pids()]
        return [child for child in self._cluster.children[kind] if child.pid is not None]

    async def _inject(self, fault: Fault, target: Target) -> None:
        entry = Injected(fault=fault, target=_name(target), began_at=time.time(), ended_at=0.0)
        self._hit.add(target)
        try:
            match target:
                case Link():
                    await self._break(target, fault)
                case Child():
                    await self._hurt(target, fault)
                case _:
                    await self._hurt_worker(target, fault)
        finally:
            self._hit.discard(target)
            entry.ended_at = time.time()
            self.injected.append(entry)
            self._note(entry)

    async def _hurt(self, child: Child, fault: Fault) -> None:
        if fault.action in (Action.FREEZE, Action.HANG):
            child.freeze()
            await self._lasting(fault)
            child.thaw()
            return
        if fault.action is Action.STOP:
            code = await child.stop()
            if code != 0:
                self._cluster.problems.append(f"{child.name} ended with exit code {code} when told to stop")
        else:
            await child.kill()
        if fault.action is Action.REPLACE:
            self._cluster.empty_disk(child)
        await self._lasting(fault)
        if not (child is self._cluster.sender and self._cluster.completed.is_set()):
            await child.start()

    async def _break(self, link: Link, fault: Fault) -> None:
        match fault.action:
            case Action.CUT:
                link.cut()
            case Action.VANISH:
                link.vanish()
            case _:
                link.stall()
        await self._lasting(fault)
        link.mend()

    async def _hurt_worker(self, pid: int, fault: Fault) -> None:
        """The agent starts another one by itself, so a killed worker's fault ends at once."""
        with contextlib.suppress(ProcessLookupError):
            if fault.action is Action.KILL:
                os.kill(pid, signal.SIGKILL)
                return
            os.kill(pid, signal.SIGSTOP)
            await self._lasting(fault)
            os.kill(pid, signal.SIGCONT)

    async def _lasting(self, fault: Fault) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fault.lasts_s):
                await self._over.wait()

    def _note(self, entry: Injected) -> None:
        began = time.strftime("%H:%M:%S", time.localtime(entry.began_at))
        line = f"{began}.{int(entry.began_at % 1 * 1000):03d} {entry}"
        with self._log_path.open("a") as log:
            log.write(f"{line}\n")
        self._tell(line)


def _name(target: Target) -> str:
    match target:
        case Child():
            return target.name
        case Link():
            return f"link {target.name}"
        case _:
            return f"worker {target}"

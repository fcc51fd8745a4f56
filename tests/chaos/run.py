"""One run: pictures in, faults on everything, and at the end the question whether anything was lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import grpc.aio

from client.waiter import wait_settled
from edgesched.demo.known_pictures import MODEL
from edgesched.domain.task import TaskDetails
from edgesched.errors import EdgeSchedError
from tests.chaos import checks, observe
from tests.chaos.child import NotReady
from tests.chaos.cluster import Cluster
from tests.chaos.injector import Injector
from tests.chaos.pictures import Prepared, prepare
from tests.chaos.plan import Plan
from tests.chaos.report import Ended, Report, summed_up
from tests.chaos.schedule import faults

MOST_S_PER_PICTURE = 2.0
"""What needs longer than that, and a minute, will never be done."""
NEARLY_ALL = 0.9
AUDIT_EVERY_S = 10.0


async def run(plan: Plan, *, tell: Callable[[str], None] = lambda line: None) -> Report:
    """tell: hears what goes on."""
    return await _Run(plan, tell).report()


class _Run:
    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._labels = plan.label_dir / MODEL / "rst"
        self._problems: list[str] = []
        self._tasks: Sequence[TaskDetails] = ()
        self._audit = "skipped: there was no ledger to look at"
        self._audits = 0  # beside the faults
        self._stages: dict[str, float] = {}

    async def report(self) -> Report:
        with self._timed("preparing"):
            plan = self._plan
            prepared = await asyncio.to_thread(
                prepare, plan.picture_dir, count=plan.pictures, seed=plan.seed, models_dir=plan.models_dir
            )
        cluster = Cluster(plan, picture_bytes=prepared.mean_bytes)
        injector = Injector(cluster, plan.directory / "faults.log", self._tell)
        with self._timed("starting"):
            running = cluster.running()
            await running.__aenter__()
        try:
            await self._play(cluster, injector, prepared)
        finally:
            await running.__aexit__(None, None, None)
        await self._audited("after the end")
        return summed_up(
            plan,
            Ended(
                injected=injector.injected,
                tasks=self._tasks,
                delivered_at=self._delivered_at(),
                audit=self._audit,
                audits=self._audits,
                stages=self._stages,
                problems=self._problems,
            ),
        )

    async def _play(self, cluster: Cluster, injector: Injector, prepared: Prepared) -> None:
        await cluster.sender.start()
        with self._timed("faults"):
            await self._disturb(cluster, injector)
        try:
            with self._timed("settling"):
                await cluster.heal()
                await self._settle(cluster, prepared)
        except (NotReady, EdgeSchedError, TimeoutError, aiohttp.ClientError, grpc.aio.AioRpcError) as error:
            self._problems.append(f"the cluster did not recover: {type(error).__name__}: {error}")
        await self._audited("while it ran")
        with self._timed("stopping"):
            codes = await cluster.stop()
        self._problems += [
            f"{name} ended with exit code {code} when told to stop"
            for name, code in codes.items()
            if code and name != cluster.sender.name
        ]
        self._problems += [f"left behind: {command}" for command in cluster.left_behind()]
        self._problems += [*cluster.problems, *checks.check_logs(self._plan.directory / "logs")]

    async def _disturb(self, cluster: Cluster, injector: Injector) -> None:
        """Faults until nearly everything is sent and delivered, or something is wrong already."""
        plan = self._plan

        def is_over() -> bool:
            is_done = cluster.completed.is_set() and self._label_files() >= NEARLY_ALL * plan.pictures
            return is_done or bool(cluster.problems)

        limit_s = 60.0 + MOST_S_PER_PICTURE * plan.pictures
        over = asyncio.Event()
        auditing = asyncio.create_task(self._audit_meanwhile(cluster, over), name="audits")
        try:
            async with asyncio.timeout(limit_s):
                await injector.run(faults(plan), is_over=is_over)
        except TimeoutError:
            self._problems.append(f"the work was not done within {limit_s:.0f} s")
        finally:
            over.set()
            await auditing

    async def _audit_meanwhile(self, cluster: Cluster, over: asyncio.Event) -> None:
        """A ledger and outboxes that change, or whose owner was just killed, are no fault."""
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AUDIT_EVERY_S):
                    await over.wait()
            is_clean, words = await observe.audit(self._plan.ledger_path, self._plan.upload_dir, gateway=cluster.http)
            self._audits += 1
            if not is_clean:
                self._problems.append(f"an audit beside the faults found something: {words}")

    async def _settle(self, cluster: Cluster, prepared: Prepared) -> None:
        """Wait until everything is delivered, and look at everything."""
        plan, problems = self._plan, self._problems
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.settle_s):
                await cluster.completed.wait()
        if not cluster.completed.is_set():
            problems.append(f"the sender did not complete within {plan.settle_s:g} s after the last fault")
            return
        acknowledged, unreadable = checks.read_acknowledged(plan.acknowledged_path)
        client_id = (plan.directory / "sender" / "client_id").read_text().strip()
        async with observe.connected(cluster.grpc) as channel:
            await wait_settled(channel, acknowledged, timeout_s=plan.settle_s)
            full = await observe.full_outboxes(cluster.http)
            tasks = self._tasks = await observe.all_tasks(channel, client_id)
        problems += unreadable
        problems += checks.check_acknowledged(acknowledged, tasks, prepared.labels.keys())
        problems += checks.check_states(tasks)
        problems += checks.check_attempts(tasks)
        problems += checks.check_labels(self._labels, tasks, prepared.labels)
        problems += [f"{device}: {count} outcomes are still in its outbox" for device, count in full.items()]

    async def _audited(self, when: str) -> None:
        with self._timed(f"audit {when}"):
            is_clean, words = await observe.audit(self._plan.ledger_path, self._plan.upload_dir)
        self._audit = words
        if not is_clean:
            self._problems.append(f"the audit {when} found something: {words}")

    def _label_files(self) -> int:
        return sum(1 for path in self._labels.glob("*.json")) if self._labels.is_dir() else 0

    def _delivered_at(self) -> Mapping[str, float]:
        """Wall seconds at which the labels of each picture came: the receiver wrote their file then."""
        found: dict[str, float] = {}
        for details in self._tasks:
            path = self._labels / f"{Path(details.task.file_name).stem}.json"
            if path.is_file():
                found[details.task.file_name] = path.stat().st_mtime
        return found

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self._tell(f"-- {stage}")
        began = time.monotonic()
        try:
            yield
        finally:
            self._stages[stage] = time.monotonic() - began

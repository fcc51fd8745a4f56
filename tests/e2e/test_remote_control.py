"""Operators at the gateway and real boards: workers are stopped, started and killed, and their logs outlive them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.clusters import Cluster, cluster

pytestmark = pytest.mark.slow

WITHIN_S = 30.0
LOOK_EVERY_S = 0.05
WORKER = "rk3588-1-1"


class Operator:
    def __init__(self, session: aiohttp.ClientSession, http: str) -> None:
        self._session = session
        self._url = f"http://{http}/api"

    async def ask(self, path: str) -> Any:
        async with self._session.get(self._url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def tell(self, worker: str, command: str) -> dict[str, Any]:
        """Returns the command once it has ended."""
        async with self._session.post(f"{self._url}/workers/{worker}/command", json={"command": command}) as response:
            assert response.status == 202, await response.text()
            command_id = (await response.json())["command_id"]
        path = f"/v1/commands/{command_id}"
        return await self.until(path, lambda found: found["state"] not in ("pending", "delivered"))

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = await self.ask(path)
                if holds(found):
                    return found
                await asyncio.sleep(LOOK_EVERY_S)  # not to keep two cores busy with asking

    async def worker_is(self, state: str) -> dict[str, Any]:
        found = await self.until(f"/remote-workers/{WORKER}", lambda entry: entry["report"]["state"] == state)
        report: dict[str, Any] = found["report"]
        return report


@asynccontextmanager
async def operated(workspace: Path) -> AsyncIterator[tuple[Operator, Cluster]]:
    async with cluster(workspace, "rk3588") as running, aiohttp.ClientSession() as session:
        yield Operator(session, running.http), running


async def test_workers_of_a_real_board_obey_and_their_log_outlives_it(tmp_path: Path) -> None:
    async with operated(tmp_path) as (operator, running):
        await operator.until("/remote-workers?state=ready", lambda found: len(found["workers"]) == 3)

        assert (await operator.tell(WORKER, "kill"))["state"] == "done"
        killed = await operator.worker_is("stopped")
        assert (killed["pid"], killed["last_exit_code"]) == (None, -signal.SIGKILL)
        assert (await operator.tell(WORKER, "start"))["state"] == "done"
        started = await operator.worker_is("ready")

        assert (await operator.tell("rk3588-1", "restart"))["state"] == "done"
        restarted = await operator.until(
            f"/remote-workers/{WORKER}",
            lambda entry: entry["report"]["state"] == "ready" and entry["report"]["pid"] != started["pid"],
        )
        assert restarted["report"]["last_exit_code"] == 0

        assert (await operator.tell("rk3588-1", "stop"))["state"] == "done"
        device = await operator.until("/devices/rk3588-1", lambda entry: entry["device"]["state"] == "unhealthy")
        assert "an operator stopped its workers" in device["device"]["unhealthy_reason"]

        logs = f"/remote-workers/{WORKER}/logs"
        written = await operator.until(logs, lambda page: len(page["lines"]) > 3)
        running.agents[0].process.kill()
        await running.agents[0].process.wait()
        assert (await operator.ask(logs))["lines"] == written["lines"]

"""How patient the task manager is with a board."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, cast

from edgesched.images.memory import MemoryImageStore
from edgesched.ledger.base import Ownership
from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.device_link import LINK_OPTIONS, DeviceLink, LinkListener, _Ended
from edgesched.v1 import agent_pb2 as pb
from tests.support.fake_boards import FakeBoard, keeps_silent, serving


def test_a_board_that_falls_silent_has_lost_its_tasks_within_ten_seconds() -> None:
    options = dict(LINK_OPTIONS)
    noticed_ms = options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"]

    assert noticed_ms + TaskManagerSettings().reconnect_grace_ms < 10_000


class Quiet:
    """A listener that only notes that the board has said hello."""

    def __init__(self) -> None:
        self.greeted = asyncio.Event()

    async def hello(self, link: DeviceLink, hello: pb.Hello) -> None:
        self.greeted.set()

    def broken(self, link: DeviceLink) -> None:
        pass


class Ending(DeviceLink):
    """The board ends the stream when a test says so."""

    ends: asyncio.Event

    async def _read(self, stream: Any) -> None:
        await self.ends.wait()
        raise _Ended("the board is stopping too")


async def test_a_link_that_is_stopped_in_the_moment_in_which_its_board_stops_ends_as_well() -> None:
    listener = Quiet()
    async with serving(FakeBoard("b1", keeps_silent)) as board:
        link = Ending(
            board.device_id,
            board.address,
            ownership=lambda: Ownership(ledger_id="ledger", owner_id="owner", epoch=1),
            stream_numbers=itertools.count(1),
            images=MemoryImageStore(now_ms=lambda: 0),
            listener=cast(LinkListener, listener),
            attempt_timeout_ms=1_000,
        )
        link.ends = asyncio.Event()
        running = asyncio.create_task(link.run(lambda: False))
        link.want()
        async with asyncio.timeout(10):
            await listener.greeted.wait()
            await asyncio.sleep(0)  # both halves are waiting now
            link.ends.set()
            running.cancel()
            await asyncio.wait({running})
    assert running.cancelled()

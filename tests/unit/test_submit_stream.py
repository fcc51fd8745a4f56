"""The stream of pictures, where only its own manners matter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc.aio

from edgesched.task_manager.service import TaskManagerService
from edgesched.v1 import task_manager_pb2 as pb


async def cut_off() -> AsyncIterator[pb.SubmitRequests]:
    raise grpc.aio.BaseError("Server already stopped.")  # what gRPC says when the server stops under a stream
    yield pb.SubmitRequests()


async def test_a_stream_that_is_open_when_the_server_stops_is_no_crash() -> None:
    nothing = cast(Any, None)  # no picture comes, so nobody is asked
    service = TaskManagerService(nothing, nothing, nothing, nothing)

    assert [reply async for reply in service.SubmitStream(cut_off(), nothing)] == []

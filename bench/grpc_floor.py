"""What gRPC alone takes for a picture: its messages, each by itself, between three processes that do nothing else.

    python -m bench.grpc_floor agent | python -m bench.grpc_floor master --agent HOST:PORT      (the bench starts both)

No ledger, no placement, no delivery: the master passes each picture on, the agent answers with four boxes after a
while, and each side acknowledges as in the product. A task manager with this transport cannot take less for pictures
that come one by one. Many at a time share messages, and take less each: that is what the part `empty` measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import grpc.aio
import uvloop

from bench.cluster import Cost, cost_of, own_cost
from bench.figures import Figure, spread
from bench.setup import Setup
from edgesched import wire
from edgesched.v1 import agent_pb2 as agent
from edgesched.v1 import agent_pb2_grpc as agent_grpc
from edgesched.v1 import task_manager_pb2 as tm
from edgesched.v1 import task_manager_pb2_grpc as tm_grpc
from edgesched.v1 import types_pb2 as types

RATE = 150
"""Pictures per second: about what two workers of the demo model label. CPU per picture hardly depends on it."""
LABEL_MS, COMMIT_MS, POST_MS = 10.0, 3.0, 3.0
"""After which the agent answers, the master acknowledges, and the agent reports delivery: messages come apart."""
BOXES = 4
ROUND_S = 4.0


class Agent(agent_grpc.AgentServicer):
    async def Work(self, requests: AsyncIterator[agent.TaskManagerItems], context: Any) -> None:
        say: asyncio.Queue[agent.FromAgent] = asyncio.Queue()
        later = asyncio.get_running_loop().call_later

        async def listen() -> None:
            async for message in requests:
                for item in message.items:
                    if item.WhichOneof("message") == "chunk":
                        later(LABEL_MS / 1000, say.put_nowait, agent.FromAgent(outcome=_outcome(item.chunk.attempt_id)))
                    elif item.WhichOneof("message") == "outcome_ack":
                        id_ = item.outcome_ack.attempt_id
                        report = agent.DeliveryReport(attempt_id=id_, task_id=id_, delivered=True)
                        later(POST_MS / 1000, say.put_nowait, agent.FromAgent(delivery_report=report))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(listen())
            while True:
                await context.write(agent.AgentItems(items=[await say.get()]))


def _outcome(id_: str) -> agent.Outcome:
    boxes = [types.Detection(class_id=1, label="square", confidence=0.9, x1=1, y1=2, x2=30, y2=40)] * BOXES
    return agent.Outcome(attempt_id=id_, task_id=id_, result=types.Result(detections=boxes, width=640, height=480))


class Master(tm_grpc.TaskManagerServicer):
    def __init__(self, work: Any) -> None:
        """work: the stream to the agent."""
        self._work = work
        self._say: asyncio.Queue[list[agent.FromTaskManager]] = asyncio.Queue()
        self._numbers = itertools.count()

    async def SubmitStream(
        self, requests: AsyncIterator[tm.SubmitRequests], context: Any
    ) -> AsyncIterator[tm.SubmitReplies]:
        async for message in requests:
            for request in message.requests:
                id_ = f"{next(self._numbers):032x}"
                dispatch = agent.Dispatch(
                    attempt_id=id_, task_id=id_, model=request.model, file_name=request.file_name,
                    size_bytes=len(request.image), receiver_url=request.receiver_url,
                )  # fmt: skip
                chunk = agent.Chunk(attempt_id=id_, data=request.image)
                items = [agent.FromTaskManager(dispatch=dispatch), agent.FromTaskManager(chunk=chunk)]
                self._say.put_nowait(items)
                yield tm.SubmitReplies(replies=[tm.SubmitReply(tag=request.tag, task_id=id_)])

    async def write(self) -> None:
        while True:
            await self._work.write(agent.TaskManagerItems(items=await self._say.get()))

    async def read(self) -> None:
        later = asyncio.get_running_loop().call_later
        while message := await self._work.read():
            for item in message.items:
                if item.WhichOneof("message") == "outcome":
                    verdict = agent.OutcomeAck.VERDICT_DELIVER
                    ack = agent.OutcomeAck(attempt_id=item.outcome.attempt_id, verdict=verdict)
                    later(COMMIT_MS / 1000, self._say.put_nowait, [agent.FromTaskManager(outcome_ack=ack)])
                else:
                    delivery_ack = agent.DeliveryAck(attempt_id=item.delivery_report.attempt_id)
                    self._say.put_nowait([agent.FromTaskManager(delivery_ack=delivery_ack)])


async def serve(role: str, agent_address: str | None) -> None:
    """Until the process is told to end."""
    server = grpc.aio.server(options=wire.SERVER_OPTIONS)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        if agent_address is None:
            agent_grpc.add_AgentServicer_to_server(Agent(), server)
        else:
            channel = grpc.aio.insecure_channel(agent_address, options=wire.CHANNEL_OPTIONS)
            stub: Any = agent_grpc.AgentStub(await stack.enter_async_context(channel))
            master = Master(stub.Work())
            tm_grpc.add_TaskManagerServicer_to_server(master, server)
            tasks.create_task(master.write())
            tasks.create_task(master.read())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        await server.wait_for_termination()


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[tuple[int, str]]:
    """Its id and its address."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.grpc_floor", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        yield child.pid, (await child.stdout.readline()).decode().strip()
    finally:
        child.kill()
        await child.wait()


async def grpc_floor(setup: Setup) -> Sequence[Figure]:
    image = setup.pictures()[0].load()
    names = ("master", "agent", "client")
    rounds: list[dict[str, float]] = []
    async with (
        _process("agent") as (agent_pid, agent_address),
        _process("master", "--agent", agent_address) as (master_pid, address),
        grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel,
    ):
        stub: Any = tm_grpc.TaskManagerStub(channel)
        call = stub.SubmitStream()
        reading = asyncio.create_task(_read(call))
        for _ in range(1 + setup.repeat):  # the first one is to warm up
            before = _costs(master_pid, agent_pid)
            sent = await _send(call, image)
            after = _costs(master_pid, agent_pid)
            rounds.append({n: (b.cpu_s - a.cpu_s) * 1000 / sent for n, a, b in zip(names, before, after, strict=True)})
        reading.cancel()
    setting = f"no logic at all, pictures of {len(image) / 1000:.0f} KB one by one, {RATE}/s"
    return [
        Figure(what=f"gRPC alone, CPU per picture, {name}", value=median(values), unit="ms", setting=setting,
               note=spread(values))
        for name in names
        if (values := [one[name] for one in rounds[1:]])
    ]  # fmt: skip


async def _send(call: Any, image: bytes) -> int:
    """Pictures for ROUND_S. Returns: how many."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in range(int(RATE * ROUND_S)):
        await asyncio.sleep(started + number / RATE - loop.time())
        request = tm.SubmitRequest(
            tag=number, model="shapes", file_name="a.jpg", client_id="bench", submission_key=f"{number:032x}",
            receiver_url="http://127.0.0.1:8888", image=image,
        )  # fmt: skip
        await call.write(tm.SubmitRequests(requests=[request]))
    return int(RATE * ROUND_S)


async def _read(call: Any) -> None:
    while await call.read():
        pass


def _costs(master_pid: int, agent_pid: int) -> tuple[Cost, Cost, Cost]:
    return cost_of([master_pid]), cost_of([agent_pid]), own_cost()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("agent", "master"))
    parser.add_argument("--agent", metavar="HOST:PORT", help="of the master's agent")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(options.role, options.agent))


if __name__ == "__main__":
    main()

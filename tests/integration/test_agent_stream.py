"""The agent's gRPC stream, with a real client that plays the task manager."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agents.boards.emulated import EmulatedBoard
from edgesched import wire
from edgesched.domain.device import BoardType, DeviceProfile
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import types_pb2 as types
from tests.support.agent_parts import DEVICE_ID, WITHIN_S, attempts, fake_plan, logged, running_agent

MIB = 1024 * 1024


async def test_a_picture_is_accepted_labelled_and_forgotten_once_it_is_discarded(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        hello = await master.next("hello")
        assert hello.device_id == DEVICE_ID
        assert len(hello.boot_id) == 32
        await master.dispatch("a1")
        assert (await master.next("accepted")).attempt_id == "a1"
        outcome = await master.next("outcome")
        assert (outcome.attempt_id, outcome.task_id) == ("a1", "task-a1")
        assert [d.label for d in outcome.result.detections] == ["label"]
        assert outcome.result.timings.HasField("transfer_ms")
        assert outcome.result.timings.HasField("queued_ms")
        await master.judge("a1", deliver=False)
        await master.fence()
        assert agent.outbox.count == 0


async def test_labels_are_written_soon_once_the_task_manager_is_away(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        with logged("outbox.written") as written:
            async with agent.connected() as master:
                await master.next("hello")
                await master.dispatch("a1")
                await master.next("accepted")
                await master.next("outcome")
            await asyncio.wait_for(written.wait(), WITHIN_S)
        (stored,) = (tmp_path / "outbox").glob("*.jsonl")
        assert b'"a1"' in stored.read_bytes()


async def test_chunks_of_several_pictures_may_be_mixed(tmp_path: Path) -> None:
    pictures = {name: f"measure {name * 400_000}".encode() for name in "ab"}
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for name, data in pictures.items():
            await master.send(
                dispatch=pb.Dispatch(
                    attempt_id=name, task_id=name, model="shapes", size_bytes=len(data), remaining_ms=60_000
                )
            )
        for pair in zip(*(wire.chunks(data) for data in pictures.values()), strict=True):
            for name, chunk in zip(pictures, pair, strict=True):
                await master.send(chunk=pb.Chunk(attempt_id=name, data=bytes(chunk)))
        seen = [await master.receive() for _ in range(4)]
        labels = {m.outcome.attempt_id: m.outcome.result.detections[0].label for m in seen if m.HasField("outcome")}
        assert labels == {name: str(len(data)) for name, data in pictures.items()}


async def test_an_empty_picture_reaches_the_worker(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", b"")
        await master.next("accepted")
        assert (await master.next("outcome")).HasField("result")


async def test_a_failure_is_told_and_kept_until_it_is_judged(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            await master.dispatch("a1", "crash")
            await master.next("accepted")
            failure = (await master.next("outcome")).failure
            assert failure.kind == types.FAILURE_KIND_WORKER_CRASHED
        async with agent.connected(number=2) as master:
            assert attempts((await master.next("hello")).outbox) == {"a1"}
            assert (await master.next("outcome")).failure == failure
            await master.judge("a1", deliver=False)
            await master.fence()
            assert agent.outbox.count == 0


async def test_work_goes_on_when_the_stream_breaks_and_hello_tells_what_is_here(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            await master.dispatch("done")
            await master.next("accepted")
            await master.next("outcome")
            for name in ("running", "waiting"):
                await master.dispatch(name, f"wait {gate}")
                await master.next("accepted")
            await master.dispatch("partial", "ab", size=4)
            await master.fence()
        async with agent.connected(number=2) as master:
            hello = await master.next("hello")
            assert attempts(hello.held) == {"running", "waiting"}
            assert attempts(hello.outbox) == {"done"}
            assert (await master.next("outcome")).attempt_id == "done"
            gate.touch()
            assert {(await master.next("outcome")).attempt_id for _ in range(2)} == {"running", "waiting"}
            await master.dispatch("partial")
            assert (await master.next("accepted")).attempt_id == "partial"
            await master.next("outcome")


async def test_an_outcome_is_told_again_after_each_hello_until_it_is_judged(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            await master.dispatch("a1")
            await master.next("accepted")
            first = await master.next("outcome")
        for number in (2, 3):
            async with agent.connected(number=number) as master:
                await master.next("hello")
                assert await master.next("outcome") == first
        async with agent.connected(number=4) as master:
            await master.next("hello")
            await master.next("outcome")
            await master.judge("a1", deliver=True)  # it names no receiver: the ledger has all that is wanted
            await master.fence()
        async with agent.connected(number=5) as master:
            hello = await master.next("hello")
            assert not hello.outbox
            await master.fence()


async def test_a_repeated_dispatch_changes_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", f"wait {gate}")
        await master.next("accepted")
        await master.dispatch("a1", f"wait {gate}")
        await master.fence()
        gate.touch()
        await master.next("outcome")
        await master.dispatch("a1", f"wait {gate}")
        await master.fence()


async def test_a_newer_stream_ends_the_older_one_and_an_older_one_is_refused(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected(epoch=2, number=5) as old:
        await old.next("hello")
        async with agent.connected(epoch=2, number=6) as new:
            await new.next("hello")
            assert (await old.ended())[0] is grpc.StatusCode.FAILED_PRECONDITION
            for epoch, number in ((2, 5), (2, 6), (1, 9)):
                async with agent.connected(epoch=epoch, number=number) as late:
                    code, details = await late.ended()
                    assert code is grpc.StatusCode.FAILED_PRECONDITION
                    assert "newer" in details or "over" in details
            await new.fence()


async def test_an_older_owner_is_refused_also_after_a_restart_of_the_agent(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected(epoch=7) as master:
        assert (await master.next("hello")).highest_epoch == 7
    async with running_agent(tmp_path) as agent:
        async with agent.connected(epoch=6) as master:
            code, details = await master.ended()
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "epoch 7" in details
            assert (await master.trailing_metadata())["edgesched-highest-epoch"] == "7"
        async with agent.connected(epoch=7) as master:
            await master.next("hello")


async def test_another_ledger_takes_the_stream_but_never_sees_the_others_outcomes(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        async with agent.connected(ledger="one") as master:
            await master.next("hello")
            await master.dispatch("a1")
            await master.next("accepted")
            await master.next("outcome")
            async with agent.connected(ledger="two") as other:
                hello = await other.next("hello")
                assert (await master.ended())[0] is grpc.StatusCode.FAILED_PRECONDITION
                assert not hello.outbox
                assert hello.foreign_outbox_count == 1
                await other.judge("a1", deliver=False)  # not its attempt: ignored
                await other.fence()
        async with agent.connected(ledger="one", number=2) as master:
            hello = await master.next("hello")
            assert attempts(hello.outbox) == {"a1"}


async def test_it_answers_only_to_its_own_name(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected(device_id="somebody-else") as master:
        code, details = await master.ended()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert DEVICE_ID in details


async def test_what_breaks_the_contract_ends_the_stream_and_not_the_agent(tmp_path: Path) -> None:
    chunk = pb.Chunk(attempt_id="a1", data=b"x" * (wire.CHUNK_BYTES + 1))
    a_dispatch = pb.Dispatch(attempt_id="a1", task_id="t1", model="shapes", size_bytes=1, remaining_ms=60_000)
    wrong: list[list[pb.FromTaskManager]] = [
        [pb.FromTaskManager(open=pb.Open(ledger_id="x"))],
        [pb.FromTaskManager()],
        [pb.FromTaskManager(chunk=chunk)],
        [pb.FromTaskManager(probe=pb.Probe(padding=b"x" * 65_537))],
        [pb.FromTaskManager(outcome_ack=pb.OutcomeAck(attempt_id="a1"))],
        [pb.FromTaskManager(dispatch=pb.Dispatch(attempt_id="../etc", task_id="t1"))],
        [pb.FromTaskManager(dispatch=a_dispatch), pb.FromTaskManager(chunk=pb.Chunk(attempt_id="a1", data=b"xy"))],
    ]
    async with running_agent(tmp_path) as agent:
        for number, messages in enumerate(wrong, start=1):
            async with agent.connected(number=number) as master:
                await master.next("hello")
                for message in messages:
                    await master.send_message(message)
                assert (await master.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT
        async with agent.connected(number=100) as master:
            hello = await master.next("hello")
            assert not hello.held
            await master.dispatch("a1")
            await master.next("accepted")


async def test_a_first_message_that_is_not_open_is_refused(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected(ledger="") as master:
        assert (await master.ended())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_chunks_that_nobody_asked_for_are_ignored(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.send(chunk=pb.Chunk(attempt_id="unknown", data=b"x"))
        await master.fence()


async def test_more_than_the_board_can_hold_is_refused_and_the_rest_is_done(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path, workers=1) as agent, agent.connected() as master:
        await master.next("hello")
        window = agent.gateway.registrations[-1]["window_tasks"]
        assert window == 8
        for i in range(2 * window):
            await master.dispatch(f"a{i}", f"wait {gate}")
            await master.next("accepted")
        await master.dispatch("too-much")
        refused = await master.next("outcome")
        assert refused.attempt_id == "too-much"
        assert refused.failure.kind == types.FAILURE_KIND_REFUSED
        assert "full" in refused.failure.message
        gate.touch()
        done = {(await master.next("outcome")).attempt_id for _ in range(2 * window)}
        assert done == {f"a{i}" for i in range(2 * window)}


async def test_bytes_are_bounded_as_well_as_tasks(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", f"wait {gate}")
        await master.next("accepted")
        await master.dispatch("huge", b"", size=129 * MIB)
        refused = await master.next("outcome")
        assert refused.failure.kind == types.FAILURE_KIND_REFUSED
        gate.touch()
        await master.next("outcome")


async def test_a_picture_that_no_worker_can_take_is_invalid(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", b"", size=300 * MIB)
        assert (await master.next("outcome")).failure.kind == types.FAILURE_KIND_INVALID_INPUT


async def test_a_full_outbox_refuses_new_work_and_drops_nothing(tmp_path: Path) -> None:
    async with running_agent(tmp_path, outbox_bytes=100 * 1024) as agent, agent.connected() as master:
        await master.next("hello")
        long_label = "label" + "x" * 60_000
        await master.dispatch("a1", long_label)
        await master.next("accepted")
        await master.next("outcome")
        await master.dispatch("a2")
        refused = await master.next("outcome")
        assert refused.failure.kind == types.FAILURE_KIND_REFUSED
        assert "outbox" in refused.failure.message
        await master.judge("a1", deliver=False)
        await master.fence()
        await master.dispatch("a2")
        await master.next("accepted")


async def test_a_model_that_is_not_here_is_refused(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", model="dogs")
        refused = await master.next("outcome")
        assert refused.failure.kind == types.FAILURE_KIND_REFUSED
        assert "dogs" in refused.failure.message
        await master.fence()  # its chunks were ignored


async def test_an_unhealthy_board_refuses_work_and_says_why(tmp_path: Path) -> None:
    async with running_agent(tmp_path, plan=fake_plan("unavailable")) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1")
        assert "driver is missing" in (await master.next("outcome")).failure.message
        assert (await agent.gateway.beat())["unhealthy_reason"] == "the driver is missing: install it"


async def test_time_runs_out_on_the_board_and_on_the_way_to_it(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("hung", "hang", remaining_ms=100)
        await master.next("accepted")
        assert (await master.next("outcome")).failure.kind == types.FAILURE_KIND_TIMED_OUT
        await master.dispatch("stuck", "ab", size=4, remaining_ms=50)
        outcome = await master.next("outcome")
        assert outcome.attempt_id == "stuck"
        assert "2 of 4 bytes" in outcome.failure.message


async def test_a_cancelled_attempt_that_has_not_started_has_no_outcome(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for name in ("running", "waiting"):
            await master.dispatch(name, f"wait {gate}")
            await master.next("accepted")
        await master.dispatch("arriving", "ab", size=4)
        for name in ("waiting", "arriving", "unknown"):
            await master.send(cancel=pb.Cancel(attempt_id=name))
        await master.fence()
        gate.touch()
        assert (await master.next("outcome")).attempt_id == "running"
        await master.dispatch("last")
        await master.next("accepted")
        assert (await master.next("outcome")).attempt_id == "last"


async def test_a_stopping_agent_finishes_what_it_began_and_hands_back_the_rest(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for name in ("running", "prefetched", "queued"):
            await master.dispatch(name, f"wait {gate}")
            await master.next("accepted")
        agent.stop.set()
        handed_back = await master.next("outcome")
        assert (handed_back.attempt_id, handed_back.failure.kind) == ("queued", types.FAILURE_KIND_REFUSED)
        await master.dispatch("late")
        assert "stopping" in (await master.next("outcome")).failure.message
        gate.touch()
        assert {(await master.next("outcome")).attempt_id for _ in range(2)} == {"running", "prefetched"}
        assert (await master.ended())[0] is grpc.StatusCode.OK


async def test_health_is_served_beside_the_work(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, grpc.aio.insecure_channel(agent.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "edgesched.v1.Agent"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("mbps", [80.0, 160.0])
async def test_an_emulated_link_is_as_slow_as_its_profile_and_is_measured_so(tmp_path: Path, mbps: float) -> None:
    profile = DeviceProfile(slots=1, service_ms=1.0, link_mbps=mbps, round_trip_ms=4.0)
    board = EmulatedBoard(BoardType.RK3588, profile)
    picture = b"measure " + b"x" * 600_000
    async with running_agent(tmp_path, board=board) as agent, agent.connected() as master:
        await master.next("hello")
        await master.dispatch("a1", picture)
        await master.next("accepted")
        timings = (await master.next("outcome")).result.timings
        expected_ms = len(picture) * 8 / mbps / 1000
        assert expected_ms * 0.5 <= timings.transfer_ms <= expected_ms * 5  # the machine may be busy
        beat = await agent.gateway.beat()
        while beat["telemetry"]["link_bandwidth_mbps"] is None:
            beat = await agent.gateway.beat()
        assert mbps / 5 <= beat["telemetry"]["link_bandwidth_mbps"] <= mbps * 2
        assert beat["telemetry"]["link_latency_ms"] >= 4.0

"""Labels on their way to the client's receiver: only when the ledger says so, until it has them, told until noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.result_sender import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_s
from edgesched.rest import MAX_DELIVERY_BATCH
from edgesched.v1 import agent_pb2 as pb
from tests.support.agent_parts import FakeReceiver, Master, listening, running_agent


async def finish(master: Master, attempt: str, url: str | None, text: str = "label") -> None:
    """Have a picture labelled, and read the outcome."""
    await master.dispatch(attempt, text, receiver_url=url)
    await master.next("accepted")
    await master.next("outcome")


async def note(master: Master, attempt: str) -> None:
    await master.send(delivery_ack=pb.DeliveryAck(attempt_id=attempt))
    await master.fence()


async def test_labels_are_delivered_once_the_ledger_says_so_and_reported(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with (
        listening(receiver.app()) as url,
        running_agent(tmp_path) as agent,
        agent.connected() as master,
    ):
        await master.next("hello")
        await finish(master, "a1", f"{url}/hook")
        await master.fence()
        assert receiver.posts.empty()
        await master.judge("a1", deliver=True)
        report = await master.next("delivery_report")
        assert (report.attempt_id, report.task_id, report.delivered) == ("a1", "task-a1", True)
        (item,) = await receiver.next_post()
        assert (item["task_id"], item["attempt_id"]) == ("task-a1", "a1")
        assert (item["model"], item["file_name"]) == ("shapes", "a1.jpg")
        assert item["detections"][0]["label"] == "label"
        assert agent.outbox.count == 1
        await note(master, "a1")
        assert agent.outbox.count == 0


async def test_the_url_is_used_exactly_as_it_was_given(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await finish(master, "a1", f"{url}/a%2Fb/%7Ec?signature=x%2By%3D")
        await master.judge("a1", deliver=True)
        await master.next("delivery_report")
        assert receiver.targets == ["/a%2Fb/%7Ec?signature=x%2By%3D"]


async def test_a_discarded_outcome_is_not_delivered(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for attempt in ("loser", "winner"):
            await finish(master, attempt, url)
        await master.judge("loser", deliver=False)
        await master.judge("winner", deliver=True)
        await master.next("delivery_report")
        assert [item["attempt_id"] for item in await receiver.next_post()] == ["winner"]
        assert receiver.posts.empty()


async def test_a_receiver_that_is_down_gets_its_labels_when_it_is_up(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url:
        pass
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await finish(master, "a1", url)
        await master.judge("a1", deliver=True)
        await master.fence()
        async with listening(receiver.app(), port=int(url.rpartition(":")[2])):
            assert (await master.next("delivery_report")).delivered


async def test_an_answer_that_is_not_a_receivers_is_tried_again(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    receiver.status = 503
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await finish(master, "a1", url)
        await master.judge("a1", deliver=True)
        first = await receiver.next_post()
        receiver.status = 200
        receiver.leave_out = {"task-a1"}
        assert await receiver.next_post() == first
        receiver.leave_out = set()
        assert await receiver.next_post() == first
        assert (await master.next("delivery_report")).delivered


async def test_one_rejected_item_does_not_stop_the_others(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    receiver.reject = {"task-bad"}
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for attempt in ("bad", "good"):
            await finish(master, attempt, url)
        for attempt in ("bad", "good"):
            await master.judge(attempt, deliver=True)
        reports = {(r := await master.next("delivery_report")).attempt_id: r for _ in range(2)}
        assert reports["good"].delivered
        assert not reports["bad"].delivered
        assert "no such client" in reports["bad"].error
        await note(master, "bad")
        await note(master, "good")
        assert agent.outbox.count == 0


async def test_a_url_that_cannot_be_posted_to_is_reported_and_not_tried_for_ever(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for attempt, url in (("a1", "ftp://example"), ("a2", "nonsense")):
            await finish(master, attempt, url)
            await master.judge(attempt, deliver=True)
            report = await master.next("delivery_report")
            assert not report.delivered
            assert url in report.error


async def test_a_dead_receiver_does_not_hold_up_another_one(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as dead:
        pass
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        await finish(master, "a1", dead)
        await finish(master, "a2", url)
        for attempt in ("a1", "a2"):
            await master.judge(attempt, deliver=True)
        assert (await master.next("delivery_report")).attempt_id == "a2"


async def test_a_report_is_told_again_after_each_hello_until_it_is_noted(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            await finish(master, "a1", url)
            await master.judge("a1", deliver=True)
            first = await master.next("delivery_report")
        async with agent.connected(number=2) as master:
            await master.next("hello")
            assert await master.next("delivery_report") == first
            await note(master, "a1")
        async with agent.connected(number=3) as master:
            assert not (await master.next("hello")).outbox
            await master.fence()
        assert len(await receiver.next_post()) == 1
        assert receiver.posts.empty()


async def test_delivery_goes_on_while_the_task_manager_is_away(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url:
        pass
    async with running_agent(tmp_path) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            await finish(master, "a1", url)
            await master.judge("a1", deliver=True)
            await master.fence()
        async with listening(receiver.app(), port=int(url.rpartition(":")[2])):
            await receiver.next_post()
        async with agent.connected(number=2) as master:
            await master.next("hello")
            assert (await master.next("delivery_report")).delivered


async def test_what_collects_while_a_receiver_is_away_comes_in_bounded_batches(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    receiver.status = 503
    count = MAX_DELIVERY_BATCH + 10
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        for i in range(count):
            await finish(master, f"a{i}", url)
            await master.judge(f"a{i}", deliver=True)
        receiver.status = 200
        delivered: set[Any] = {(await master.next("delivery_report")).attempt_id for _ in range(count)}
        assert len(delivered) == count
        assert max(receiver.batches) == MAX_DELIVERY_BATCH


async def test_labels_survive_a_restart_of_the_agent_and_are_then_delivered(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url:
        async with running_agent(tmp_path) as agent, agent.connected() as master:
            await master.next("hello")
            await finish(master, "a1", url)
        async with running_agent(tmp_path) as agent, agent.connected(number=2) as master:
            assert [held.attempt_id for held in (await master.next("hello")).outbox] == ["a1"]
            assert (await agent.gateway.beat())["outbox_count"] == 1
            assert (await master.next("outcome")).result.detections[0].label == "label"
            await master.judge("a1", deliver=True)
            assert (await master.next("delivery_report")).delivered
            await note(master, "a1")
    assert not list((tmp_path / "outbox").glob("*.jsonl"))


def test_pauses_grow_up_to_a_bound_and_vary() -> None:
    assert FIRST_PAUSE_S / 2 <= pause_s(1) <= FIRST_PAUSE_S
    assert all(LONGEST_PAUSE_S / 2 <= pause_s(failures) <= LONGEST_PAUSE_S for failures in (10, 100, 10_000))
    assert len({pause_s(5) for _ in range(10)}) > 1


def test_a_receiver_that_was_away_for_hours_is_served_within_seconds_of_its_return() -> None:
    assert max(pause_s(10_000) for _ in range(1_000)) <= 5.0

"""One trace per picture, from the client to the worker; and nothing at all when tracing is off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import grpc.aio
import pytest

from client.pictures import Picture
from client.submitter import submit_all
from edgesched import tracing, wire
from edgesched.domain.lifecycle import State
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import task_manager_pb2 as tm
from edgesched.v1 import types_pb2 as types
from tests.support.clusters import cluster
from tests.support.fake_boards import FakeBoard, ListedBoards, circle, serving
from tests.support.fake_task_manager import FakeTaskManager, running
from tests.support.senders import run_send_pic
from tests.support.task_managers import Client, small_jpeg, task_manager
from tests.support.traces import Kept, collecting, tree

SERVICES = {"edgesched-client", "edgesched-task-manager", "edgesched-agent", "edgesched-worker"}
RECEIVER = "http://127.0.0.1:1"  # nobody delivers there: the board says that it has
INVALID = 3
NOBODY = "http://127.0.0.1:1"


class TellingBoard(FakeBoard):
    """Says how long everything took, and that it delivered."""

    def __init__(self) -> None:
        super().__init__("b1", self._with_timings)

    @staticmethod
    def _with_timings(dispatch: pb.Dispatch, image: bytes) -> pb.Outcome:
        outcome = circle(dispatch, image)
        told = types.Timings(
            queued_ms=0.1,
            decode_ms=0.2,
            preprocess_ms=0.1,
            infer_ms=0.3,
            postprocess_ms=0.1,
            service_ms=0.8,
            transfer_ms=0.1,
        )
        outcome.result.timings.CopyFrom(told)
        return outcome

    async def deliver(self, count: int) -> None:
        await self.until(lambda: len(self.acks) >= count)
        tasks = {dispatch.attempt_id: dispatch.task_id for dispatch in self.dispatches}
        for ack in self.acks:
            report = pb.DeliveryReport(attempt_id=ack.attempt_id, task_id=tasks[ack.attempt_id], delivered=True)
            self.say(pb.FromAgent(delivery_report=report))


def pictures(count: int) -> list[Picture]:
    def load(number: int) -> bytes:
        return small_jpeg(number)

    return [Picture(source=f"{n}", file_name=f"{n}.jpg", load=lambda n=n: load(n)) for n in range(count)]


async def send(client: Client, count: int, kept: Kept) -> list[str]:
    report = await submit_all(
        client.channel,
        pictures(count),
        model="shapes",
        receiver_url=RECEIVER,
        client_id="me",
        tracing=kept.tracing,
    )
    return [answer.task_id for answer in report.acknowledged]


async def submit(target: str, sent: list[Picture], kept: Kept | None) -> None:
    async with grpc.aio.insecure_channel(target, options=wire.CHANNEL_OPTIONS) as channel:
        await submit_all(
            channel,
            sent,
            model="shapes",
            receiver_url=None,
            client_id="me",
            tracing=kept.tracing if kept else None,
        )


async def test_each_picture_is_one_trace_across_client_task_manager_agent_and_worker(tmp_path: Path) -> None:
    kept = Kept()
    async with serving(TellingBoard()) as board:
        async with task_manager(tmp_path, ListedBoards([board]), spans=kept.tracing) as client:
            task_ids = await send(client, 5, kept)
            assert isinstance(board, TellingBoard)
            await board.deliver(5)
            for task_id in task_ids:
                await client.until(task_id, lambda task: task.state is State.DELIVERED)

    spans = kept.spans()
    traces = {span.trace_id for span in spans}
    assert len(traces) == 5
    for trace_id in traces:
        of_trace = [span for span in spans if span.trace_id == trace_id]
        assert tree(of_trace) == {
            "submit": None,
            "task": "submit",
            "accept": "task",
            "queue": "task",
            "attempt": "task",
            "board": "attempt",
            "transfer": "board",
            "wait": "board",
            "work": "board",
            "decode": "work",
            "preprocess": "work",
            "infer": "work",
            "postprocess": "work",
            "report": "board",
            "delivery": "task",
        }
        assert {span.service for span in of_trace} == SERVICES
        named = {span.name: span for span in of_trace}
        assert named["submit"].attributes["edgesched.task.id"] == named["task"].attributes["edgesched.task.id"]
        assert all(span.started_ns <= span.ended_ns for span in of_trace)
        order = ["accept", "queue", "attempt", "delivery"]
        assert sorted(order, key=lambda name: named[name].started_ns) == order


async def test_a_task_of_an_untraced_client_has_a_trace_of_its_own(tmp_path: Path) -> None:
    kept = Kept()
    async with serving(TellingBoard()) as board:
        async with task_manager(tmp_path, ListedBoards([board]), spans=kept.tracing) as client:
            for _ in range(2):
                await client.until(await client.submit(), lambda task: task.state is State.DONE)

    roots = [span for span in kept.spans() if span.parent_id is None]
    assert [span.name for span in roots] == ["task", "task"]
    assert len({span.trace_id for span in roots}) == 2


async def test_the_same_submission_again_is_not_a_second_task_in_its_trace(tmp_path: Path) -> None:
    kept = Kept()
    async with serving(TellingBoard()) as board:
        async with task_manager(tmp_path, ListedBoards([board]), spans=kept.tracing) as client:
            for _ in range(2):
                task_id = await client.submit(submission_key="once")
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert [span.name for span in kept.spans()].count("task") == 1


async def test_after_a_restart_open_tasks_are_done_without_their_trace(tmp_path: Path) -> None:
    kept = Kept()
    async with task_manager(tmp_path, ListedBoards([]), spans=kept.tracing) as client:
        task_id = await client.submit()
    assert [span.name for span in kept.spans()] == ["accept", "task"]
    async with serving(TellingBoard()) as board:
        async with task_manager(tmp_path, ListedBoards([board]), spans=kept.tracing) as client:
            await client.until(task_id, lambda task: task.state is State.DONE)

    assert [span.name for span in kept.spans()] == ["accept", "task"]


async def test_a_picture_that_is_sent_again_stays_in_its_trace() -> None:
    kept = Kept()
    fake = FakeTaskManager()
    fake.break_after = [2]
    async with running(fake) as server:
        await submit(server.target, pictures(2), kept)

    sent = {request.file_name: request.traceparent for request in fake.received}
    assert len(fake.received) > len(sent) == 2
    assert all(request.traceparent == sent[request.file_name] for request in fake.received)
    assert [span.name for span in kept.spans()] == ["submit", "submit"]


async def test_a_refused_picture_is_an_error_and_a_name_that_is_no_text_does_no_harm() -> None:
    kept = Kept()
    fake = FakeTaskManager()
    fake.refusal_for = lambda request: tm.Refusal(status_code=INVALID, message="not a picture")
    odd = Picture(source="odd", file_name="\udcff.jpg", load=lambda: b"x")
    async with running(fake) as server:
        await submit(server.target, [*pictures(1), odd], kept)

    refused, unreadable = sorted(kept.spans(), key=lambda span: span.attributes["edgesched.picture.name"])
    assert refused.error == "not a picture"
    assert unreadable.error == "its name is not valid UTF-8; rename it"
    assert unreadable.attributes["edgesched.picture.name"] == "?.jpg"


async def test_when_tracing_is_off_nothing_of_it_travels() -> None:
    fake = FakeTaskManager()
    async with running(fake) as server:
        await submit(server.target, pictures(1), None)

    assert not fake.received[0].HasField("traceparent")


# --- whole processes ---


@pytest.mark.slow
async def test_a_collector_gets_every_trace_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "pictures"
    directory.mkdir()
    for number in range(6):
        (directory / f"{number}.jpg").write_bytes(small_jpeg(number))
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        async with cluster(tmp_path, "orin") as whole:
            host, _, port = whole.grpc.rpartition(":")
            target = ["--host", host, "--port", port, "--dir", directory, "--receiver", whole.receiver_url]
            settings = tmp_path / "sender.toml"
            settings.write_text(f'otlp_endpoint = "{collector.endpoint}"\n')
            code, out, err = await run_send_pic(tmp_path, *target, "--wait", "--config", settings)
            assert code == 0, out + err
            wanted = {("edgesched-client", "submit"), ("edgesched-task-manager", "task"), ("edgesched-worker", "infer")}
            await collector.until(lambda: sum(wanted <= names for names in collector.names.values()) == 6)

    assert len(collector.names) == 6
    assert all({service for service, _ in names} == SERVICES for names in collector.names.values())


def test_what_cannot_be_a_collector_is_refused_with_an_example(tmp_path: Path) -> None:
    settings = tmp_path / "task_manager.toml"
    settings.write_text('otlp_endpoint = "collector:4317"\n')
    done = subprocess.run(
        [sys.executable, "-m", "edgesched.task_manager", "--config", str(settings)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "give http://HOST:PORT, like http://192.168.1.5:4317" in done.stderr


async def test_a_collector_that_is_away_delays_nothing_but_the_end_and_that_within_a_bound(tmp_path: Path) -> None:
    async with tracing.opened(NOBODY) as spans, serving(TellingBoard()) as board:
        assert spans is not None
        async with task_manager(tmp_path, ListedBoards([board]), spans=spans) as client:
            await client.until(await client.submit(), lambda task: task.state is State.DONE)
        started_s = time.monotonic()
        await asyncio.to_thread(spans.close)
        assert time.monotonic() - started_s < 10.0  # its bound is 2 s; OpenTelemetry's own would be 30 s


OFF = """
import asyncio, logging, sys
logging.basicConfig(format="%(message)s %(advice)s")
{before}
from edgesched import tracing
import client.send_pic, edgesched.local.master, edgesched.task_manager.app
async def main():
    async with tracing.opened({endpoint!r}) as spans:
        assert spans is None
asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""


def test_off_means_that_nothing_of_opentelemetry_is_imported() -> None:
    code = OFF.format(before="", endpoint=None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_packages_the_work_goes_on_and_a_warning_says_what_to_install() -> None:
    code = OFF.format(before='sys.modules["opentelemetry"] = None', endpoint="http://127.0.0.1:4317")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "tracing.unavailable" in done.stderr
    assert "pip install 'edgesched[otel]'" in done.stderr

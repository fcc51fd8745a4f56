"""Pictures go in as files of a form; pictures and labels come out; people tell tasks what to do."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from edgesched.domain.detection import Detection
from edgesched.domain.lifecycle import State
from edgesched.domain.task import AttemptId, Priority, Result, Task, TaskDetails, TaskId, Timings
from edgesched.errors import IllegalTransition, NotKnown, Overloaded
from gateway.app import listening
from gateway.problems import problems
from gateway.uploads import MAX_PICTURE_BYTES, Uploads
from tests.support.gateways import LOCALHOST, Answer, CannedTasks, GatewayUnderTest, gateway_under_test
from tests.support.task_managers import small_jpeg

PICTURE = small_jpeg()
DETECTION = Detection(class_id=2, label="ring", confidence=0.5, x1=1, y1=2, x2=3, y2=4)
TASK = Task(
    task_id=TaskId("01a1fa4fa2619c7a"),
    seq=1,
    revision=9,
    state=State.DONE,
    client_id="c",
    model="shapes",
    file_name="a.jpg",
    image=None,
    size_bytes=10,
    receiver_url=None,
    created_at_ms=1,
    updated_at_ms=2,
    expires_at_ms=None,
    attempt_id=AttemptId("att-1"),
    device_id=None,
    failed_attempts=0,
    last_error=None,
    priority=Priority.NORMAL,
)
RESULT = Result(detections=(DETECTION,), width=64, height=48, timings=Timings())
DONE = TaskDetails(task=TASK, attempts=(), result=RESULT)
ONE = f"/api/v1/tasks/{TASK.task_id}"


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        gateway.tasks.details = {TASK.task_id: DONE}
        gateway.tasks.pictures = {TASK.task_id: PICTURE}
        yield gateway


async def upload(gateway: GatewayUnderTest, *files: tuple[str, bytes], **fields: str) -> Answer:
    form = aiohttp.FormData(quote_fields=False)  # as browsers do
    for name, value in fields.items():
        form.add_field(name, value)
    for name, data in files:
        form.add_field("file", io.BytesIO(data), filename=name, content_type="image/jpeg")
    async with gateway.session.post(f"{gateway.url}/api/v1/tasks", data=form) as response:
        return Answer(
            status=response.status, body=await response.json(content_type=None), headers=dict(response.headers)
        )


# -- submitting


async def test_every_file_of_a_form_becomes_a_task(gateway: GatewayUnderTest) -> None:
    files = [("a.jpg", PICTURE), ("b.jpg", PICTURE + b"x")]
    answer = await upload(
        gateway, *files, model="shapes", receiver_url="http://h:8888", client_id="me", priority="high"
    )
    assert answer.status == 201
    assert [(r["file_name"], r["task_id"]) for r in answer.body["results"]] == [("a.jpg", "new-1"), ("b.jpg", "new-2")]
    first, second = gateway.tasks.submitted
    assert (first.model, first.file_name, first.image, first.client_id) == ("shapes", "a.jpg", PICTURE, "me")
    assert (first.receiver_url, first.remaining_ms, first.priority) == ("http://h:8888", None, Priority.HIGH)
    assert second.image == PICTURE + b"x"
    assert first.submission_key != second.submission_key


async def test_the_same_key_again_is_the_same_submission(gateway: GatewayUnderTest) -> None:
    for _ in range(2):
        await upload(gateway, ("a.jpg", PICTURE), ("b.jpg", PICTURE), model="shapes", submission_key="k")
    keys = [submission.submission_key for submission in gateway.tasks.submitted]
    assert keys == ["k/0", "k/1", "k/0", "k/1"]


async def test_the_path_that_a_browser_sends_is_not_part_of_the_name(gateway: GatewayUnderTest) -> None:
    await upload(gateway, ("holiday/2026/图 1.jpg", PICTURE), model="shapes")
    assert gateway.tasks.submitted[0].file_name == "图 1.jpg"


async def test_a_field_behind_the_last_file_is_named_and_not_ignored(gateway: GatewayUnderTest) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "shapes")
    for name in ("a.jpg", "b.jpg"):
        form.add_field("file", PICTURE, filename=name)
    form.add_field("priority", "high")
    async with gateway.session.post(f"{gateway.url}/tasks", data=form) as answer:
        first, last = (await answer.json())["results"]
    assert (answer.status, first["task_id"]) == (207, "new-1")
    assert "'priority' came behind the last file" in last["problem"]["detail"]
    assert [submission.file_name for submission in gateway.tasks.submitted] == ["a.jpg"]


async def test_a_field_counts_for_the_files_behind_it(gateway: GatewayUnderTest) -> None:
    form = aiohttp.FormData()
    for name, priority in (("a.jpg", "low"), ("b.jpg", "high")):
        form.add_field("model", "shapes")
        form.add_field("priority", priority)
        form.add_field("file", PICTURE, filename=name)
    async with gateway.session.post(f"{gateway.url}/tasks", data=form) as answer:
        assert answer.status == 201
    assert [submission.priority for submission in gateway.tasks.submitted] == [Priority.LOW, Priority.HIGH]


async def test_a_full_queue_is_429_and_says_when_to_come_back(gateway: GatewayUnderTest) -> None:
    gateway.tasks.refusal = Overloaded("the queue is full", retry_after_ms=1_500)
    answer = await upload(gateway, ("a.jpg", PICTURE), model="shapes")
    assert (answer.status, answer.headers["Retry-After"], answer.body["retry_after_ms"]) == (429, "2", 1_500)
    assert answer.body["results"][0]["problem"]["status"] == 429


async def test_files_are_answered_one_by_one(gateway: GatewayUnderTest) -> None:
    large = b"\xff\xd8\xff" + bytes(MAX_PICTURE_BYTES)
    answer = await upload(gateway, ("large.jpg", large), ("a.jpg", PICTURE), model="shapes")
    assert answer.status == 207
    refused, accepted = answer.body["results"]
    assert (refused["file_name"], refused["task_id"], refused["problem"]["status"]) == ("large.jpg", None, 413)
    assert (accepted["file_name"], accepted["task_id"], accepted["problem"]) == ("a.jpg", "new-1", None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "model is missing"),
        ({"model": "shapes", "remaining_ms": "soon"}, "remaining_ms"),
        ({"model": "shapes", "remaining_ms": "0"}, "remaining_ms"),
        ({"model": "m" * 100}, "model"),
        ({"model": "shapes", "priority": "urgent"}, "priority"),
        ({"model": "shapes", "receiver": "http://h"}, "'receiver'; did you mean 'receiver_url'?"),
        ({"model": "shapes", "client_id": "c" * 200}, "client_id"),
    ],
)
async def test_a_malformed_field_is_named(gateway: GatewayUnderTest, fields: dict[str, str], named: str) -> None:
    answer = await upload(gateway, ("a.jpg", PICTURE), **fields)
    assert answer.status == 400
    assert named in answer.body["detail"]
    assert gateway.tasks.submitted == []


@pytest.mark.parametrize(
    ("content_type", "body", "named"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data", b"x", "form cannot be read"),
        ("multipart/form-data; boundary=b", b"nonsense", "form"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "no file"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: \x0e\r\n\r\nx\r\n--b--\r\n", "form"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx', "form"),
    ],
)
async def test_what_is_no_form_is_400(gateway: GatewayUnderTest, content_type: str, body: bytes, named: str) -> None:
    headers = {"Content-Type": content_type}
    async with gateway.session.post(f"{gateway.url}/tasks", data=body, headers=headers) as response:
        answer = await response.json(content_type=None)
    assert response.status == 400, answer
    assert named in answer["detail"]


async def test_an_upload_that_stalls_is_ended() -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
        await asyncio.Event().wait()

    app = web.Application(middlewares=[problems])
    app.router.add_post("/tasks", Uploads(CannedTasks(), read_timeout_s=0.1).submit)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with (
        listening(app, host=LOCALHOST, http_port=0, browser_port=None) as ports,
        aiohttp.ClientSession() as session,
        session.post(f"http://{LOCALHOST}:{ports.http}/tasks", data=stalls(), headers=headers) as response,
    ):
        assert response.status == 408
        assert "nothing came for 0.1 s" in await response.text()


# -- looking


async def test_a_picture_comes_back_as_it_was_and_may_be_kept(gateway: GatewayUnderTest) -> None:
    async with gateway.session.get(f"{gateway.url}{ONE}/picture") as response:
        assert (response.status, response.content_type, await response.read()) == (200, "image/jpeg", PICTURE)
        headers = response.headers
    assert "immutable" in headers["Cache-Control"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    conditional = {"If-None-Match": headers["ETag"]}
    async with gateway.session.get(f"{gateway.url}{ONE}/picture", headers=conditional) as response:
        assert (response.status, await response.read()) == (304, b"")
    async with gateway.session.head(f"{gateway.url}{ONE}/picture") as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(PICTURE)))


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (b"\x89PNG\r\n\x1a\n..", "image/png"),
        (b"BM..", "image/bmp"),
        (b"RIFF....WEBP", "image/webp"),
        (b"<script>", "application/octet-stream"),
    ],
)
async def test_the_content_type_is_what_the_bytes_are(gateway: GatewayUnderTest, data: bytes, media: str) -> None:
    gateway.tasks.pictures[TASK.task_id] = data
    async with gateway.session.get(f"{gateway.url}{ONE}/picture") as response:
        assert response.content_type == media


async def test_a_picture_that_was_let_go_is_404(gateway: GatewayUnderTest) -> None:
    gateway.tasks.pictures.clear()
    answer = await gateway.call("GET", f"{ONE}/picture")
    assert (answer.status, "was let go" in answer.body["detail"]) == (404, True)


async def test_labels_come_as_a_receiver_gets_them_and_as_a_label_file(gateway: GatewayUnderTest) -> None:
    answer = await gateway.call("GET", f"{ONE}/labels")
    assert (answer.status, answer.body["task_id"], answer.body["attempt_id"]) == (200, TASK.task_id, "att-1")
    assert answer.body["detections"][0]["label"] == "ring"
    answer = await gateway.call("GET", f"{ONE}/labels", format="txt")
    assert (answer.body, answer.headers["Content-Type"]) == ("2 1 2 3 4 0.5\n", "text/plain; charset=utf-8")
    assert (await gateway.call("GET", f"{ONE}/labels", format="xml")).status == 400


async def test_labels_that_are_not_there_are_409_with_the_cause(gateway: GatewayUnderTest) -> None:
    failed = replace(TASK, state=State.FAILED, last_error="worker_error: no luck")
    gateway.tasks.details = {TASK.task_id: TaskDetails(task=failed, attempts=(), result=None)}
    answer = await gateway.call("GET", f"{ONE}/labels")
    assert (answer.status, answer.body["title"]) == (409, "Conflict")
    assert "is failed and has no labels: worker_error: no luck" in answer.body["detail"]


# -- telling


@pytest.mark.parametrize("command", ["cancel", "retry", "abandon"])
async def test_a_task_is_told(gateway: GatewayUnderTest, command: str) -> None:
    answer = await gateway.call("POST", f"{ONE}/{command}")
    assert (answer.status, answer.body["task_id"]) == (200, TASK.task_id)
    assert gateway.tasks.told == [(command, TASK.task_id)]


@pytest.mark.parametrize("command", ["cancel", "retry", "abandon"])
async def test_what_the_state_does_not_allow_is_409(gateway: GatewayUnderTest, command: str) -> None:
    gateway.tasks.refusal = IllegalTransition("task is done: only an open task can be cancelled")
    answer = await gateway.call("POST", f"{ONE}/{command}")
    assert (answer.status, answer.body["detail"]) == (409, "task is done: only an open task can be cancelled")


# -- models


async def test_models_name_the_devices_that_can_run_them(gateway: GatewayUnderTest) -> None:
    (entry,) = (await gateway.call("GET", "/models")).body["models"]
    assert (entry["model"]["name"], entry["devices"]) == ("shapes", [])
    assert (await gateway.call("GET", "/models/shapes")).body["model"]["labels"] == ["circle"]
    answer = await gateway.call("GET", "/models/shape")
    assert (answer.status, "did you mean 'shapes'?" in answer.body["detail"]) == (404, True)


async def test_a_model_that_is_not_known_is_404_for_its_file(gateway: GatewayUnderTest) -> None:
    gateway.tasks.refusal = NotKnown("model 'x' is not in the catalogue; there are: shapes")
    assert (await upload(gateway, ("a.jpg", PICTURE), model="x")).status == 404

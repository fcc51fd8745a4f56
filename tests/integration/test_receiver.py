"""The receiver over HTTP, in this process and as a process of its own that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from client import receiver as receiver_module
from client.label_store import LabelStore, Verdict
from client.receiver import MAX_BODY_BYTES, RunningReceiver, running_receiver
from edgesched.errors import StartupError, StorageFailed
from edgesched.rest import LabelledPicture

SCRIPT = Path(__file__).parents[2] / "client" / "rst_recv.py"
LOCALHOST = "127.0.0.1"


def result(task_id: str, file_name: str = "a.jpg", **changes: object) -> dict[str, object]:
    box = {"class_id": 2, "label": "star", "confidence": 0.5, "x1": 1.0, "y1": 2.0, "x2": 30.5, "y2": 40.25}
    return {
        "task_id": task_id,
        "attempt_id": f"attempt-{task_id}",
        "model": "shapes",
        "file_name": file_name,
        "detections": [box],
        **changes,
    }


async def post(session: aiohttp.ClientSession, url: str, body: object, **arguments: Any) -> tuple[int, dict[str, Any]]:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    async with session.post(url, data=data, **arguments) as response:
        return response.status, await response.json(content_type=None)


def url_of(receiver: RunningReceiver, path: str = "/") -> str:
    return f"http://{LOCALHOST}:{receiver.port}{path}"


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[RunningReceiver]:
    async with running_receiver(tmp_path / "data", host=LOCALHOST, port=0) as started:
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/", "/recv_rst", "/any/where?x=1"])
async def test_labels_are_taken_on_any_path_and_lie_on_disk_when_it_answers(
    receiver: RunningReceiver, session: aiohttp.ClientSession, tmp_path: Path, path: str
) -> None:
    status, reply = await post(session, url_of(receiver, path), {"results": [result("t1", "röd bil.jpg")]})
    assert (status, reply) == (200, {"accepted": ["t1"], "rejected": []})
    folder = tmp_path / "data" / "shapes" / "rst"
    assert (folder / "röd bil.txt").read_text() == "2 1 2 30.5 40.25 0.5\n"
    written = json.loads((folder / "röd bil.json").read_text())
    assert written == result("t1", "röd bil.jpg")


async def test_health_counts_pictures(receiver: RunningReceiver, session: aiohttp.ClientSession) -> None:
    await post(session, url_of(receiver), {"results": [result("t1"), result("t2", model="../up")]})
    await post(session, url_of(receiver), {"results": [result("t1")]})
    async with session.get(url_of(receiver, "/health")) as response:
        assert await response.json() == {"status": "ok", "received": 1, "repeated": 1, "rejected": 1, "failed": 0}


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("PUT", "/"), ("DELETE", "/health")])
async def test_another_method_is_told_which_one_labels_come_by(
    receiver: RunningReceiver, session: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with session.request(method, url_of(receiver, path)) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert "POST" in (await response.json(content_type=None))["detail"]


async def test_a_body_that_comes_in_pieces_is_taken(receiver: RunningReceiver, session: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        body = json.dumps({"results": [result("t1")]}).encode()
        for at in range(0, len(body), 50):
            yield body[at : at + 50]

    status, reply = await post(session, url_of(receiver), pieces())
    assert (status, reply["accepted"]) == (200, ["t1"])


async def test_a_disk_that_nobody_can_tell_the_state_of_breaks_the_receiver(
    receiver: RunningReceiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: LabelStore, items: object) -> list[Verdict]:
        raise StorageFailed("labels cannot be made durable")

    monkeypatch.setattr(LabelStore, "store", broken)
    unanswered = asyncio.create_task(post(session, url_of(receiver), {"results": [result("t1")]}))
    async with asyncio.timeout(10):
        with pytest.raises(StorageFailed, match="cannot be made durable"):
            await receiver.broken
    assert not unanswered.done()
    unanswered.cancel()


async def test_what_waits_for_a_disk_that_hangs_is_bounded_also_when_nobody_waits_for_it_any_more(
    receiver: RunningReceiver, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, works = LabelStore.store, threading.Event()

    def when_it_works(self: LabelStore, items: Sequence[LabelledPicture]) -> list[Verdict]:
        works.wait(timeout=30)
        return store(self, items)

    monkeypatch.setattr(LabelStore, "store", when_it_works)
    monkeypatch.setattr(receiver_module, "STORE_S", 0.05)
    monkeypatch.setattr(receiver_module, "MAX_HELD_BYTES", 3 * receiver_module.SMALLEST_CHARGE_BYTES)
    answers = [await post(session, url_of(receiver), {"results": [result(f"t{n}")]}) for n in range(4)]
    works.set()
    assert [status for status, _ in answers] == [503] * 4
    assert ["too slow" in reply["detail"] for _, reply in answers] == [True, True, True, False]
    monkeypatch.setattr(receiver_module, "STORE_S", 30.0)
    async with asyncio.timeout(10):
        while (await post(session, url_of(receiver), {"results": [result("t9")]}))[0] != 200:
            pass
    assert receiver.counters.received == 4


async def test_a_bad_item_is_rejected_with_its_reason_and_the_others_are_accepted(
    receiver: RunningReceiver, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    swapped_box = {"class_id": 0, "label": "x", "confidence": 0.5, "x1": 9, "y1": 0, "x2": 1, "y2": 1}
    results = [
        result("good1", "1.jpg"),
        result("slash", "../../1.jpg"),
        result("../../id"),
        result("box", detections=[swapped_box]),
        {"task_id": "bare"},
        "not an object",
        result("good2", "2.jpg"),
    ]
    status, reply = await post(session, url_of(receiver), {"results": results})
    assert status == 200
    assert reply["accepted"] == ["good1", "good2"]
    reasons = {item["task_id"]: item["reason"] for item in reply["rejected"]}
    assert set(reasons) == {"slash", "../../id", "box", "bare", ""}
    assert "directory" in reasons["slash"]
    assert "swapped" in reasons["box"]
    assert "results.4: attempt_id" in reasons["bare"]
    assert file_names_below(tmp_path) == ["1.json", "1.txt", "2.json", "2.txt"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"results": 1}', b'{"result": []}', b"\xff", b"[" * 100_000, b'{"results": [NaN'],
    ids=range(8),
)
async def test_what_is_no_delivery_is_a_400_that_says_so(
    receiver: RunningReceiver, session: aiohttp.ClientSession, body: bytes
) -> None:
    async with session.post(url_of(receiver), data=body) as response:
        assert response.status == 400
        assert response.content_type == "application/problem+json"
        assert "the body" in (await response.json(content_type=None))["detail"]


async def test_a_body_over_the_limit_is_a_413(receiver: RunningReceiver, session: aiohttp.ClientSession) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield bytes(2**20)

    async with session.post(url_of(receiver), data=endless()) as response:
        assert response.status == 413
        assert "send fewer results at once" in (await response.json(content_type=None))["detail"]


async def test_a_body_that_says_it_is_over_the_limit_is_refused_unread(receiver: RunningReceiver) -> None:
    reader, writer = await asyncio.open_connection(LOCALHOST, receiver.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_asks_first_whether_to_send_its_body_is_told_to(receiver: RunningReceiver) -> None:
    body = json.dumps({"results": [result("t1")]}).encode()
    reader, writer = await asyncio.open_connection(LOCALHOST, receiver.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_in_mid_body_disturbs_nobody(
    receiver: RunningReceiver, session: aiohttp.ClientSession
) -> None:
    _, writer = await asyncio.open_connection(LOCALHOST, receiver.port)
    writer.write(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"results"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    status, _ = await post(session, url_of(receiver), {"results": [result("t1")]})
    assert status == 200


async def test_many_clients_at_once_each_get_their_own_answer(
    receiver: RunningReceiver, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async def client(number: int) -> None:
        results = [result(f"t{number}-{n}", f"{number}-{n}.jpg") for n in range(5)]
        status, reply = await post(session, url_of(receiver), {"results": [*results, result(f"bad{number}", "/")]})
        assert status == 200
        assert reply["accepted"] == [item["task_id"] for item in results]
        assert [item["task_id"] for item in reply["rejected"]] == [f"bad{number}"]

    await asyncio.gather(*map(client, range(40)))
    assert len(list((tmp_path / "data" / "shapes" / "rst").glob("*.txt"))) == 200


async def test_the_same_delivery_from_two_sides_at_once_is_one_set_of_labels(
    receiver: RunningReceiver, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    replies = await asyncio.gather(
        *(post(session, url_of(receiver), {"results": [result("t1"), result("t2")]}) for _ in range(10))
    )
    assert all(reply == (200, {"accepted": ["t1", "t2"], "rejected": []}) for reply in replies)
    names = sorted(path.name for path in (tmp_path / "data" / "shapes" / "rst").iterdir())
    assert names == ["a.json", "a.t2.json", "a.t2.txt", "a.txt"]
    assert receiver.counters.received == 2
    assert receiver.counters.repeated == 18


async def test_labels_that_the_disk_refuses_are_not_accepted_and_can_be_sent_again(
    receiver: RunningReceiver, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    blocker = tmp_path / "data" / "shapes"
    blocker.write_text("a file where the model's directory should be")
    status, problem = await post(session, url_of(receiver), {"results": [result("t1")]})
    assert status == 500
    assert "send them again" in problem["detail"]
    status, reply = await post(session, url_of(receiver), {"results": [result("t1"), result("t2", model="other")]})
    assert (status, reply) == (200, {"accepted": ["t2"], "rejected": []})
    blocker.unlink()
    status, reply = await post(session, url_of(receiver), {"results": [result("t1")]})
    assert (status, reply["accepted"]) == (200, ["t1"])


async def test_a_taken_port_is_one_clear_sentence(receiver: RunningReceiver, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=rf"port {receiver.port} on {LOCALHOST} is taken; .* --port"):
        async with running_receiver(tmp_path / "other", host=LOCALHOST, port=receiver.port):
            pass


async def test_two_receivers_never_share_a_directory(receiver: RunningReceiver, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="another receiver already writes to"):
        async with running_receiver(tmp_path / "data", host=LOCALHOST, port=0):
            pass


# --- as a process ---


class Process:
    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url


@asynccontextmanager
async def rst_recv(directory: Path) -> AsyncIterator[Process]:
    """The command, ready. It is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "--port", "0", "--dir", str(directory), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("READY http=127.0.0.1:"), line
        yield Process(process, f"http://{line.strip().removeprefix('READY http=')}/")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("kill_after", [1, 40, 150])
async def test_a_receiver_killed_in_mid_batch_loses_nothing_that_it_accepted(
    session: aiohttp.ClientSession, tmp_path: Path, kill_after: int
) -> None:
    accepted: set[str] = set()

    async def client(receiver: Process, number: int) -> None:
        for batch in range(10):
            results = [result(f"t{number}-{batch}-{n}", f"{n}.jpg") for n in range(8)]
            try:
                status, reply = await post(session, receiver.url, {"results": results})
            except aiohttp.ClientError:
                return  # killed
            assert status == 200
            accepted.update(reply["accepted"])
            if len(accepted) >= kill_after and receiver.process.returncode is None:
                receiver.process.send_signal(signal.SIGKILL)

    async with rst_recv(tmp_path) as receiver:
        await asyncio.gather(*(client(receiver, number) for number in range(6)))
    assert kill_after <= len(accepted) < 480, "it was to be killed in the middle"
    assert accepted <= task_ids_on_disk(tmp_path).keys()

    # Everybody sends everything again: what was accepted stays where it was, the rest arrives.
    before = {task_id: names for task_id, names in task_ids_on_disk(tmp_path).items() if task_id in accepted}
    async with rst_recv(tmp_path) as receiver:
        await asyncio.gather(*(client_again(session, receiver, number) for number in range(6)))
        receiver.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await receiver.process.wait() == 0
    after = task_ids_on_disk(tmp_path)
    assert len(after) == 480
    assert before.items() <= after.items()
    assert all(len(names) == 1 for names in after.values()), "a task has two label files"
    assert len(file_names_below(tmp_path)) == 2 * 480
    assert not list((tmp_path / "shapes" / "rst").glob(".*"))


async def client_again(session: aiohttp.ClientSession, receiver: Process, number: int) -> None:
    results = [result(f"t{number}-{batch}-{n}", f"{n}.jpg") for batch in range(10) for n in range(8)]
    status, reply = await post(session, receiver.url, {"results": results})
    assert status == 200
    assert len(reply["accepted"]) == 80


def file_names_below(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.rglob("*") if p.is_file() and not p.name.startswith("."))


def task_ids_on_disk(directory: Path) -> dict[str, list[str]]:
    """Task -> its label files, each read and found whole, with its text beside it."""
    found: dict[str, list[str]] = {}
    for path in (directory / "shapes" / "rst").glob("*.json"):
        labels = json.loads(path.read_text())
        assert path.with_suffix(".txt").read_text() == "2 1 2 30.5 40.25 0.5\n"
        found.setdefault(labels["task_id"], []).append(path.name)
    return found


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_ends_in_good_order_with_a_summary(
    session: aiohttp.ClientSession, tmp_path: Path, signum: signal.Signals
) -> None:
    async with rst_recv(tmp_path / "rst") as receiver:
        await post(session, receiver.url, {"results": [result("t1")]})
        receiver.process.send_signal(signum)
        async with asyncio.timeout(10):
            out, _ = await receiver.process.communicate()
    assert receiver.process.returncode == 0
    assert out.decode().startswith("received 1 pictures, 0 again, 0 rejected in ")
    assert (tmp_path / "rst" / "shapes" / "a.json").exists(), "a second rst directory was made"


async def test_the_command_says_that_its_port_is_taken(receiver: RunningReceiver, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *("--port", str(receiver.port), "--dir", str(tmp_path / "other")),
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert process.returncode == 2
    assert err.decode().strip() == (
        f"edgesched: port {receiver.port} on {LOCALHOST} is taken; stop what uses it, or choose another one with --port"
    )

"""The real worker process, fed over a real socket: from the source tree, and packed as an archive."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.worker.frames import read_frame
from agents.worker_archive import pack_worker
from tests.support.frames import write_frame
from tests.support.graphs import (
    bright_box_graph,
    bright_box_picture,
    channel_means_graph,
    echo_spec,
    encoded,
    spec_for,
)

WITHIN_S = 30.0
SOURCE = [sys.executable, "-m", "agents.worker"]


class WorkerProcess:
    """The daemon's side of one worker."""

    def __init__(self, process: subprocess.Popen[str], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock

    def send(self, kind: str, body: bytes = b"", **fields: Any) -> None:
        write_frame(self.sock, {"type": kind, **fields}, body)

    def configure(self, *specs: dict[str, Any], **fields: Any) -> None:
        defaults = {"threads": 1, "slot": 0, "python_path": [], "heartbeat_interval_ms": 60_000}
        self.send("configure", models=list(specs), **{**defaults, **fields})

    def task(self, body: bytes, model: str = "shapes", attempt_id: str = "a1", **fields: Any) -> None:
        self.send("task", body, attempt_id=attempt_id, model=model, **fields)

    def receive(self, *kinds: str) -> dict[str, Any]:
        """The next frame, which must be of one of these kinds."""
        header, body = read_frame(self.sock)
        while header["type"] == "loading" and "loading" not in kinds:
            header, body = read_frame(self.sock)
        assert header["type"] in kinds, header
        assert body == b""
        return header

    def ended(self) -> tuple[int, str]:
        """Wait for the end; the exit code and stderr."""
        _, errors = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, errors


@contextmanager
def running(command: list[str] | None = None, **options: Any) -> Iterator[WorkerProcess]:
    ours, theirs = socket.socketpair()
    ours.settimeout(WITHIN_S)
    with ours, theirs:
        process = subprocess.Popen(
            [*(command or SOURCE), "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        theirs.close()
        try:
            yield WorkerProcess(process, ours)
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def spec(tmp_path: Path) -> dict[str, Any]:
    return spec_for(bright_box_graph(tmp_path / "shapes.onnx", "yolov8"), "yolov8")


@pytest.fixture
def archive(tmp_path: Path) -> list[str]:
    """The command that runs the package as the daemon packs it."""
    path = tmp_path / "worker.pyz"
    pack_worker(path)
    return [sys.executable, "-I", str(path)]


PICTURE = encoded(bright_box_picture(128, 64, (20, 10, 80, 50)), ".png")
ITS_LABELS = [{"class_id": 1, "label": "square", "confidence": 1.0, "x1": 20.0, "y1": 10.0, "x2": 80.0, "y2": 50.0}]


def emulated(service_ms: float, shared_fraction: float = 0.0) -> dict[str, float]:
    return {"service_ms": service_ms, "shared_fraction": shared_fraction}


def check_one_life(worker: WorkerProcess, spec: dict[str, Any]) -> None:
    """From "configure" to "stop"."""
    worker.configure(spec)
    ready = worker.receive("ready")
    assert ready["pid"] == worker.process.pid
    assert ready["models"] == ["shapes"]
    assert ready["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(ready["versions"]) == {"numpy", "cv2", "onnxruntime"}
    worker.task(PICTURE)
    assert worker.receive("started") == {"type": "started", "attempt_id": "a1"}
    done = worker.receive("done")
    assert done["detections"] == ITS_LABELS
    assert (done["attempt_id"], done["width"], done["height"], done["overrun_ms"]) == ("a1", 128, 64, 0)
    steps_ms = sum(done[step] for step in ("decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms"))
    assert 0 < steps_ms <= done["service_ms"]
    worker.send("stop")
    assert worker.ended() == (0, "")


def test_a_worker_from_the_source_tree(spec: dict[str, Any]) -> None:
    with running() as worker:
        check_one_life(worker, spec)


def test_a_worker_from_an_archive(spec: dict[str, Any], archive: list[str], tmp_path: Path) -> None:
    with running(archive, cwd=tmp_path) as worker:
        check_one_life(worker, spec)


def bomb() -> bytes:
    """A PNG of 100 megapixels in a few hundred kilobytes."""
    return encoded(np.zeros((10_000, 10_000, 1), np.uint8))


def test_a_bad_picture_fails_alone(spec: dict[str, Any]) -> None:
    with running() as worker:
        worker.configure(spec)
        worker.receive("ready")
        jpeg = encoded(bright_box_picture(128, 64, (20, 10, 80, 50)), ".jpg")
        for body, told in (
            (b"", "0 bytes"),
            (b"not a picture", "not a picture"),
            (PICTURE[:-30], "truncated PNG"),
            (jpeg[:-30], "truncated JPEG"),
            (bomb(), "over 64000000 pixels"),
        ):
            worker.task(body)
            worker.receive("started")
            failed = worker.receive("failed")
            assert (failed["attempt_id"], failed["kind"]) == ("a1", "invalid_input")
            assert told in failed["message"]
        worker.task(PICTURE)
        worker.receive("started")
        assert worker.receive("done")["detections"] == ITS_LABELS


def test_a_crash_in_one_task_fails_alone(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(
        "def decode(outputs, model, geometry):\n"
        "    if geometry.original_width == 128:\n"
        "        raise KeyError('wide')\n"
        "    return []\n"
    )
    with running() as worker:
        worker.configure({**spec, "decoder": "moody:decode"})
        worker.receive("ready")
        worker.task(PICTURE)
        worker.receive("started")
        log = worker.receive("log")
        assert (log["level"], log["event"], log["fields"]["attempt_id"]) == ("error", "task.crashed", "a1")
        assert "moody.py" in log["fields"]["traceback"]
        failed = worker.receive("failed")
        assert (failed["kind"], failed["message"]) == ("worker_error", "KeyError: 'wide'")
        worker.task(encoded(bright_box_picture(64, 64, (0, 0, 5, 5))), attempt_id="a2")
        worker.receive("started")
        assert worker.receive("done")["attempt_id"] == "a2"


def test_a_model_that_is_not_loaded_is_the_workers_error(spec: dict[str, Any]) -> None:
    with running() as worker:
        worker.configure(spec)
        worker.receive("ready")
        worker.task(PICTURE, model="cats")
        worker.receive("started")
        worker.receive("log")
        failed = worker.receive("failed")
        assert failed["kind"] == "worker_error"
        assert "'cats' is not loaded here; loaded: shapes" in failed["message"]


def test_want_of_memory_is_reported_and_ends_the_worker(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(
        "def decode(outputs, model, geometry):\n"
        "    if geometry.original_width == 128:\n"
        "        raise MemoryError('no room')\n"
        "    return []\n"
    )
    with running() as worker:
        worker.configure({**spec, "decoder": "hungry:decode"})
        worker.receive("ready")
        worker.task(PICTURE)
        worker.receive("started")
        failed = worker.receive("failed")
        assert (failed["kind"], failed["message"]) == ("worker_error", "MemoryError: no room")
        assert worker.ended() == (4, "")


def test_several_models_in_one_worker(spec: dict[str, Any], tmp_path: Path) -> None:
    means = spec_for(channel_means_graph(tmp_path / "means.onnx"), "classification", name="means")
    with running() as worker:
        worker.configure(spec, means, echo_spec())
        assert worker.receive("ready")["models"] == ["shapes", "means", "nothing"]
        labels = {}
        for model in ("means", "nothing", "shapes"):
            worker.task(PICTURE, model=model)
            worker.receive("started")
            labels[model] = worker.receive("done")
        assert labels["shapes"]["detections"] == ITS_LABELS
        assert labels["means"]["width"] == 128
        assert (labels["nothing"]["detections"], labels["nothing"]["width"]) == ([], None)


def test_it_says_which_model_it_is_about_to_load_so_that_a_crash_has_a_name(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with running() as worker:
        worker.configure(spec, {**spec, "name": "deadly", "decoder": "deadly:decode"}, {**spec, "name": "later"})
        assert worker.receive("loading")["model"] == "shapes"
        assert worker.receive("loading")["model"] == "deadly"
        assert worker.ended()[0] == -signal.SIGSEGV


def test_a_model_that_cannot_be_loaded_is_left_out_and_the_others_work(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "wild.py").write_text("def decode(outputs, model, geometry):\n    raise KeyError('wild')\n")
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    wild = {**spec, "name": "wild", "decoder": "wild:decode"}
    broken = {**spec, "name": "broken", "build": {**spec["build"], "file": "broken.onnx"}}
    with running() as worker:
        worker.configure(broken, spec, wild)
        ready = worker.receive("ready", "log")
        while ready["type"] == "log":
            ready = worker.receive("ready", "log")
        assert ready["models"] == ["shapes"]
        assert list(ready["unavailable_models"]) == ["broken", "wild"]
        assert "KeyError: 'wild'" in ready["unavailable_models"]["wild"]
        worker.task(PICTURE)
        worker.receive("started")
        assert worker.receive("done")["detections"] == ITS_LABELS


def test_without_any_model_the_worker_is_unavailable_and_names_each_reason(spec: dict[str, Any]) -> None:
    gone = [{**spec, "name": name, "build": {**spec["build"], "file": f"{name}.onnx"}} for name in ("cats", "dogs")]
    with running() as worker:
        worker.configure(*gone)
        reason = worker.receive("unavailable")["reason"]
        assert "cats.onnx" in reason
        assert "dogs.onnx" in reason
        assert worker.ended() == (3, "")


def test_a_task_that_was_not_begun_can_be_taken_back() -> None:
    with running() as worker:
        worker.configure(echo_spec(), emulation=emulated(500.0))
        worker.receive("ready")
        worker.task(b"", model="nothing", attempt_id="current")
        assert worker.receive("started")["attempt_id"] == "current"
        for _ in range(3):  # each one leaves room for the next
            worker.task(b"", model="nothing", attempt_id="waiting")
            worker.send("drop", attempt_id="waiting")
            assert worker.receive("dropped")["attempt_id"] == "waiting"
        worker.send("drop", attempt_id="current")  # too late: it is not answered
        worker.task(b"", model="nothing", attempt_id="last")
        assert worker.receive("done")["attempt_id"] == "current"
        assert worker.receive("started")["attempt_id"] == "last"
        assert worker.receive("done")["attempt_id"] == "last"


def test_it_steps_back_for_short_work_with_every_thread() -> None:
    with running([*SOURCE, "--nice", "3"]) as worker:
        worker.configure(echo_spec())
        worker.receive("ready")
        threads = [int(thread.name) for thread in Path(f"/proc/{worker.process.pid}/task").iterdir()]
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {min(19, ours + 3)}


@pytest.mark.parametrize(("least_ms", "overran"), [(80.0, False), (0.0, True)])
def test_emulation_waits_and_counts_overruns(least_ms: float, overran: bool) -> None:
    with running() as worker:
        worker.configure(echo_spec(), emulation=emulated(least_ms))
        worker.receive("ready")
        worker.task(b"anything", model="nothing")
        worker.receive("started")
        done = worker.receive("done")
        assert done["service_ms"] >= least_ms
        assert (done["overrun_ms"] > 0) == overran


def test_tasks_are_answered_in_order_however_many_are_sent_ahead(spec: dict[str, Any]) -> None:
    with running() as worker:
        worker.configure(spec)
        for number in range(8):  # even before "ready"
            worker.task(PICTURE, attempt_id=str(number))
        worker.receive("ready")
        for number in range(8):
            assert worker.receive("started")["attempt_id"] == str(number)
            assert worker.receive("done")["attempt_id"] == str(number)


GATED = """
import os, time
def decode(outputs, model, geometry):
    if geometry.original_width == 128:
        while not os.path.exists(os.path.join(os.path.dirname(__file__), "gate")):
            time.sleep(0.005)
    if geometry.original_width == 13:
        raise MemoryError("no room")
    return [(int(outputs[0][0].argmax()), 0.5, 0, 0, 9, 9)]
"""
COLOURS = {"circle": (0, 0, 255), "square": (0, 255, 0), "star": (255, 0, 0)}  # BGR, by the label of their channel


def plain(label: str, width: int = 40) -> bytes:
    return encoded(np.full((30, width, 3), COLOURS[label], np.uint8))


@contextmanager
def batching(directory: Path) -> Iterator[WorkerProcess]:
    """A ready worker for which batches of two and four are worth while. It has begun a picture "gate", and goes on
    when the file `gate` is there."""
    (directory / "gated.py").write_text(GATED)
    graph = channel_means_graph(directory / "means.onnx", batch="pictures")
    model = spec_for(graph, "gated:decode", resize="stretch", max_batch=4)
    with running() as worker:
        worker.configure(model, {**model, "name": "other"}, emulation=emulated(10.0, 0.9))
        ready = worker.receive("ready")
        assert {name: batches["sizes"] for name, batches in ready["batches"].items()} == {
            "shapes": [1, 2, 4],
            "other": [1, 2, 4],
        }
        assert list(ready["batches"]["shapes"]["curve_ms"]) == ["1", "2", "4"]
        worker.task(plain("circle", 128), attempt_id="gate")
        assert worker.receive("started")["attempt_id"] == "gate"
        yield worker


def open_gate(worker: WorkerProcess, directory: Path) -> None:
    """Let it go on, once everything that was sent is there."""
    worker.task(b"", attempt_id="fence")
    worker.send("drop", attempt_id="fence")
    assert worker.receive("dropped")["attempt_id"] == "fence"
    (directory / "gate").touch()
    done = worker.receive("done")
    assert (done["attempt_id"], done["others_ms"]) == ("gate", 0)


def test_what_waits_is_run_together_and_each_picture_gets_its_own_answer(tmp_path: Path) -> None:
    with batching(tmp_path) as worker:
        bodies = {"a": plain("star"), "b": b"no picture", "c": plain("square"), "d": plain("circle")}
        for attempt_id, body in bodies.items():
            worker.task(body, attempt_id=attempt_id)
        open_gate(worker, tmp_path)
        assert [worker.receive("started")["attempt_id"] for _ in bodies] == ["a", "b", "c", "d"]
        answers = [worker.receive("done", "failed") for _ in bodies]
        assert [answer["attempt_id"] for answer in answers] == ["a", "b", "c", "d"]
        failed = answers.pop(1)
        assert (failed["type"], failed["kind"]) == ("failed", "invalid_input")
        assert [answer["detections"][0]["label"] for answer in answers] == ["star", "square", "circle"]
        whole_ms = {round(answer["service_ms"] + answer["others_ms"], 1) for answer in answers}
        assert max(whole_ms) - min(whole_ms) < 0.2
        assert sum(answer["service_ms"] for answer in answers) == pytest.approx(max(whole_ms), abs=0.2)


def test_only_sizes_that_were_measured_run_and_only_one_model_at_a_time(tmp_path: Path) -> None:
    with batching(tmp_path) as worker:
        for attempt_id, model in (("a", "shapes"), ("x", "other"), ("b", "shapes"), ("c", "shapes"), ("y", "other")):
            worker.task(plain("star"), attempt_id=attempt_id, model=model)
        open_gate(worker, tmp_path)
        for batch in (["a", "b"], ["x", "y"], ["c"]):
            assert [worker.receive("started")["attempt_id"] for _ in batch] == batch
            assert [worker.receive("done")["attempt_id"] for _ in batch] == batch


def test_a_task_that_has_to_be_alone_shares_no_batch(tmp_path: Path) -> None:
    with batching(tmp_path) as worker:
        for attempt_id in ("a", "b", "c"):
            worker.task(plain("star"), attempt_id=attempt_id, is_alone=attempt_id == "b")
        open_gate(worker, tmp_path)
        for batch in (["a", "c"], ["b"]):
            assert [worker.receive("started")["attempt_id"] for _ in batch] == batch
            assert [worker.receive("done")["attempt_id"] for _ in batch] == batch


def test_want_of_memory_in_a_batch_blames_none_of_its_pictures(tmp_path: Path) -> None:
    with batching(tmp_path) as worker:
        worker.task(plain("star"), attempt_id="a")
        worker.task(plain("star", 13), attempt_id="b")
        open_gate(worker, tmp_path)
        assert [worker.receive("started")["attempt_id"] for _ in range(2)] == ["a", "b"]
        log = worker.receive("log")
        assert (log["event"], log["fields"]["pictures"]) == ("batch.out_of_memory", 2)
        with pytest.raises(EOFError):
            read_frame(worker.sock)
        assert worker.ended() == (4, "")


def test_stop_lets_the_current_task_finish_and_starts_no_other() -> None:
    with running() as worker:
        worker.configure(echo_spec(), emulation=emulated(500.0))
        worker.receive("ready")
        worker.task(b"", model="nothing", attempt_id="current")
        worker.receive("started")
        worker.task(b"", model="nothing", attempt_id="next")
        worker.send("stop")
        assert worker.receive("done")["attempt_id"] == "current"
        with pytest.raises(EOFError):
            read_frame(worker.sock)
        assert worker.ended() == (0, "")


def test_stop_may_be_the_first_frame() -> None:
    with running() as worker:
        worker.send("stop")
        assert worker.ended() == (0, "")


def test_heartbeats_come_while_a_task_runs() -> None:
    with running() as worker:
        worker.configure(echo_spec(), heartbeat_interval_ms=20, emulation=emulated(500.0))
        while worker.receive("heartbeat", "ready")["type"] != "ready":
            pass
        worker.task(b"", model="nothing")
        while worker.receive("heartbeat", "started")["type"] != "started":
            pass
        beats = 0
        while worker.receive("heartbeat", "done")["type"] != "done":
            beats += 1
        assert beats >= 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"file": "gone.onnx"}, "gone.onnx: put it there, or correct `file` in model.toml"),
        ({"backend": "abacus"}, "backend 'abacus' is unknown"),
        ({"decoder": "yolov5"}, "decoder yolov5 expects an output of shape"),
        ({"confidence_threshold": 3}, "confidence_threshold must be 0..1"),
    ],
)
def test_a_model_that_cannot_run_makes_the_worker_unavailable(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = bright_box_graph(tmp_path / "shapes.onnx", "yolov8")
    with running() as worker:
        worker.configure(spec_for(path, **{"decoder": "yolov8", **changes}))
        reason = worker.receive("unavailable", "log")
        if reason["type"] == "log":
            reason = worker.receive("unavailable")
        assert reason["reason"].startswith("model 'shapes'")
        assert told in reason["reason"]
        assert worker.ended() == (3, "")


@pytest.mark.parametrize("package", ["onnxruntime", "cv2", "numpy"])
def test_a_missing_package_makes_the_worker_unavailable(spec: dict[str, Any], package: str) -> None:
    hide = f"import sys; sys.modules[{package!r}] = None; from agents.worker.__main__ import main; main()"
    with running([sys.executable, "-c", hide]) as worker:
        worker.configure(spec)
        reason = worker.receive("unavailable")["reason"]
        assert package in reason
        assert "python_path" in reason
        assert worker.ended() == (3, "")


def test_packages_are_found_in_python_path(spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "vendor_of_mine.py").write_text("CLASS = 2")
    (tmp_path / "mine.py").write_text(
        "import vendor_of_mine\n"
        "def decode(outputs, model, geometry): return [(vendor_of_mine.CLASS, 0.5, 0, 0, 9, 9)]\n"
    )
    with running() as worker:
        worker.configure({**spec, "decoder": "mine:decode"}, python_path=[str(tmp_path / "extra")])
        worker.receive("ready")
        worker.task(PICTURE)
        worker.receive("started")
        assert worker.receive("done")["detections"][0]["label"] == "star"
    assert not list(tmp_path.glob("**/__pycache__")), "a model's directory must stay as it was delivered"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\xff" * 8, "over the limit"),
        (b"\x05\0\0\0\0\0\0\0hello", "not UTF-8 JSON"),
        (b"\x0f\0\0\0\0\0\0\0" + b'{"type":"task"}', "must be 'configure', got 'task'"),
        (b"\x0f\0\0\0", "ended inside a frame"),
    ],
)
def test_a_broken_stream_ends_the_worker_with_one_line(raw: bytes, told: str) -> None:
    with running() as worker:
        worker.sock.sendall(raw)
        worker.sock.shutdown(socket.SHUT_WR)
        code, errors = worker.ended()
        assert code == 5
        assert told in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("frame", [{"type": "dance"}, {"type": "task", "model": "nothing"}])
def test_a_frame_that_is_not_understood_ends_the_worker(frame: dict[str, Any]) -> None:
    with running() as worker:
        worker.configure(echo_spec())
        worker.receive("ready")
        write_frame(worker.sock, frame)
        code, errors = worker.ended()
        assert code == 5
        assert "frame" in errors


def test_a_closed_socket_ends_an_idle_worker(spec: dict[str, Any]) -> None:
    with running() as worker:
        worker.configure(spec)
        worker.receive("ready")
        worker.sock.close()
        assert worker.ended() == (0, "")


def test_a_closed_socket_ends_a_worker_in_the_middle_of_a_task() -> None:
    with running() as worker:
        worker.configure(echo_spec(), emulation=emulated(600_000.0))
        worker.receive("ready")
        worker.task(b"", model="nothing")
        worker.receive("started")
        worker.sock.close()
        assert worker.ended() == (0, "")


def test_a_closed_socket_ends_a_worker_whose_inbox_is_full() -> None:
    with running() as worker:
        worker.configure(echo_spec(), heartbeat_interval_ms=50, emulation=emulated(600_000.0))
        for number in range(6):
            worker.task(b"x" * 1000, model="nothing", attempt_id=str(number))
        while worker.receive("ready", "heartbeat", "started")["type"] != "started":
            pass
        worker.sock.close()
        assert worker.ended() == (0, "")


def test_ctrl_c_in_the_terminal_leaves_the_end_to_the_daemon() -> None:
    with running() as worker:
        worker.configure(echo_spec())
        worker.receive("ready")
        worker.process.send_signal(signal.SIGINT)
        worker.task(b"", model="nothing")
        worker.receive("started")
        worker.receive("done")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_parent_takes_the_worker_with_it() -> None:
    """The socket stays open here, in the test: it is the kernel that ends the worker."""
    parent = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'agents.worker', '--fd', sys.argv[1]]\n"
        "print(subprocess.Popen(command, pass_fds=[int(sys.argv[1])]).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    ours, theirs = socket.socketpair()
    ours.settimeout(WITHIN_S)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", parent, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            watched = os.pidfd_open(int(process.stdout.readline()))
            write_frame(ours, {"type": "configure", "models": [echo_spec()], "heartbeat_interval_ms": 60_000})
            assert [read_frame(ours)[0]["type"] for _ in range(2)] == ["loading", "ready"]
        finally:
            process.kill()
            process.communicate()
        ended, _, _ = select.select([watched], [], [], WITHIN_S)
        os.close(watched)
        assert ended, "the worker outlived its parent"

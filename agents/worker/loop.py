"""A worker's life: configure, load, then one picture after the other until the daemon stops it or is gone.

Exit codes: 0 stopped, or the daemon is gone; 1 a bug; 3 no model can run here (the "unavailable" frame says why);
4 out of memory; 5 the stream from the daemon is broken (stderr says how).

Nothing here needs numpy or OpenCV: the directories where they lie come with the "configure" frame.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

from .emulation import Emulation
from .errors import FrameError, InvalidInput, WorkerError, traceback_of
from .frames import encoded, read_frame
from .spec import Configure, parse_configure

if TYPE_CHECKING:
    from .model import Answer, Model, Outcome

EXIT_OK = 0
EXIT_BUG = 1
EXIT_UNAVAILABLE = 3
EXIT_OUT_OF_MEMORY = 4
EXIT_BROKEN_STREAM = 5

PREFETCH = 2  # batches that wait in the worker, so that compute never waits for its next pictures
MAX_MESSAGE_CHARS = 2_000
PIP_NAMES = {"cv2": "opencv-python-headless"}


def run(sock: socket.socket) -> NoReturn:
    """Serve the daemon at the other end of the socket; ends the process."""
    channel = Channel(sock)
    threading.excepthook = _end_on_crash
    configure = _configured(channel)
    inbox = Inbox(channel)
    pace = threading.Thread(target=_heartbeats, args=(channel, configure), name="heartbeat", daemon=True)
    reader = threading.Thread(target=inbox.fill, name="reader", daemon=True)
    for thread in (pace, reader):
        thread.start()
    models = _open_models(configure, channel)
    inbox.batch_sizes = {name: model.batch_sizes for name, model in models.items()}
    while True:
        tasks = inbox.next()
        if not tasks:
            break
        _perform(tasks, models, channel, configure.emulation)
        if inbox.is_empty:  # else the answer leaves with the next task's "started": one wake-up of the daemon less
            channel.flush()
    channel.flush()
    for model in models.values():
        model.close()
    _leave(EXIT_OK)


class Channel:
    """The socket to the daemon: whole frames, out from any thread, in from one.

    A daemon that has closed its end ends the process at once, whatever else goes on: nobody would read the answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._writing = threading.Lock()
        self._held: List[bytes] = []
        self._exit_code = EXIT_OK

    def send(self, header: Mapping[str, Any]) -> None:
        """Send one frame without a body, and what was held. Raises: FrameError if it is too large."""
        self.hold(header)
        self.flush()

    def hold(self, header: Mapping[str, Any]) -> None:
        """Send one frame with the next one, or with `flush`. Raises: FrameError if it is too large."""
        frame = encoded(header)
        with self._writing:
            self._held.append(frame)

    def flush(self) -> None:
        """Send what is held."""
        with self._writing:
            try:
                if self._held:
                    self._sock.sendall(b"".join(self._held))
                    self._held.clear()
            except ConnectionError:
                _leave(self._exit_code)

    def receive(self) -> Tuple[Dict[str, Any], bytearray]:
        """Wait for the next frame."""
        try:
            return read_frame(self._sock)
        except EOFError:
            _leave(self._exit_code)
        except FrameError as error:
            self.refuse(str(error))

    def log(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        """Hand one log record to the daemon, which writes it. level: info, warning or error."""
        self.send({"type": "log", "level": level, "event": event, "fields": dict(fields)})

    def refuse(self, why: str) -> NoReturn:
        """Give up on a daemon that does not keep to the protocol."""
        _complain(why)
        _leave(EXIT_BROKEN_STREAM)

    def end(self, header: Mapping[str, Any], exit_code: int) -> NoReturn:
        """Send the last frame and leave, with this code even if the daemon hangs up first."""
        self._exit_code = exit_code
        self.send(header)
        _leave(exit_code)


@dataclass(frozen=True, eq=False)
class Task:
    """One picture to look at. body: as encoded. is_alone: it may be dangerous, so it is never put into a batch."""

    attempt_id: str
    model: str
    is_alone: bool
    body: bytearray


class Inbox:
    """The tasks that came and were not started. One thread fills it, the main thread empties it."""

    def __init__(self, channel: Channel) -> None:
        self.batch_sizes: Mapping[str, Sequence[int]] = {}
        """Model -> how many pictures to run together, rising; one, if it is not here."""
        self._channel = channel
        self._tasks: Deque[Task] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False

    def fill(self) -> None:
        """Read frames for ever; the end of the stream ends the process from here."""
        while True:
            header, body = self._channel.receive()
            if header["type"] == "task":
                self._put(self._parsed(header, body))
            elif header["type"] == "drop":
                self._drop(header.get("attempt_id"))
            elif header["type"] == "stop":
                with self._changed:
                    self._is_stopping = True
                    self._changed.notify_all()
            else:
                self._channel.refuse(f"a worker does not understand a {header['type']!r} frame")

    @property
    def is_empty(self) -> bool:
        return not self._tasks

    def next(self) -> Sequence[Task]:
        """Wait for the next task, and take those with it that are here now and may share its batch.

        Returns: none once the daemon said stop, even if tasks are left.
        """
        with self._changed:
            while not (self._tasks or self._is_stopping):
                self._changed.wait()
            if self._is_stopping:
                return ()
            batch = self._batch()
            self._changed.notify_all()
            return batch

    def _batch(self) -> Sequence[Task]:
        first = self._tasks[0]
        sizes = self.batch_sizes.get(first.model, (1,))
        if len(self._tasks) == 1 or len(sizes) == 1 or first.is_alone:
            return (self._tasks.popleft(),)
        alike = [task for task in self._tasks if task.model == first.model and not task.is_alone]
        batch = alike[: max(size for size in sizes if size <= len(alike))]
        self._tasks = deque(task for task in self._tasks if task not in batch)
        return batch

    def _put(self, task: Task) -> None:
        with self._changed:
            while len(self._tasks) >= PREFETCH * max(map(max, self.batch_sizes.values()), default=1):
                self._changed.wait()
            self._tasks.append(task)
            self._changed.notify_all()

    def _drop(self, attempt_id: object) -> None:
        """Give a task back. Only one that was not begun is answered: "started" is the answer for any other."""
        with self._changed:
            count = len(self._tasks)
            self._tasks = deque(task for task in self._tasks if task.attempt_id != attempt_id)
            is_dropped = len(self._tasks) < count
        if is_dropped:
            self._channel.send({"type": "dropped", "attempt_id": attempt_id})

    def _parsed(self, header: Mapping[str, Any], body: bytearray) -> Task:
        try:
            is_alone = bool(header.get("is_alone", False))
            return Task(attempt_id=header["attempt_id"], model=header["model"], is_alone=is_alone, body=body)
        except KeyError as error:
            self._channel.refuse(f"a task frame lacks a key: {error!r}")


def _configured(channel: Channel) -> Configure:
    header, _ = channel.receive()
    if header["type"] == "stop":  # the daemon was stopped while it started
        _leave(EXIT_OK)
    if header["type"] != "configure":
        channel.refuse(f"the first frame must be 'configure', got {header['type']!r}")
    try:
        configure = parse_configure(header)
    except InvalidInput as error:
        channel.end({"type": "unavailable", "reason": str(error)}, EXIT_UNAVAILABLE)
    sys.path.extend(configure.python_path)
    return configure


def _heartbeats(channel: Channel, configure: Configure) -> None:
    """Show that the process lives, from before the models are loaded until it ends."""
    never = threading.Event()
    while not never.wait(configure.heartbeat_interval_ms / 1000):
        channel.send({"type": "heartbeat"})


def _open_models(configure: Configure, channel: Channel) -> Dict[str, Model]:
    """Load and warm up every model that can be, and say "ready"; or say "unavailable" and leave, if none can."""
    models: Dict[str, Model] = {}
    reasons: Dict[str, str] = {}
    try:
        import cv2

        from .model import open_model, versions_of
    except ImportError as error:
        package = error.name or "a package"
        reason = (
            f"the Python package {package!r} cannot be imported by {sys.executable} ({error}): install "
            f"{PIP_NAMES.get(package, package)} for that interpreter, or name its directory in python_path"
        )
        channel.end({"type": "unavailable", "reason": reason[:MAX_MESSAGE_CHARS]}, EXIT_UNAVAILABLE)
    cv2.setNumThreads(configure.models[0].threads)  # workers share the cores; OpenCV would take them all
    for spec in configure.models:
        channel.send({"type": "loading", "model": spec.name})  # a vendor's library that crashes now names nobody
        try:
            models[spec.name] = open_model(spec, channel.log, configure.emulation)
        except WorkerError as error:
            reasons[spec.name] = str(error)[:MAX_MESSAGE_CHARS]
    if not models:
        reason = "; ".join(reasons.values())
        channel.end({"type": "unavailable", "reason": reason[:MAX_MESSAGE_CHARS]}, EXIT_UNAVAILABLE)
    ready = {"type": "ready", "pid": os.getpid(), "python": platform.python_version()}
    batches = {
        name: {"sizes": list(model.batch_sizes), "curve_ms": model.batch_curve}
        for name, model in models.items()
        if model.batch_curve
    }
    loaded = {"models": list(models), "unavailable_models": reasons, "batches": batches}
    channel.send({**ready, "versions": versions_of(list(models.values())), **loaded})
    return models


def _perform(
    tasks: Sequence[Task], models: Mapping[str, Model], channel: Channel, emulation: Optional[Emulation]
) -> None:
    """Do tasks for one model together, and answer each with "done" or "failed"; only want of memory ends the worker."""
    for task in tasks:
        channel.hold({"type": "started", "attempt_id": task.attempt_id})
    channel.flush()
    began = time.perf_counter()
    model = models.get(tasks[0].model)
    outcomes: Sequence[Outcome]
    try:
        if model is not None:
            outcomes = model.run_batch([task.body for task in tasks])
        else:
            missing = WorkerError(f"model {tasks[0].model!r} is not loaded here; loaded: {', '.join(models)}")
            outcomes = [missing] * len(tasks)
    except MemoryError as error:
        _end_without_memory(tasks, error, channel)
    except Exception as error:  # noqa: BLE001 - a backend of a user's own may raise anything
        outcomes = [error] * len(tasks)
    answers = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    overrun_ms = emulation.wait(len(tasks), began) if answers and emulation is not None else 0.0
    took_ms = 1000 * (time.perf_counter() - began)
    shared_ms = (took_ms - sum(answer.work_ms for answer in answers)) / max(1, len(answers))
    for index, task in enumerate(tasks):
        outcome = outcomes[index]
        try:
            if isinstance(outcome, Exception):
                raise outcome
            service_ms = outcome.work_ms + shared_ms
            channel.hold(_done(task, outcome, service_ms, took_ms - service_ms, overrun_ms / len(answers)))
        except InvalidInput as error:
            channel.hold(_failed(task, "invalid_input", str(error)))
        except MemoryError as error:
            _end_without_memory([task], error, channel)
        except Exception as error:  # noqa: BLE001 - vendors' libraries and users' decoders raise anything
            fields = {"attempt_id": task.attempt_id, "model": task.model, "traceback": traceback_of(error)}
            channel.log("error", "task.crashed", fields)
            channel.hold(_failed(task, "worker_error", f"{type(error).__name__}: {error}"))


def _end_without_memory(tasks: Sequence[Task], error: MemoryError, channel: Channel) -> NoReturn:
    """One task is to blame for it. Of several nobody knows which: the daemon tries each one alone."""
    if len(tasks) == 1:
        channel.end(_failed(tasks[0], "worker_error", f"MemoryError: {error}"), EXIT_OUT_OF_MEMORY)
    fields = {"model": tasks[0].model, "pictures": len(tasks), "reason": str(error)}
    channel.end({"type": "log", "level": "error", "event": "batch.out_of_memory", "fields": fields}, EXIT_OUT_OF_MEMORY)


def _done(task: Task, answer: Answer, service_ms: float, others_ms: float, overrun_ms: float) -> Dict[str, Any]:
    """The "done" header.

    service_ms: this picture's part of the time that its batch took; all parts together are that time. So they tell
        placement how fast the board works, and how busy it is; if each picture claimed all of the time, a board that
        works in batches would look as slow as one that does not.
    others_ms: the parts of the others in the batch, in which this one waited.
    """
    return {
        "type": "done",
        "attempt_id": task.attempt_id,
        "detections": answer.detections,
        "width": answer.width,
        "height": answer.height,
        "decode_ms": round(answer.decode_ms, 3),
        "preprocess_ms": round(answer.preprocess_ms, 3),
        "infer_ms": round(answer.infer_ms, 3),
        "postprocess_ms": round(answer.postprocess_ms, 3),
        "service_ms": round(service_ms, 3),
        "others_ms": round(max(0.0, others_ms), 3),
        "overrun_ms": round(overrun_ms, 3),
    }


def _failed(task: Task, kind: str, message: str) -> Dict[str, Any]:
    message = message[:MAX_MESSAGE_CHARS]
    return {"type": "failed", "attempt_id": task.attempt_id, "kind": kind, "message": message}


def _end_on_crash(crash: Any) -> None:
    """A thread that dies takes the process with it: without its reader a worker would hang for ever."""
    _complain("".join(traceback.format_exception(crash.exc_type, crash.exc_value, crash.exc_traceback)))
    _leave(EXIT_OUT_OF_MEMORY if issubclass(crash.exc_type, MemoryError) else EXIT_BUG)


def _complain(text: str) -> None:
    print(f"worker {os.getpid()}: {text}", file=sys.stderr, flush=True)


def _leave(exit_code: int) -> NoReturn:
    """End now: threads that wait and vendors' exit handlers, which crash, have no say any more."""
    sys.stderr.flush()
    os._exit(exit_code)

"""The user's own program, or a container: pictures in as files, labels out as files.

It is told where by its environment. Two forms, as `build.options` has it:

`start_cmd`: one program that runs for as long as the worker does. It finds pictures below INPUT_DIR, in
`_sub_reqs_ready/<SERVICE_NAME>/<number>__<id>/<client>/`, and for `<client>/<stem>.jpg` it writes
`OUTPUT_DIR/label/<client>/<stem>.txt`. It may delete the picture when it is done, which is seen at once.

`picture_cmd`: one run per picture. It reads the file PICTURE and writes the file LABELS.

A label file has one line per object, `class x1 y1 x2 y2 confidence`, in pixels of the picture; it is empty if there
is none. The first form is what the programs of the "lite edge cluster scheduler" expect, so they run unchanged.
"""

from __future__ import annotations

import glob
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import Dict, List, Optional, Tuple

import numpy as np

from ..errors import InferenceFailed, InvalidInput, ModelUnavailable
from ..spec import ModelSpec
from .base import check_options

DEFAULT_TIMEOUT_S = 300.0  # per picture; the first one's time holds the program's start too
LOOK_AGAIN_S = 0.005
SETTLED_S = 0.1  # a label file that has not changed for so long is whole, even if its picture is still there,
UNSURE_S = 1.0  # or for so long if it looks as if the program has only just opened it, or will still delete the picture
STOP_WAIT_S = 4.0  # less than the daemon waits for its worker
CLIENT = "127.0.0.1"  # the directory that stands for a client's address
ENDINGS = ((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"BM", ".bmp"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"))

# Started in a process group of its own. If the worker dies, however suddenly, its end of the pipe closes, `read` comes
# back, and the group is killed: a program never outlives its worker.
GUARD = (
    'exec 3<&0; { trap "" TERM INT HUP; read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 & '
    'exec 3<&- </dev/null; exec sh -c "$1"'
)


class ExecBackend:
    """Runs the program in the model's directory, with directories for its files that only this worker uses."""

    reads_pictures = True
    takes_files = True
    takes_batches = False

    def __init__(self) -> None:
        self._command = ""
        self._is_per_picture = False
        self._timeout_s = DEFAULT_TIMEOUT_S
        self._cwd = ""
        self._environment: Dict[str, str] = {}
        self._root = ""
        self._program: Optional[Program] = None
        self._deletes: Optional[bool] = None  # whether it removes pictures itself; None: not seen yet
        self._count = 0

    def load(self, spec: ModelSpec) -> None:
        """Prepare the directories; the program itself starts with its first picture.

        Raises: InvalidInput unless there is one command; ModelUnavailable if `file` names a file that is not there.
        """
        options = spec.build.options
        check_options("exec", options, ("start_cmd", "picture_cmd", "timeout_s"))
        self._is_per_picture = "picture_cmd" in options
        if self._is_per_picture == ("start_cmd" in options):
            raise InvalidInput(
                "backend 'exec' needs one command: start_cmd (a program that keeps running) or picture_cmd (one run "
                "per picture) in the build's options"
            )
        if spec.build.file:
            spec.existing_file()
        self._command = str(options["picture_cmd" if self._is_per_picture else "start_cmd"])
        self._timeout_s = float(options.get("timeout_s", DEFAULT_TIMEOUT_S))
        self._cwd = spec.directory
        _sweep()
        self._root = tempfile.mkdtemp(prefix=_prefix(os.getpid()))
        self._environment = {
            "INPUT_DIR": os.path.join(self._root, "input"),
            "OUTPUT_DIR": os.path.join(self._root, "output"),
            "SERVICE_NAME": spec.name,
            "SLOT": str(spec.slot),
        }
        for directory in (self._input, self._output):
            os.mkdir(directory)

    def infer(self, batch: np.ndarray) -> List[np.ndarray]:
        """Have one picture labelled; see Backend.

        Raises: InferenceFailed if the program ended, took longer than `timeout_s`, or wrote a line that is no label.
        """
        _remove_files(self._output)  # also pictures with boxes, which some programs write beside the labels
        self._count += 1
        body = batch.tobytes()
        try:
            text = self._one_run(body) if self._is_per_picture else self._hand_over(body)
        finally:
            _remove_files(self._input)
        return [_rows(text)]

    def versions(self) -> Dict[str, str]:
        """Nobody knows the program's."""
        return {}

    def close(self) -> None:
        """Stop the program and remove its directories."""
        self._stop_program()
        if self._root:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = ""

    @property
    def _input(self) -> str:
        return self._environment["INPUT_DIR"]

    @property
    def _output(self) -> str:
        return self._environment["OUTPUT_DIR"]

    def _one_run(self, body: bytes) -> str:
        picture = os.path.join(self._input, f"picture-{self._count:09d}{_ending(body)}")
        labels = os.path.join(self._output, f"picture-{self._count:09d}.txt")
        _write(picture, body)
        program = Program(self._command, self._cwd, {**self._environment, "PICTURE": picture, "LABELS": labels})
        try:
            code = program.wait(self._timeout_s)
        finally:
            program.stop()
        if code is None:
            raise InferenceFailed(f"picture_cmd took longer than {self._timeout_s:g} s: {self._command}")
        if code != 0:
            raise InferenceFailed(f"picture_cmd {_ended(code)}: {self._command}")
        if not os.path.isfile(labels):
            raise InferenceFailed("picture_cmd ended well but did not write the file that LABELS names")
        return _read(labels)

    def _hand_over(self, body: bytes) -> str:
        """Put the picture where the program looks, by renames, so that it never sees half of one; wait for labels."""
        stem = f"picture-{self._count:09d}"
        name = f"{self._count:012d}__{stem}"
        pending = os.path.join(self._input, "_sub_reqs_pending", self._environment["SERVICE_NAME"], name)
        ready = os.path.join(self._input, "_sub_reqs_ready", self._environment["SERVICE_NAME"], name)
        os.makedirs(os.path.join(pending, CLIENT))
        os.makedirs(os.path.dirname(ready), exist_ok=True)
        _write(os.path.join(pending, CLIENT, stem + _ending(body)), body)
        os.rename(pending, ready)
        if self._program is None:
            self._program = Program(self._command, self._cwd, self._environment)
        picture = os.path.join(ready, CLIENT, stem + _ending(body))
        labels = os.path.join(self._output, "label", CLIENT, stem + ".txt")
        try:
            return self._awaited(picture, labels)
        finally:
            shutil.rmtree(ready, ignore_errors=True)

    def _stop_program(self) -> None:
        """The next picture, if there is one, starts it anew."""
        if self._program is not None:
            self._program.stop()
            self._program = None

    def _awaited(self, picture: str, labels: str) -> str:
        assert self._program is not None  # started by the caller
        give_up_at = time.monotonic() + self._timeout_s
        seen, since = None, time.monotonic()
        while time.monotonic() < give_up_at:
            code = self._program.wait(LOOK_AGAIN_S)
            now = _signature(labels)
            if now != seen:
                seen, since = now, time.monotonic()
            if now is not None:
                is_gone = not os.path.exists(picture)  # asked before the labels are read: then they were whole
                text = _read(labels)
                # Whoever deletes pictures must find them still there: until it is known, there is time for it.
                settled_s = SETTLED_S if text.endswith("\n") and self._deletes is False else UNSURE_S
                if is_gone or code is not None or time.monotonic() - since >= settled_s:
                    self._deletes = self._deletes or is_gone
                    return text
            if code is not None:
                self._stop_program()
                raise InferenceFailed(f"the program {_ended(code)} before it wrote labels: {self._command}")
        self._stop_program()
        raise InferenceFailed(
            f"the program wrote no {os.path.relpath(labels, self._root)} within {self._timeout_s:g} s: {self._command}"
        )


class Program:
    """A running command, with everything that it has started."""

    def __init__(self, command: str, cwd: str, environment: Dict[str, str]) -> None:
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "sh", command],
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise ModelUnavailable(f"the command cannot be started in {cwd}: {error.strerror}") from error

    def wait(self, seconds: float) -> Optional[int]:
        """The exit code; None if it still runs after so long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """SIGTERM to it and all that it started, SIGKILL for what is left; returns when the program has ended.

        The guard ignores SIGTERM, so the group exists, and its number is nobody else's, until the pipe is closed.
        """
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        has_ended = self.wait(STOP_WAIT_S) is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not has_ended:
            self._process.kill()
            self._process.wait()


def _rows(text: str) -> np.ndarray:
    """Lines `class x1 y1 x2 y2 confidence` as rows class, confidence, x1, y1, x2, y2."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        try:
            class_id, x1, y1, x2, y2, confidence = map(float, line.split())
        except ValueError:
            class_id = math.nan
        if math.isnan(class_id):
            raise InferenceFailed(f"the line {line[:200]!r} is no label: it must be `class x1 y1 x2 y2 confidence`")
        rows.append((class_id, confidence, x1, y1, x2, y2))
    return np.array(rows, np.float64).reshape(-1, 6)


def _ended(code: int) -> str:
    why = {126: ", its file cannot be executed", 127: ", a command in it was not found"}.get(code, "")
    return f"ended with exit code {code}{why}" if code >= 0 else f"was killed by signal {-code}"


def _ending(body: bytes) -> str:
    return next((ending for magic, ending in ENDINGS if body.startswith(magic)), ".jpg")


def _signature(path: str) -> Optional[Tuple[int, int, int]]:
    """What changes while a file is written; None if it is not there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _write(path: str, body: bytes) -> None:
    with open(path, "wb") as file:
        file.write(body)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _remove_files(directory: str) -> None:
    """Remove every file below; the directories stay, since a program may make its own only once."""
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # the program was faster
                os.unlink(os.path.join(parent, name))


def _prefix(pid: int) -> str:
    return f"edgesched-exec-{pid}-"


def _sweep() -> None:
    """Remove the directories of workers that were killed before they could do it."""
    for path in glob.glob(os.path.join(tempfile.gettempdir(), "edgesched-exec-*-*")):
        pid = os.path.basename(path).split("-")[2]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}") and os.stat(path).st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)

"""What `edgesched model check` finds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agents.boards.detect import known_types
from agents.frames import Batches
from agents.models import brought_backends, worker_spec
from agents.worker.backends import BACKENDS, make_backend
from agents.worker.errors import BackendUnavailable, WorkerError
from agents.worker.model import open_model
from agents.worker.spec import parse_model
from edgesched.catalogue import DEFAULT_BUILD, Build, Model
from edgesched.cli.apart import DidNotAnswer, run_apart
from edgesched.domain.device import BoardType
from edgesched.errors import nearest
from edgesched.settings import AgentSettings

ONNX = {"backend": "onnx", "options": {}}
MAGIC = {"rknn": b"RKNN", "acl": b"IMOD"}  # backend -> how its files begin; MODEL_FILE_MAGIC_NUM in CANN's GE
KIND = {"rknn": "RKNN", "acl": "OM"}
OM_HEAD_BYTES = 256  # MODEL_FILE_HEAD_LEN; the model comes after it
LOAD_TIMEOUT_S: float = AgentSettings.model_fields["recovery_timeout_s"].default
"""So long a worker may take for its models."""
PATIENCE_S = 5.0
CONVERTED = (BoardType.ATLAS, BoardType.RK3588, BoardType.ORIN)
"""`edgesched model convert` knows these."""


class State(StrEnum):
    OK = "ok"
    UNTRIED = "not tried"  # nothing wrong was seen, but only the board can tell
    PROBLEM = "PROBLEM"


class Finding(NamedTuple):
    """Of one `[builds.<name>]`. text: one sentence for people."""

    state: State
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one kind of board would do with the model."""

    board: str
    text: str


def examined(model: Model, name: str, on_waiting: Callable[[], None]) -> Finding:
    """One build, tried where it can be. Vendors' libraries and people's decoders run in a process of their own.

    on_waiting: called once if it takes longer than most.
    """
    try:
        return _nobodys(name) or run_apart(
            _examined, model, name, timeout_s=LOAD_TIMEOUT_S, patience_s=PATIENCE_S, on_waiting=on_waiting
        )
    except DidNotAnswer as error:
        return Finding(State.PROBLEM, f"the process that loaded and tried it {error}")


def uses_of(model: Model, directory: Path) -> Iterator[Use]:
    """Which build each kind of board takes, and what would make it faster."""
    for board in known_types():
        build = model.build_for(board)
        if build is None:
            text = f"cannot run it: there is neither [builds.{board}] nor [builds.{DEFAULT_BUILD}]"
        elif build.lacks_file(model.directory):
            text = f"cannot run it: {build.file} is missing"
        elif board in model.builds:
            text = f"uses [builds.{board}]"
        else:
            text = f"uses [builds.{DEFAULT_BUILD}]"
            if board in CONVERTED and build.backend == "onnx" and not build.options:
                text += f", on its CPU; for its accelerator: edgesched model convert {directory} --board {board}"
        yield Use(board=board, text=text)


def _examined(model: Model, name: str) -> Finding:
    build = model.builds[name]
    known = sorted({*BACKENDS, *brought_backends()})
    if build.backend not in known:
        return Finding(State.PROBLEM, f"there is no backend {build.backend!r}: use one of {', '.join(known)}")
    if build.lacks_file(model.directory):
        made = f"make it with `edgesched model convert {model.directory} --board {name}`, or "
        return Finding(
            State.PROBLEM, f"there is no file {build.file}: {made if name in CONVERTED else ''}copy it there"
        )
    if build.backend in MAGIC and not _begins_well(model.directory / build.file, build.backend):
        return Finding(
            State.PROBLEM,
            f"{build.file} is no {KIND[build.backend]} file, or not a whole one: copy or make it again",
        )
    if build.backend == "exec":
        return _examined_program(model, build)
    try:
        return Finding(State.OK, f"runs here: {_tried(model, build)}")
    except BackendUnavailable as error:
        return _examined_elsewhere(model, build, str(error))
    except WorkerError as error:
        return Finding(State.PROBLEM, str(error))


def _begins_well(path: Path, backend: str) -> bool:
    with path.open("rb") as file:
        begins = file.read(len(MAGIC[backend])) == MAGIC[backend]
    return begins and (backend != "acl" or path.stat().st_size > OM_HEAD_BYTES)


def _nobodys(name: str) -> Finding | None:
    """What is to be said of a build for a board of which nothing is known here; None: the board is known."""
    known = [str(board) for board in known_types()] + [DEFAULT_BUILD]
    if name in known:
        return None
    if meant := nearest(name.lower(), known):
        return Finding(State.PROBLEM, f"no board is called {name!r}{meant}")
    return Finding(
        State.UNTRIED, f"no board is called {name!r} here: only the package that brings it can make a board use this"
    )


def _examined_elsewhere(model: Model, build: Build, why: str) -> Finding:
    """A build whose driver is not here: its graph may still run on the CPU."""
    if not build.file.endswith(".onnx"):
        return Finding(State.UNTRIED, why)
    try:
        fits = _tried(model, build.model_copy(update=ONNX))
    except WorkerError as error:
        return Finding(State.PROBLEM, str(error))
    return Finding(State.UNTRIED, f"the graph is right: on this machine's CPU {fits}; but {why}")


def _examined_program(model: Model, build: Build) -> Finding:
    backend = make_backend(build.backend)
    try:
        backend.load(parse_model(worker_spec(model, build, brought_backends())))
    except WorkerError as error:
        return Finding(State.PROBLEM, str(error))
    finally:
        backend.close()
    command = str(build.options.get("start_cmd") or build.options.get("picture_cmd"))
    parsed = _shell(model, "-n", "-c", command)
    if not command.strip():
        return Finding(State.PROBLEM, "its command is empty")
    if parsed.returncode != 0:
        why = parsed.stderr.strip().splitlines()[-1:] or ["it gives no reason"]
        return Finding(State.PROBLEM, f"the shell cannot read the command {command!r}: {why[0]}")
    text = f"a program of your own, which is not run here: {command}"
    program = next(iter(command.split()), "")
    is_plain = re.fullmatch(r"[\w./+-]+", program) is not None
    if is_plain and _shell(model, "-c", 'command -v "$1"', "sh", program).returncode != 0:
        if "/" in program and not program.startswith("/"):
            return Finding(State.PROBLEM, f"there is no program {program} in {model.directory}")
        text += f"; there is no {program} on this machine, so see that it is on the board"
    return Finding(State.UNTRIED, text)


def _shell(model: Model, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The one that would run the command, and where."""
    return subprocess.run(["/bin/sh", *arguments], cwd=model.directory, capture_output=True, text=True, check=False)


def _tried(model: Model, build: Build) -> str:
    """Load it, run it on an empty picture, decode what comes out. Raises: WorkerError."""
    spec = parse_model(worker_spec(model, build, brought_backends()))
    loaded = open_model(spec, _ignore)
    try:
        outputs = loaded.backend.infer(np.zeros(spec.build.input_shape, spec.build.dtype))
    finally:
        loaded.close()
    shapes = ", ".join(str(tuple(output.shape)) for output in outputs) or "none"
    fits = f"outputs {shapes} fit decoder {spec.decoder} and {len(spec.labels)} labels"
    if loaded.batch_curve:
        fits += f"; {Batches(sizes=tuple(loaded.batch_sizes), curve_ms=dict(loaded.batch_curve))}"
    return fits


def _ignore(level: str, event: str, fields: Any) -> None:
    """The worker's log; what matters of it is in the exception."""

"""The configuration that `edgesched agent init` writes for one board."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.boards.detect import board_type, evidence, real_board
from agents.durable import write_atomically
from agents.identity import FILE_NAME as ID_FILE
from agents.identity import Identity, checked_name, identify, keep_name
from edgesched.domain.device import BoardType
from edgesched.errors import StartupError
from edgesched.settings import is_host

FILE_NAME = "agent.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the person said; None: find out, or leave it to the defaults."""

    workspace: Path
    models: Path
    master_ip: str
    device: str | None = None
    device_id: str | None = None
    python_bin: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    path: Path
    board: str
    because: str
    identity: Identity


def write_config(place: Path, wishes: Wishes, *, force: bool, root: Path = Path("/")) -> Written:
    """Write the file, and make or keep the board's id in its workspace.

    place: the file, or the directory for `agent.toml`.
    Raises: StartupError if the file is there already (unless forced), or if something cannot be written.
    """
    path = place if place.suffix == ".toml" else place / FILE_NAME
    if path.exists() and not force:
        raise StartupError(f"{path} is there already: change it by hand, or replace it with --force")
    if not is_host(wishes.master_ip):
        raise StartupError(
            f"--master-ip {wishes.master_ip!r}: give the name or the IP address of the gateway's machine"
        )
    device_id = None if wishes.device_id is None else checked_name(wishes.device_id)  # before anything is made
    board, because = evidence(root) if wishes.device is None else (board_type(wishes.device), "--device said so")
    workspace = wishes.workspace.absolute()
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        wishes.models.absolute().mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if device_id is not None:
            keep_name(workspace, device_id)
        identity = identify(workspace, None)
        slots = real_board(board, root).profile.slots
        text = _text(wishes, path, (board, because), identity.device_id, slots)
        write_atomically(path, text.encode())
        for made in (workspace, workspace / ID_FILE, wishes.models.absolute()):
            _give_to_owner_of_parent(made)
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "is a file, or lies in one" if is_file else f"cannot be written ({error.strerror})"
        raise StartupError(
            f"{error.filename} {why}: choose other places with --config, --workspace and --models"
            + ("" if is_file else ", or run it with sudo")
        ) from error
    return Written(path=path, board=board, because=because, identity=identity)


def _give_to_owner_of_parent(path: Path) -> None:
    """What root makes in a service's directory belongs to the service."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


TEMPLATE = """\
# One board, as `edgesched agent init` found it. What is missing on it: edgesched agent doctor --config {path}
# `edgesched config show agent` prints every setting with its meaning.

# Board type; left out, it is detected at each start. {because}.
{device}

# This board is called {device_id}. The name lies in {kept_in}, with a fingerprint of this machine: a copied
# disk is noticed, and gets a name of its own. A name that is given here instead is taken as it is.
# device_id = {device_id}

host = "0.0.0.0"   # the task manager dials this board; there is no authentication yet
agent_port = 20810
master_ip = {master_ip}   # the machine with the gateway
master_port = 6666

# Address under which the task manager reaches this board, if the gateway does not see it (NAT, two networks).
# advertise = "192.168.1.31:20810"

workspace_dir = {workspace}   # the outbox is here: keep it on a disk that survives a restart
models_dir = {models}

# Worker processes; left out, one per slot of the board ({slots}).
# workers = {slots}

# Interpreter of the workers; left out, the agent's own. {python}
{python_bin}
"""

WORKERS_NEED: Mapping[str, str] = {
    BoardType.ATLAS: """They need numpy, OpenCV and pyACL (deploy/boards/atlas.txt).
# pyACL is a part of CANN, in the directory that its set_env.sh puts into PYTHONPATH:
python_path = ["/usr/local/Ascend/ascend-toolkit/latest/python/site-packages"]""",
    BoardType.RK3588: """They need numpy, OpenCV and rknn-toolkit-lite2
# (deploy/boards/rk3588.txt), which is not made for every version of Python.""",
    BoardType.ORIN: """They need JetPack's Python: TensorRT is installed for that
# one alone (deploy/boards/orin.txt).""",
}
OTHERS_NEED = "They need numpy, OpenCV and what the models' backends need."


def _text(wishes: Wishes, path: Path, found: tuple[str, str], device_id: str, slots: int) -> str:
    board, because = found
    is_certain = board != BoardType.GENERIC or wishes.device is not None
    python_bin = wishes.python_bin or "/opt/edgesched/worker/bin/python"
    return TEMPLATE.format(
        path=path,
        because=f"Now: {_one_line(because)}",
        device=f"{'' if is_certain else '# '}device = {_quoted(board)}",
        device_id=_quoted(device_id),
        kept_in=wishes.workspace.absolute() / ID_FILE,
        master_ip=_quoted(wishes.master_ip),
        workspace=_quoted(str(wishes.workspace.absolute())),
        models=_quoted(str(wishes.models.absolute())),
        slots=slots,
        python=WORKERS_NEED.get(board, OTHERS_NEED),
        python_bin=f"{'# ' if wishes.python_bin is None else ''}python_bin = {_quoted(python_bin)}",
    )


def _quoted(text: str) -> str:
    """As a TOML string; JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    """What stands in a comment must not begin a line of its own."""
    return " ".join(text.split())

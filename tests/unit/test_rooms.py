"""Which room may import what. A door that is not in this table is closed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("edgesched", "agents", "gateway", "client")

COMMON = {"edgesched", "edgesched.errors", "edgesched.clock", "edgesched.settings", "edgesched.logs"}
COMMON |= {
    "edgesched.process",
    "edgesched.wake",
    "edgesched.own_thread",
    "edgesched.catalogue",
    "edgesched.rest",
    "edgesched.domain",
    "pydantic",
}
TASK_MANAGER = COMMON | {
    "edgesched.ports",
    "edgesched.placement",
    "edgesched.ledger",
    "edgesched.images",
    "edgesched.spans",
    "edgesched.tracing",
    "edgesched.wire",
}
CLIENT = {"edgesched.domain", "edgesched.wire", "edgesched.v1", "edgesched.errors", "edgesched.rest", "grpc", "aiohttp"}
CLIENT |= {"edgesched.spans"}
SENDER = CLIENT | {"edgesched.settings", "edgesched.logs", "edgesched.process", "edgesched.tracing", "rich", "typer"}
AGENT = COMMON | {"edgesched.wire", "edgesched.v1", "grpc", "grpc_health", "aiohttp", "psutil", "watchdog"}
AGENT |= {"yarl"}  # aiohttp's own URL type

# Room (a package or a module) -> what it may import besides the standard library and itself. The longest name counts.
# A module of the command line may import everything, but nothing may import it, except the entry points.
MAY_IMPORT: Mapping[str, set[str]] = {
    "edgesched.__main__": set(),
    "edgesched.errors": set(),
    "edgesched.clock": set(),
    "edgesched.logs": {"edgesched.errors"},
    "edgesched.settings": {"edgesched.errors", "pydantic"},
    "edgesched.catalogue": {"edgesched.errors", "pydantic"},
    "edgesched.process": {"edgesched.errors", "edgesched.logs", "edgesched.settings", "uvloop"},
    "edgesched.wake": set(),
    "edgesched.own_thread": set(),
    "edgesched.tracing": {"edgesched.spans"},
    "edgesched.spans": {"edgesched", "opentelemetry"},
    "edgesched.rest": {"edgesched.domain", "edgesched.errors", "edgesched.ports", "pydantic"},
    "edgesched.domain": {"edgesched.errors"},
    "edgesched.ports": {"edgesched.domain"},
    "edgesched.placement": {"edgesched.domain", "edgesched.errors", "edgesched.ports", "numpy"},
    "edgesched.simulation": {"edgesched.placement", "edgesched.ports", "edgesched.domain", "edgesched.errors", "numpy"},
    "edgesched.ledger": {"edgesched.domain", "edgesched.errors", "edgesched.own_thread"},
    "edgesched.images": {"edgesched.domain", "edgesched.errors", "edgesched.own_thread", "xxhash"},
    "edgesched.upkeep": {"edgesched.domain", "edgesched.errors", "edgesched.ledger", "edgesched.images"},
    "edgesched.wire": {"edgesched.v1", "edgesched.domain", "edgesched.errors"},
    "edgesched.task_manager": TASK_MANAGER,
    "edgesched.task_manager.app": TASK_MANAGER | {"edgesched.v1", "grpc", "grpc_health", "grpc_reflection"},
    "edgesched.task_manager.service": TASK_MANAGER | {"edgesched.v1", "grpc"},
    "edgesched.task_manager.status": TASK_MANAGER | {"grpc"},
    "edgesched.task_manager.device_link": TASK_MANAGER | {"edgesched.v1", "grpc"},
    "edgesched.task_manager.outcomes": TASK_MANAGER | {"edgesched.v1"},
    "edgesched.task_manager.delivery": TASK_MANAGER | {"aiohttp"},
    "edgesched.task_manager.remote_placement": TASK_MANAGER | {"aiohttp"},
    "edgesched.task_manager.pictures": TASK_MANAGER | {"imagesize"},
    "gateway": COMMON | {"edgesched.ports", "edgesched.placement", "edgesched.wire", "aiohttp"},
    "gateway.metrics": COMMON | {"edgesched.ports", "aiohttp", "prometheus_client"},
    "gateway.remote_tasks": COMMON | {"edgesched.ports", "edgesched.wire", "edgesched.v1", "grpc"},
    "agents": AGENT,
    "agents.metrics": AGENT | {"agents", "prometheus_client"},
    "agents.worker": {"numpy", "cv2", "onnxruntime", "acl", "cuda", "rknnlite", "tensorrt"},
    "client": CLIENT,
    "client.send_pic": SENDER,
    "client.rst_recv": CLIENT | {"edgesched.settings", "edgesched.logs", "edgesched.process", "rich", "typer"},
    "edgesched.demo": {"edgesched.domain", "edgesched.errors", "edgesched.wire", "edgesched.local", "client"}
    | {"numpy", "cv2", "grpc", "rich"},
    "edgesched.local.tied": {"edgesched.cli"},
    "edgesched.local": {
        "edgesched.errors",
        "edgesched.domain",
        "edgesched.settings",
        "edgesched.task_manager",
        "edgesched.tracing",
        "gateway",
    },
}

COMMAND_LINE = "edgesched.cli"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = module_name(path)
            if not name.startswith("edgesched.v1") and "builtin_models" not in path.parts:
                yield name, path


def imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(name: str) -> str:
    rooms = [room for room in MAY_IMPORT if is_within(name, room)]
    assert rooms, f"{name} is in no room: give it a line in this table"
    return max(rooms, key=len)


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_every_import_goes_through_a_door(name: str, path: Path) -> None:
    if is_within(name, COMMAND_LINE) or name == "edgesched":
        return
    is_entry_point = path.stem == "__main__" or name in ("client.send_pic", "client.rst_recv")
    room = room_of(name)
    allowed = MAY_IMPORT[room] | {room}
    for wanted in imports(name, path):
        top = wanted.partition(".")[0]
        if top in sys.stdlib_module_names or (is_entry_point and is_within(wanted, COMMAND_LINE)):
            continue
        is_sibling = room.startswith(("edgesched.task_manager.", "gateway.", "client.")) and is_within(
            wanted, room.rpartition(".")[0]
        )
        exact = {"edgesched": wanted == "edgesched.__version__"}
        is_open = any(exact.get(door, is_within(wanted, door)) for door in allowed)
        assert is_open or is_sibling, f"{name} imports {wanted}: {room} has no such door"


def test_the_worker_never_sees_the_daemon() -> None:
    for name, path in modules():
        if is_within(name, "agents.worker"):
            for wanted in imports(name, path):
                top = wanted.partition(".")[0]
                assert is_within(wanted, "agents.worker") or top not in OURS, f"{name} imports {wanted}"

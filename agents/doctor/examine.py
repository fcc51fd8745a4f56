"""All looks at one board, in the order in which a person would take them."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from agents.boards.detect import evidence, real_board
from agents.doctor.driver import look_at_driver, look_at_sensors
from agents.doctor.findings import Finding, Report, note, ok, problem, warning
from agents.doctor.interpreter import look_at_interpreter
from agents.doctor.models import Models, look_at_models
from agents.doctor.surroundings import look_at_disk, look_at_gateway, look_at_name, look_at_port
from agents.worker_process import Pace
from edgesched.domain.device import BoardType
from edgesched.errors import InvalidInput
from edgesched.settings import AgentSettings

TOOL_WAIT_S = 10.0


async def examine(
    settings: AgentSettings,
    root: Path = Path("/"),
    pace: Pace = Pace(),  # noqa: B008 - frozen
    on_found: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Changes nothing on the board. Takes as long as its models take to load.

    on_found: told of each finding as it is made.
    Raises: StartupError if the settings name no board.
    """
    findings = []
    async for finding in _looks(settings, root, pace):
        on_found(finding)
        findings.append(finding)
    return Report(findings=findings)


async def _looks(settings: AgentSettings, root: Path, pace: Pace) -> AsyncIterator[Finding]:
    board = real_board(settings.device, root)
    kind = board.board_type
    for finding in (_user(), _board(settings, kind, root), look_at_name(settings), *look_at_driver(kind, root)):
        yield finding
    python = settings.python_bin or sys.executable
    try:
        models: Models | None = Models(settings, kind)
    except InvalidInput as error:
        models = None
        unusable = problem("models", str(error), "install the package again, or remove it")
    backends = models.backends if models is not None else frozenset()
    can_run = False
    async for finding in look_at_interpreter(python, settings.python_path, kind, backends):
        can_run = can_run or (finding.name == "interpreter" and finding.state == "ok")
        yield finding
    if models is None:
        looks = [unusable]
    elif can_run:
        looks = await look_at_models(settings, models, python, pace)
    else:
        looks = models.left_out()  # without an interpreter there is nothing to try
    readings = await asyncio.to_thread(board.readings, tool_wait_s=TOOL_WAIT_S)
    looks += look_at_sensors(kind, readings)
    looks += [look_at_disk(settings), look_at_port(settings)]
    for finding in looks:
        yield finding
    for finding in await look_at_gateway(settings):
        yield finding


def _user() -> Finding:
    if os.geteuid() == 0:
        return note("user", "root, who may do everything: run this as the user that the agent runs as, too")
    return ok("user", f"uid {os.geteuid()}, Python {platform.python_version()} for the agent")


def _board(settings: AgentSettings, kind: str, root: Path) -> Finding:
    detected, because = evidence(root)
    if settings.device is None and kind == BoardType.GENERIC and "is there, but" in because:
        return warning("board", f"{kind}: {because}", "until then its CPU does the work")
    if detected != kind:
        text = f"{kind}, as the settings say, but this machine looks like {detected}: {because}"
        return warning("board", text, "leave `device` out of the settings to have it detected")
    return ok("board", f"{kind}: {because}")

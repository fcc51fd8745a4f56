"""What somebody should know about this board and its settings, although the agent works. Said in each heartbeat."""

from __future__ import annotations

import logging
from pathlib import Path

from agents.boards.base import Board
from agents.boards.emulated import EmulatedBoard
from agents.cpus import too_many_workers, usable_cpus
from agents.doctor.driver import look_at_driver
from agents.doctor.findings import State
from edgesched.settings import AgentSettings

log = logging.getLogger(__name__)


def start_warnings(settings: AgentSettings, workers: int, board: Board, root: Path = Path("/")) -> tuple[str, ...]:
    """root: where the machine's file system is mounted."""
    warnings = []
    if (crowd := _crowd(settings, workers, board)) is not None:
        log.warning("workers.too_many", extra={"reason": crowd})
        warnings.append(crowd)
    if (driver := _driver(board, root)) is not None:
        log.warning("board.driver_unusable", extra={"reason": driver})
        warnings.append(driver)
    return tuple(warnings)


def _crowd(settings: AgentSettings, workers: int, board: Board) -> str | None:
    """The workers of an emulated board mostly wait, as its profile has it."""
    if settings.workers is None and isinstance(board, EmulatedBoard):
        return None
    return too_many_workers(workers, settings.total_cpus or usable_cpus())


def _driver(board: Board, root: Path) -> str | None:
    """A board that was named by --device may be none, and a real one may lack its driver: the demo model hides both."""
    if isinstance(board, EmulatedBoard):
        return None
    wrong = [one.text for one in look_at_driver(board.board_type, root) if one.state is State.PROBLEM]
    if not wrong:
        return None
    return (
        f"when the agent started, the {board.board_type} accelerator could not be used: {'; '.join(wrong)}. Models "
        "that need it cannot run here, others run on the CPU: `edgesched agent doctor` says what to install"
    )

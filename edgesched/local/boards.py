"""Emulated boards on this machine: `atlas,rk3588:2,orin` -> one agent process each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import StartupError
from edgesched.local.children import ChildSpec

MAX_BOARDS = 64


def parse_boards(text: str) -> Sequence[tuple[str, str]]:
    """`rk3588:2,orin` -> (("rk3588", "rk3588-1"), ("rk3588", "rk3588-2"), ("orin", "orin-1")): type and device id.

    Raises: StartupError.
    """
    boards: list[tuple[str, str]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, count = part.partition(":")
        if kind not in USUAL_PROFILES:
            raise StartupError(f"--emulate {text}: there is no board {kind!r}; use {', '.join(USUAL_PROFILES)}")
        if count and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise StartupError(f"--emulate {text}: {part!r} is not a board and a number, like rk3588:2")
        of_kind = sum(1 for known, _ in boards if known == kind)
        boards += [(kind, f"{kind}-{of_kind + i + 1}") for i in range(int(count or 1))]
    if not 0 < len(boards) <= MAX_BOARDS:
        raise StartupError(f"--emulate {text}: name 1 to {MAX_BOARDS} boards, like atlas,rk3588:2,orin")
    return boards


def agent_specs(
    boards: Sequence[tuple[str, str]], *, gateway_url: str, workspace: Path, models_dir: Path, log_level: str = "info"
) -> Sequence[ChildSpec]:
    """One agent per board, each with a workspace and a log of its own below `workspace`."""
    return [
        ChildSpec(
            name=f"agent {device_id}",
            arguments=[
                *("agent", "--emulate", kind, "--device-id", device_id, "--port", "0"),
                *("--master-url", gateway_url, "--workspace", str(workspace / device_id)),
                *("--models", str(models_dir), "--log-level", log_level),
            ],
            log_path=workspace / device_id / "agent.log",
        )
        for kind, device_id in boards
    ]

"""`edgesched agent doctor`."""

from __future__ import annotations


def command() -> None:
    """Say what keeps this board from working, and what to install or run."""

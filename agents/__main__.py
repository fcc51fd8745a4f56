"""`python -m agents`."""

from __future__ import annotations

from edgesched.cli.main import run_command

if __name__ == "__main__":
    run_command("agent")

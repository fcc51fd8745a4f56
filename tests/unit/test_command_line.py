"""The command line itself, whatever the command."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("numpy", ["model", "check", "models/shapes"]), ("grpc_reflection", ["up"]), ("psutil", ["agent", "--probe"])],
)
def test_a_part_that_is_not_installed_is_named_with_what_to_install(package: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from edgesched.cli.main import main; main()"
    command = (sys.executable, "-c", code, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"edgesched: this needs the Python package {package}, which {sys.executable} ")
    assert "[agent,cpu]" in done.stderr

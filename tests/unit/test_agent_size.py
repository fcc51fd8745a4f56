"""The daemon stays small: it leaves heavy libraries to its workers, and the command line to the command line."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("numpy", "cv2", "onnxruntime", "acl", "rknnlite", "tensorrt", "cuda")
NOT_ITS_OWN = ("sqlite3", "prometheus_client", "edgesched.ledger", "edgesched.placement", "gateway")
COMMAND_LINE = ("typer", "rich", "edgesched.cli")
SELDOM_NEEDED = ("watchdog", "agents.worker", "multiprocessing", "aiohttp.web")


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def test_the_daemon_imports_nothing_that_is_for_others() -> None:
    loaded = modules_after("import agents.app")
    assert "grpc" in loaded
    assert not loaded & {*HEAVY, *NOT_ITS_OWN, *COMMAND_LINE, *SELDOM_NEEDED}


def test_its_command_imports_the_daemon_only_to_run_it() -> None:
    loaded = modules_after("import edgesched.cli.main, edgesched.cli.agent")
    assert not loaded & {*HEAVY, *NOT_ITS_OWN, "agents.app", "grpc", "aiohttp", "pydantic"}


def test_it_knows_the_backends_without_what_they_need() -> None:
    """`python_bin` may be the only interpreter on the board that has numpy."""
    loaded = modules_after("from agents.models import check_backend; check_backend('rknn', {})")
    assert "agents.worker.backends" in loaded
    assert not loaded & set(HEAVY)

"""docs/adding-a-board.md, followed word by word: its package is written, installed, and an agent runs with it."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.integration.test_agent_process import READY_WITHIN_S, started
from tests.support.agent_parts import FakeGateway, Master, listening
from tests.support.graphs import encoded
from tests.support.wheels import make_wheel

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-board.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([^`\n]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^edgesched .*$", re.MULTILINE)


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in which a reader has done what the page says; the package is installed for new processes."""
    for name, content in FILE.findall(PAGE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    package = tmp_path / "acme-abacus"
    project = tomllib.loads((package / "pyproject.toml").read_text())
    facts = project["project"]
    (name,) = project["tool"]["setuptools"]["packages"]
    files = {str(path.relative_to(package)): path.read_text() for path in (package / name).rglob("*.py")}
    wheel = make_wheel(tmp_path, facts["name"], facts["version"], files=files, entry_points=facts["entry-points"])
    installed = tmp_path / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(installed)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=READY_WITHIN_S)
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{ROOT}")
    return tmp_path


def edgesched(line: str, cwd: Path) -> str:
    _, *arguments = shlex.split(line)
    done = subprocess.run(
        [sys.executable, "-m", "edgesched", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=READY_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_every_file_of_its_package() -> None:
    shown = {name for name, _ in FILE.findall(PAGE)}
    assert shown == {
        "acme-abacus/pyproject.toml",
        "acme-abacus/acme_abacus/__init__.py",
        "acme-abacus/acme_abacus/board.py",
        "acme-abacus/acme_abacus/backend.py",
        "models/colours/model.toml",
        "models/colours/colours.txt",
    }


async def test_the_page_leads_to_a_board_that_labels_pictures(followed: Path) -> None:
    check, probe, run = COMMAND.findall(PAGE)
    assert "[builds.abacus] abacus colours.txt\n    ok: runs here" in await asyncio.to_thread(
        edgesched, check, followed
    )
    assert (await asyncio.to_thread(edgesched, probe, followed)).startswith("board  abacus:")
    flags = shlex.split(run)[2:4]
    assert flags == ["--device", "abacus"]
    gateway = FakeGateway()
    async with listening(gateway.app()) as url, started(followed, url, *flags) as agent:
        await agent.ready()
        (registration,) = gateway.registrations
        assert registration["board_type"] == "abacus"
        assert registration["profile"]["service_ms"] == 5.0
        assert "colours" in registration["models"]
        async with Master.connected(agent.address) as master:
            await master.next("hello")
            red = encoded(np.full((48, 64, 3), (0, 0, 255), np.uint8))  # OpenCV's order: blue, green, red
            await master.dispatch("a1", red, model="colours")
            await master.next("accepted")
            result = (await master.next("outcome")).result
            assert [detection.label for detection in result.detections] == ["red"]

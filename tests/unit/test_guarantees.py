"""The page of promises names settings and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from edgesched.cli import ledger, tasks
from edgesched.cli.main import COMMANDS
from edgesched.settings import TaskManagerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_every_setting_that_it_names_exists() -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_(?:s|ms|bytes|tasks|attempts))[ `]", PAGE))
    assert len(named) > 8
    assert named <= set(TaskManagerSettings.model_fields)


def test_every_command_that_it_names_exists() -> None:
    groups = {"ledger": ledger.app, "tasks": tasks.app}
    named = set(re.findall(r"(?:`|^)edgesched ([a-z-]+)(?: ([a-z]+))?", PAGE, flags=re.MULTILINE))
    assert len(named) > 5
    for name, rest in named:
        assert name in COMMANDS
        if name in groups:
            assert rest in typer.main.get_group(groups[name]).commands

"""What was measured, beside what was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the last table. Without a gate and a goal it is there to be known.

    is_least: the value must be at least the gate, not at most. setting: what it was measured with.
    """

    what: str
    value: float
    unit: str
    setting: str
    gate: float | None = None
    goal: float | None = None
    is_least: bool = False
    note: str = ""

    def reaches(self, limit: float | None) -> bool:
        return limit is not None and (self.value >= limit if self.is_least else self.value <= limit)

    def verdict(self) -> str:
        """`ok` is about the gate. Where only a goal was set, it is about that one."""
        if self.gate is None and self.goal is None:
            return ""
        return "ok" if self.reaches(self.goal if self.gate is None else self.gate) else "MISSED"

    def as_json(self) -> dict[str, object]:
        reaches_goal = None if self.goal is None else self.reaches(self.goal)
        return asdict(self) | {"verdict": self.verdict(), "reaches_goal": reaches_goal}


def spread(values: Sequence[float]) -> str:
    """The least and the most of several rounds, and how many there were."""
    return f"{short(min(values))} to {short(max(values))} in {len(values)} rounds"


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(console: Console, figures: Sequence[Figure]) -> None:
    """The targets first, then what is only good to know. Below it stands what each one was measured with."""
    settings = {setting: number for number, setting in enumerate(dict.fromkeys(f.setting for f in figures), 1)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("what", "measured", "gate", "goal", "verdict", "goal reached", "with", "notes"):
        table.add_column(column)
    for is_target in (True, False):
        for figure in figures:
            if bool(figure.verdict()) is is_target:
                _add(table, figure, settings[figure.setting])
        table.add_section()
    console.print(table)
    for setting, number in settings.items():
        console.print(f"{number:>4}: {setting}", highlight=False, markup=False)


def _add(table: Table, figure: Figure, setting: int) -> None:
    is_met = "" if figure.goal is None else "yes" if figure.reaches(figure.goal) else "no"
    limits = ("" if limit is None else f"{limit:g}" for limit in (figure.gate, figure.goal))
    value = f"{short(figure.value)} {figure.unit}"
    table.add_row(figure.what, value, *limits, figure.verdict(), is_met, str(setting), figure.note)


def write_json(path: Path, figures: Sequence[Figure]) -> None:
    path.write_text(json.dumps([figure.as_json() for figure in figures], indent=2) + "\n")

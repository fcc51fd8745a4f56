"""What the bench concludes from what it measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.failover import recovery
from bench.figures import Figure
from bench.soak import Sample, growth

ROOT = Path(__file__).parents[2]


def figure(value: float, *, gate: float | None, goal: float | None, is_least: bool = False) -> Figure:
    return Figure(what="x", value=value, unit="ms", setting="", gate=gate, goal=goal, is_least=is_least)


def test_a_verdict_is_about_the_gate_and_of_a_figure_without_one_about_the_goal() -> None:
    assert figure(5, gate=4, goal=3).verdict() == "MISSED"
    assert figure(4, gate=4, goal=3).verdict() == "ok"
    assert figure(0.9, gate=0.87, goal=0.95, is_least=True).verdict() == "ok"
    assert figure(0.8, gate=0.87, goal=0.95, is_least=True).verdict() == "MISSED"
    assert figure(9, gate=None, goal=8).verdict() == "MISSED"
    assert figure(9, gate=None, goal=None).verdict() == ""


def test_a_goal_is_reached_or_not_apart_from_the_verdict() -> None:
    found = [figure(value, gate=4, goal=3).as_json() for value in (5, 4, 3)]

    assert [(one["verdict"], one["reaches_goal"]) for one in found] == [("MISSED", False), ("ok", False), ("ok", True)]


def test_a_survivor_that_pauses_is_back_when_it_is_as_fast_as_before() -> None:
    before = [i / 100 for i in range(400)]  # 100/s until the kill at 4 s
    after = [i / 100 for i in range(550, 1200)]  # nothing for 1.5 s

    seconds, normal = recovery([*before, *after], killed_s=4.0, warm_s=0.0, ends_s=12.0)

    assert normal == pytest.approx(100, rel=0.01)
    assert 1.3 <= seconds <= 1.5  # nine tenths of the rate within one second from then on


def test_a_survivor_that_could_work_faster_alone_is_not_back_at_its_old_rate() -> None:
    before = [i / 50 for i in range(200)]  # 50/s beside the other one, also for 2 s after the kill at 4 s
    after = [4 + i / 50 for i in range(100)] + [6 + i / 100 for i in range(600)]  # then 100/s

    seconds, normal = recovery([*before, *after], killed_s=4.0, warm_s=0.0, ends_s=12.0)

    assert normal == pytest.approx(100, rel=0.01)
    assert 1.5 <= seconds <= 2.0


def samples(sizes: Sequence[int], *, pictures_each: int) -> list[Sample]:
    return [Sample(done=i * pictures_each, resident_bytes={"master": size}) for i, size in enumerate(sizes)]


def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    sizes = [50, 90, 99, 100, 100, 101, 102, 103, 104, 110]

    (found,) = growth(samples(sizes, pictures_each=20_000), "")

    assert found.value == pytest.approx(10)
    assert found.verdict() == "MISSED"


def test_a_run_that_is_over_before_the_caches_are_full_is_not_judged() -> None:
    (found,) = growth(samples([50, 60, 70, 80, 90], pictures_each=5_000), "")

    assert found.verdict() == ""


def test_the_bench_shows_where_the_time_of_every_picture_goes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.run", "--stages", "--count", "12", "--json", str(tmp_path / "results.json")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stderr
    assert "12 pictures" in done.stdout

"""A power cut at any instant: nothing that was acknowledged before it is missing afterwards.

The work of a child process is recorded system call by system call. For many instants of that work, what a disk would
then have is laid out in a directory of its own, and started from: once with nothing but what was synced, once with a
part of the rest, sector by sector. More of it: TEST_POWER_CUTS=2000 (how many), TEST_SEED=7.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from edgesched.domain.lifecycle import LABELLED_STATES
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.images.segment_files import claim
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.sqlite import SqliteLedger
from edgesched.upkeep.audit import audit
from edgesched.upkeep.lost_pictures import give_up_lost_pictures
from tests.support.power_cut_load import labels_of, picture_of, submission
from tests.support.power_cuts import Disk, compile_recorder, read_log, recording, write_out

ROOT = Path(__file__).parents[2]
TASKS = 400
CUTS = int(os.environ.get("TEST_POWER_CUTS", "40"))
SEED = int(os.environ.get("TEST_SEED", "1"))
WITHIN_S = 60

pytestmark = pytest.mark.timeout(120 + CUTS)  # a second each, on a machine that is busy with other things


def wall_ms() -> int:
    return 4_000_000_000_000  # long after the work: no picture is too young for the audit


@dataclass(frozen=True, slots=True)
class Recorded:
    """root: the directory that was worked in; log: what was done in it."""

    root: Path
    log: Path


@pytest.fixture
def disk_copy() -> Iterator[Path]:
    """Where a disk is laid out: in memory if that is possible, since each start from it syncs a lot."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory, "disk")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = compile_recorder(tmp_path_factory.mktemp("recorder"))
    if library is None:
        pytest.skip("there is no C compiler to build the recorder of disk writes with")
    return library


def record(library: Path, directory: Path, durability: str, tasks: int) -> Recorded:
    recorded = Recorded(directory / "disk", directory / "log")
    recorded.root.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.support.power_cut_load", str(recorded.root), durability, str(tasks)],
        cwd=ROOT,
        env=recording(library, recorded.root, recorded.log),
        check=True,
        timeout=WITHIN_S,
    )
    return recorded


@pytest.fixture(scope="module")
def synced(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(library, tmp_path_factory.mktemp("power"), "power", TASKS)


@pytest.fixture(scope="module")
def unsynced(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(library, tmp_path_factory.mktemp("process"), "process", TASKS // 2)


@dataclass(frozen=True, slots=True)
class Promises:
    accepted: list[str]
    done: list[str]

    @classmethod
    def read(cls, disk: Disk, recorded: Recorded) -> Promises:
        """What had been promised by now: a client knows it, whatever our disk has."""
        lines = [line.split() for line in disk.content(str(recorded.root / "promises")).decode().splitlines()]
        return cls([id_ for word, id_ in lines if word == "accepted"], [id_ for word, id_ in lines if word == "done"])


def cuts(recorded: Recorded, count: int, random: Random) -> Iterator[tuple[Disk, int]]:
    """The disk at so many instants of the work: half of them anywhere, half of them right after a promise."""
    steps = list(read_log(recorded.log))
    begun = next(number for number, step in enumerate(steps) if step.path.endswith("promises"))
    promised = [number for number in range(begun, len(steps)) if steps[number].data.startswith((b"accepted", b"done"))]
    instants = set(random.sample(range(begun, len(steps)), count // 2))
    instants |= set(random.sample(promised, count - count // 2))
    disk = Disk()
    for number, step in enumerate(steps):
        disk.follow(step)
        if number in instants:
            yield disk, number


async def check_promises(directory: Path, promises: Promises) -> None:
    """Start from what is there, as a task manager does, and ask for everything that was promised."""
    async with (
        SqliteLedger.opened(directory / "ledger.sqlite3", now_ms=wall_ms, durability="process") as ledger,
        SegmentImageStore.opened(
            directory / "upload", durability="process", min_free_disk_bytes=1, now_ms=wall_ms
        ) as images,
    ):
        claim(directory / "upload", ledger.ownership.ledger_id)
        await images.recover(await ledger.live_images())
        rows = {task.task_id: task for task in await ledger.get_many([TaskId(id_) for id_ in promises.accepted])}
        retired = [id_ for id_ in promises.accepted if id_ not in rows]
        for id_, answer in zip(retired, await ledger.accept_many([submission(id_) for id_ in retired]), strict=True):
            assert (answer.created, answer.conflict, answer.task.task_id) == (False, False, id_), "it was forgotten"
            assert answer.task.state in LABELLED_STATES
        with_picture = [task for task in rows.values() if task.image is not None]
        pictures = await asyncio.gather(*(images.read(task.image) for task in with_picture if task.image is not None))
        assert pictures == [picture_of(task.task_id) for task in with_picture]
        done = [rows[TaskId(id_)] for id_ in promises.done if id_ in rows]
        assert {task.state for task in done} <= LABELLED_STATES
        results = await asyncio.gather(*(ledger.result(task.task_id) for task in done))
        assert results == [labels_of(task.task_id) for task in done]
    report = audit(directory / "ledger.sqlite3", directory / "upload", whole=True, release_within_s=0.0)
    assert report.findings == []


def lay_out(files: dict[str, bytes], recorded: Recorded, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "upload").mkdir(parents=True)
    write_out(files, str(recorded.root), directory)


def test_the_recorder_has_missed_nothing(synced: Recorded) -> None:
    disk = Disk()
    for step in read_log(synced.log):
        disk.follow(step)
    files = [path for path in synced.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert disk.content(str(path)) == path.read_bytes(), path


def test_the_work_is_of_the_kind_that_a_power_cut_could_harm(synced: Recorded) -> None:
    kinds = [(step.kind, Path(step.path).suffix) for step in read_log(synced.log)]
    assert ("U", ".segment") in kinds, "pictures are let go, and their files with them"
    assert any(kind == "P" for kind, _ in kinds), "the space of others is given back"
    log_starts = [s for s in read_log(synced.log) if s.kind == "W" and s.offset == 0 and len(s.data) == 32]
    assert len(log_starts) > 1, "the database's log was folded in and begun anew"


@pytest.mark.parametrize("survivors", ["nothing", "a part"])
def test_nothing_that_was_acknowledged_is_missing_after_a_power_cut(
    synced: Recorded, disk_copy: Path, survivors: str
) -> None:
    random = Random(f"{SEED} {survivors}")
    for disk, number in cuts(synced, CUTS, random):
        lay_out(disk.after_cut(random if survivors == "a part" else None), synced, disk_copy)
        try:
            asyncio.run(check_promises(disk_copy, Promises.read(disk, synced)))
        except (AssertionError, StorageFailed, StartupError) as error:
            raise AssertionError(f"after a power cut at step {number} (seed {SEED}): {error}") from error


def test_without_power_durability_this_test_finds_what_is_missing(unsynced: Recorded, disk_copy: Path) -> None:
    """So it can fail. And `process` keeps its own word: the database is never damaged, and repair lets it start."""
    random = Random(SEED)
    broken = 0
    for disk, _ in cuts(unsynced, CUTS // 4, random):
        lay_out(disk.after_cut(random), unsynced, disk_copy)
        try:
            asyncio.run(check_promises(disk_copy, Promises.read(disk, unsynced)))
        except (AssertionError, StorageFailed):
            broken += 1
        except StartupError:  # not even its name was synced
            assert not (disk_copy / "ledger.sqlite3").exists()
            broken += 1
            continue
        asyncio.run(repair(disk_copy))
        report = audit(disk_copy / "ledger.sqlite3", disk_copy / "upload", whole=True, release_within_s=0.0)
        assert {finding.check for finding in report.findings} <= {"picture.orphan"}
    assert broken


async def repair(directory: Path) -> None:
    async with SqliteLedger.opened(directory / "ledger.sqlite3", now_ms=wall_ms, durability="process") as ledger:
        await give_up_lost_pictures(ledger, directory / "upload")

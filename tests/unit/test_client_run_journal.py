from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.pictures import Picture, from_file
from client.run_files import KEPT_S
from client.run_journal import Destination, RunJournal
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError, StorageFailed
from tests.support.disks import no_file_longer_than

HERE = Destination(task_manager="127.0.0.1:9999", model="shapes", receiver_url=None)


def make(directory: Path, count: int) -> list[Picture]:
    """Pictures with the same bytes, written at the same time."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{n}.jpg" for n in range(count)]
    for path in paths:
        path.write_bytes(b"same")
        os.utime(path, ns=(10**18, 10**18))
    return [from_file(path) for path in paths]


@contextmanager
def run(state: Path, pictures: list[Picture], destination: Destination = HERE) -> Iterator[RunJournal]:
    with closing(RunJournal.begin(state, pictures, destination)) as journal:
        yield journal


def keys(journal: RunJournal, pictures: list[Picture]) -> list[str]:
    return [journal.key_for(picture) for picture in pictures]


def interrupted(state: Path, pictures: list[Picture], *, acknowledged: int = 0) -> list[str]:
    """A run that ended early. The first few pictures were acknowledged. Returns: the keys of all."""
    with run(state, pictures) as journal:
        used = keys(journal, pictures)
        for number, key in enumerate(used[:acknowledged]):
            journal.acknowledge(key, TaskId(f"t{number}"))
    return used


def completed(state: Path, pictures: list[Picture]) -> list[str]:
    with run(state, pictures) as journal:
        used = keys(journal, pictures)
        journal.retire()
    return used


def files(state: Path) -> list[Path]:
    return sorted((state / "runs").iterdir())


def the_file(state: Path) -> Path:
    (path,) = files(state)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    return make(tmp_path / "pictures", 5)


def test_every_picture_has_its_own_key_even_if_it_looks_like_another(state: Path, pictures: list[Picture]) -> None:
    with run(state, pictures) as journal:
        assert len(set(keys(journal, pictures))) == 5
        assert keys(journal, pictures) == keys(journal, pictures)
        assert not journal.inherited.is_resumed


def test_keys_are_durable_before_the_first_one_can_be_used(
    state: Path, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[int, int] = {}  # inode -> its size when it was last synced
    sync = os.fsync

    def recording(descriptor: int) -> None:
        sync(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size

    monkeypatch.setattr(os, "fsync", recording)
    with run(state, pictures) as journal:
        status = the_file(state).stat()
        assert synced[status.st_ino] == status.st_size > 0
        assert (state / "runs").stat().st_ino in synced
        synced.clear()
        keys(journal, pictures)
        assert synced == {}, "one sync is for all"

        os.truncate(pictures[0].source, 3)
        journal.key_for(pictures[0])
        status = the_file(state).stat()
        assert synced[status.st_ino] == status.st_size


def test_a_run_after_an_interrupted_one_uses_its_keys_and_knows_what_was_acknowledged(
    state: Path, pictures: list[Picture]
) -> None:
    first = interrupted(state, pictures, acknowledged=2)
    for _ in range(2):  # the second one was interrupted too
        with run(state, pictures) as journal:
            assert keys(journal, pictures) == first
            assert journal.inherited.is_resumed
            assert journal.inherited.acknowledged == {pictures[0].source: "t0", pictures[1].source: "t1"}
            assert journal.inherited.damaged == []
    assert len(files(state)) == 1


def test_a_run_after_a_completed_one_makes_new_keys(state: Path, pictures: list[Picture]) -> None:
    first = completed(state, pictures)
    assert files(state) == []
    with run(state, pictures) as journal:
        assert not journal.inherited.is_resumed
        assert not set(first) & set(keys(journal, pictures))


def test_a_resumed_run_that_completes_leaves_nothing_to_resume(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures)
    assert completed(state, pictures) == first
    assert files(state) == []
    assert not set(completed(state, pictures)) & set(first)


def test_a_changed_picture_gets_a_new_key_and_the_others_keep_theirs(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures, acknowledged=5)
    Path(pictures[1].source).write_bytes(b"longer than before")
    os.utime(pictures[1].source, ns=(10**18, 10**18))
    os.utime(pictures[3].source, ns=(10**18, 10**18 + 1))
    with run(state, pictures) as journal:
        now = keys(journal, pictures)
        kept = [old == new for old, new in zip(first, now, strict=True)]
        assert kept == [True, False, True, False, True]
        assert set(journal.inherited.acknowledged) == {pictures[n].source for n in (0, 2, 4)}
    with run(state, pictures) as journal:
        assert keys(journal, pictures) == now


def test_a_picture_that_changes_during_the_run_gets_a_key_for_what_is_sent(
    state: Path, pictures: list[Picture]
) -> None:
    with run(state, pictures) as journal:
        before = journal.key_for(pictures[0])
        os.truncate(pictures[0].source, 3)
        after = journal.key_for(pictures[0])
        assert after != before
    with run(state, pictures) as journal:
        assert journal.key_for(pictures[0]) == after


def test_a_picture_that_is_gone_is_told_when_it_is_to_be_sent(state: Path, pictures: list[Picture]) -> None:
    Path(pictures[2].source).unlink()
    with run(state, pictures) as journal, pytest.raises(FileNotFoundError):
        keys(journal, pictures)


def test_a_name_that_is_no_text_has_a_key_as_well(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd\udcff.jpg"
    path.touch()
    picture = [from_file(path)]
    assert interrupted(state, picture) == completed(state, picture)


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(HERE, model="other"),
        replace(HERE, task_manager="10.0.0.7:9999"),
        replace(HERE, receiver_url="http://10.0.0.8:8888"),
    ],
)
def test_what_goes_elsewhere_is_another_task_and_forgets_nothing(
    state: Path, pictures: list[Picture], elsewhere: Destination
) -> None:
    first = interrupted(state, pictures, acknowledged=1)
    with run(state, pictures, elsewhere) as journal:
        assert not journal.inherited.is_resumed
        assert not set(first) & set(keys(journal, pictures))
        journal.retire()
    with run(state, pictures) as journal:
        assert keys(journal, pictures) == first
        assert len(journal.inherited.acknowledged) == 1


def test_a_run_with_fewer_pictures_leaves_the_rest_to_be_resumed(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures, acknowledged=4)
    assert completed(state, pictures[:2]) == first[:2]
    with run(state, pictures) as journal:
        now = keys(journal, pictures)
        assert now[2:] == first[2:]
        assert not set(now[:2]) & set(first)
        assert journal.inherited.acknowledged == {pictures[2].source: "t2", pictures[3].source: "t3"}


# --- several at once ---


def test_a_run_that_still_lives_is_not_resumed(state: Path, pictures: list[Picture]) -> None:
    with run(state, pictures) as living:
        with run(state, pictures) as other:
            assert not other.inherited.is_resumed
            assert not set(keys(living, pictures)) & set(keys(other, pictures))
            other.retire()
        first = keys(living, pictures)
    assert completed(state, pictures) == first


def test_two_runs_that_were_interrupted_together_are_resumed_one_after_the_other(
    state: Path, pictures: list[Picture]
) -> None:
    with run(state, pictures) as one, run(state, pictures) as other:
        expected = {*keys(one, pictures), *keys(other, pictures)}
    assert {*completed(state, pictures), *completed(state, pictures)} == expected
    assert files(state) == []


def test_runs_that_begin_in_the_same_moment_each_resume_their_own(state: Path, tmp_path: Path) -> None:
    parts = [make(tmp_path / name, 3) for name in "abcd"]
    everything = list(itertools.chain(*parts))
    first = interrupted(state, everything)

    def resumed(part: list[Picture]) -> list[str]:
        with run(state, part) as journal:
            return keys(journal, part)

    with ThreadPoolExecutor(len(parts)) as pool:
        assert list(itertools.chain(*pool.map(resumed, parts))) == first
    assert completed(state, everything) == first
    assert files(state) == []


# --- crashes and damage ---


def test_a_crash_before_the_old_file_is_gone_makes_no_second_key(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures, acknowledged=1)
    old = the_file(state)
    kept = state / "kept"
    shutil.copy(old, kept)
    with run(state, pictures) as journal:
        journal.acknowledge(first[1], TaskId("t1"))
    shutil.copy(kept, old)
    assert len(files(state)) == 2
    with run(state, pictures) as journal:
        assert keys(journal, pictures) == first
        assert set(journal.inherited.acknowledged.values()) == {"t0", "t1"}
        journal.retire()
    assert files(state) == []


def test_a_file_cut_at_any_byte_costs_only_what_was_not_whole(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures[:2], acknowledged=1)
    content = the_file(state).read_bytes()
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    for cut in {*range(0, len(content), 17), *ends, *(end + 1 for end in ends[:-1])}:
        for path in files(state):
            path.unlink()
        (state / "runs" / "torn.jsonl").write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")  # two keys, then an acknowledgement
        with run(state, pictures[:2]) as journal:
            kept = [old == new for old, new in zip(first, keys(journal, pictures[:2]), strict=True)]
            assert kept == [whole > 0, whole > 1]
            assert len(journal.inherited.acknowledged) == 0
            assert journal.inherited.damaged == []


@pytest.mark.parametrize(
    "line", [b"\x00" * 40, b"", b"{}", b"[]", b'{"picture": 1, "key": "k"}', b'{"key": "k"}', b"{"]
)
def test_a_damaged_file_is_set_aside_and_what_is_readable_of_it_is_used(
    state: Path, pictures: list[Picture], line: bytes
) -> None:
    first = interrupted(state, pictures, acknowledged=1)
    path = the_file(state)
    lines = path.read_bytes().splitlines()
    assert first[1].encode() in lines[1]
    lines[1] = line
    damaged = b"\n".join([*lines, b""])
    path.write_bytes(damaged)
    with run(state, pictures[2:]) as journal:
        assert keys(journal, pictures[2:]) == first[2:]
        (aside,) = journal.inherited.damaged
        assert aside.read_bytes() == damaged
        journal.retire()
    with run(state, pictures) as journal:
        assert journal.key_for(pictures[0]) == first[0]
        assert journal.key_for(pictures[1]) not in first
        assert journal.inherited.acknowledged == {pictures[0].source: "t0"}
        assert journal.inherited.damaged == [], "it is told once"


def test_what_nobody_resumes_is_forgotten_in_the_end(state: Path, pictures: list[Picture]) -> None:
    interrupted(state, pictures)
    (state / "runs" / "x.jsonl.damaged").touch()
    now = os.stat(the_file_of_run := files(state)[0]).st_mtime
    for age_s, expected in ((KEPT_S - 3600, 2), (KEPT_S + 1, 0)):
        for path in files(state):
            os.utime(path, (now - age_s, now - age_s))
        with run(state, []) as journal:
            assert not journal.inherited.is_resumed
            journal.retire()
        assert len(files(state)) == expected
    assert not the_file_of_run.exists()


def test_a_full_disk_is_an_error_before_anything_is_sent_under_a_key(state: Path, pictures: list[Picture]) -> None:
    first = interrupted(state, pictures)
    (before,) = files(state)
    with no_file_longer_than(100), pytest.raises(StartupError, match="name another client_state_dir"):
        RunJournal.begin(state, pictures, HERE)
    assert files(state) == [before]
    with run(state, pictures) as journal:
        os.truncate(pictures[0].source, 3)
        with no_file_longer_than(the_file(state).stat().st_size + 10):
            with pytest.raises(StorageFailed, match="cannot be written: File too large"):
                journal.key_for(pictures[0])
            with pytest.raises(StorageFailed):
                journal.acknowledge(first[1], TaskId("t1"))


def test_a_directory_that_cannot_be_used_is_an_error(tmp_path: Path, pictures: list[Picture]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="runs: cannot be used: Not a directory"):
        RunJournal.begin(tmp_path / "file", pictures, HERE)


steps = st.tuples(st.sets(st.integers(0, 4), min_size=1), st.sampled_from(["completes", "dies", "dies while writing"]))


@settings(max_examples=25, deadline=None)
@given(st.lists(steps, max_size=8))
def test_a_key_lives_from_its_first_use_until_a_run_with_it_completes(history: list[tuple[set[int], str]]) -> None:
    with TemporaryDirectory() as name:
        state, pictures = Path(name, "state"), make(Path(name, "pictures"), 5)
        open_keys: dict[int, str] = {}
        used: set[str] = set()
        for chosen, end in history:
            mine = {n: pictures[n] for n in sorted(chosen)}
            with run(state, list(mine.values())) as journal:
                assert journal.inherited.is_resumed == bool(open_keys.keys() & mine)
                for n, picture in mine.items():
                    key = journal.key_for(picture)
                    if n in open_keys:
                        assert key == open_keys[n]
                    else:
                        assert key not in used
                    open_keys[n] = key
                    used.add(key)
                    journal.acknowledge(key, TaskId(f"task of {key}"))
                if end == "completes":
                    journal.retire()
                    for n in mine:
                        del open_keys[n]
            if end == "dies while writing":
                for path in files(state):
                    with path.open("ab") as file:
                        file.write(b'{"key": "to')
            assert bool(files(state)) == bool(open_keys)

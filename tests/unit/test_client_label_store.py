from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import durable, label_store, redo_log
from client.journal import FILE_NAME
from client.label_store import LabelStore, Verdict, label_json, why_unusable
from edgesched import catalogue
from edgesched.domain.detection import Detection
from edgesched.domain.task import AttemptId, TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.rest import LABELLED_PICTURE, LabelledPicture
from tests.support.disks import no_file_longer_than

STAR = Detection(class_id=2, label="stjärna", confidence=0.875, x1=1.5, y1=2.0, x2=30.0, y2=40.0)


def item(task_id: str, file_name: str = "a.jpg", *, model: str = "shapes", found: int = 1) -> LabelledPicture:
    return LabelledPicture(
        task_id=TaskId(task_id),
        attempt_id=AttemptId(f"attempt-{task_id}"),
        model=model,
        file_name=file_name,
        detections=(STAR,) * found,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(directory: Path) -> Iterator[LabelStore]:
    with LabelStore.opened(directory) as opened:
        yield opened


def names(directory: Path, model: str = "shapes") -> list[str]:
    return sorted(path.name for path in (directory / model / "rst").iterdir())


def owner(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))["task_id"])


def test_a_task_gets_a_json_and_a_text_file(store: LabelStore, directory: Path) -> None:
    assert store.store([item("t1"), item("t2", "nothing.png", found=0)]) == [Verdict(is_new=True)] * 2
    folder = directory / "shapes" / "rst"
    assert (folder / "a.txt").read_text() == "2 1.5 2 30 40 0.875\n"
    assert (folder / "nothing.txt").read_bytes() == b""
    assert (folder / "a.json").read_bytes() == label_json(item("t1"))
    assert json.loads((folder / "a.json").read_text(encoding="utf-8")) == {
        "task_id": "t1",
        "attempt_id": "attempt-t1",
        "model": "shapes",
        "file_name": "a.jpg",
        "detections": [
            {"class_id": 2, "label": "stjärna", "confidence": 0.875, "x1": 1.5, "y1": 2, "x2": 30, "y2": 40}
        ],
    }


def test_labels_are_durable_before_it_returns_and_so_are_the_directories_above_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, recording(getattr(os, name), synced))
    directory = tmp_path / "new" / "data"
    with LabelStore.opened(directory) as store:
        parents = [tmp_path, tmp_path / "new", directory]
        assert {path.stat().st_ino for path in parents} <= set(synced), "it could vanish with the logs in it"
        store.store([item("t1"), item("t2")])
        assert synced[-1] == (directory / redo_log.FILE_NAME).stat().st_ino


def recording(sync: Callable[[int], None], synced: list[int]) -> Callable[[int], None]:
    def record(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    return record


def lose_power(directory: Path, saved: Path, torn: bytes = b"") -> None:
    """What a disk has that kept only what was synced: the two logs as they were saved, and no label file."""
    shutil.rmtree(directory)
    shutil.copytree(saved, directory)
    with (directory / redo_log.FILE_NAME).open("ab") as file:
        file.write(torn)


@pytest.mark.parametrize("torn", [b"", b'{"stem": "b", "item": {"task_id": "t3"'])
def test_labels_whose_files_a_power_cut_took_are_written_again(tmp_path: Path, torn: bytes) -> None:
    directory, saved = tmp_path / "data", tmp_path / "saved"
    with LabelStore.opened(directory) as store:
        store.store([item("t1"), item("t2")])
        before = {path.name: path.read_bytes() for path in (directory / "shapes" / "rst").iterdir()}
        saved.mkdir()
        for name in (FILE_NAME, redo_log.FILE_NAME):
            shutil.copy(directory / name, saved / name)
    lose_power(directory, saved, torn)
    with LabelStore.opened(directory) as store:
        assert {path.name: path.read_bytes() for path in (directory / "shapes" / "rst").iterdir()} == before
        assert store.store([item("t2"), item("t1")]) == [Verdict(), Verdict()]


def test_a_start_that_cannot_write_what_a_power_cut_took_keeps_it_for_the_next_one(tmp_path: Path) -> None:
    directory, saved = tmp_path / "data", tmp_path / "saved"
    saved.mkdir()
    with LabelStore.opened(directory) as store:
        store.store([item("t1")])
        for name in (FILE_NAME, redo_log.FILE_NAME):
            shutil.copy(directory / name, saved / name)
    lose_power(directory, saved)
    (directory / "shapes").write_text("a file where the model's directory should be")
    with pytest.raises(StartupError, match="cannot be used"), LabelStore.opened(directory):
        pass
    (directory / "shapes").unlink()
    with LabelStore.opened(directory):
        assert owner(directory / "shapes" / "rst" / "a.json") == "t1"


def test_labels_that_were_refused_never_come_back_in_place_of_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are in the redo log under one name, since the first one's files could not be written."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    saved = directory.parent / "saved"
    with LabelStore.opened(directory) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", full)
            (verdict,) = store.store([item("t1")])
            assert verdict.error is not None
        assert store.store([item("t2")]) == [Verdict(is_new=True)]
        shutil.copytree(directory, saved)
    lose_power(directory, saved)
    with LabelStore.opened(directory) as store:
        assert owner(directory / "shapes" / "rst" / "a.json") == "t2"
        assert store.store([item("t1"), item("t2")]) == [Verdict(is_new=True), Verdict()]
        assert owner(directory / "shapes" / "rst" / "a.t1.json") == "t1"


def test_a_write_that_ends_early_is_carried_on(
    store: LabelStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    store.store([item("t1")])
    assert (directory / "shapes" / "rst" / "a.json").read_bytes() == label_json(item("t1"))


def test_labels_of_a_task_that_the_journal_has_forgotten_are_known_by_their_file(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LabelStore.opened(directory) as store:
        store.store([item("t1"), item("t2")])
    (directory / FILE_NAME).unlink()
    before = {path: path.stat().st_mtime_ns for path in (directory / "shapes" / "rst").iterdir()}
    with LabelStore.opened(directory) as store:
        assert store.store([item("t2"), item("t1")]) == [Verdict(), Verdict()]
        assert store.store([item("t3")]) == [Verdict(is_new=True)]
    assert before.items() <= {p: p.stat().st_mtime_ns for p in (directory / "shapes" / "rst").iterdir()}.items()
    assert owner(directory / "shapes" / "rst" / "a.t3.json") == "t3"


def test_other_labels_for_the_same_task_are_noted_and_the_first_ones_stay(
    store: LabelStore, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.store([item("t1")])
    store.store([item("t1").model_copy(update={"attempt_id": "another"})])
    assert "labels.differ" not in caplog.text, "the labels are the same"
    assert store.store([item("t1", found=2)]) == [Verdict()]
    assert "labels.differ" in caplog.text
    assert (directory / "shapes" / "rst" / "a.json").read_bytes() == label_json(item("t1"))


def test_only_one_at_a_time_may_use_a_directory(store: LabelStore, directory: Path) -> None:
    with pytest.raises(StartupError, match="another receiver already writes to"), LabelStore.opened(directory):
        pass


def test_a_file_that_was_taken_away_after_a_clean_stop_stays_away(directory: Path) -> None:
    with LabelStore.opened(directory) as store:
        store.store([item("t1")])
    for path in (directory / "shapes" / "rst").iterdir():
        path.unlink()
    with LabelStore.opened(directory) as store:
        assert names(directory) == []
        assert store.known_tasks == 1


def test_a_log_that_has_grown_begins_anew_once_its_files_are_durable(
    store: LabelStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_store, "CHECKPOINT_BYTES", 100)
    store.store([item("t1")])
    assert (directory / redo_log.FILE_NAME).stat().st_size == 0
    assert b'"t1"' in (directory / FILE_NAME).read_bytes()


def test_when_nobody_can_tell_what_the_disk_has_the_process_ends_and_the_next_one_does_it_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(label_store, "CHECKPOINT_BYTES", 0)
        patch.setattr(durable, "sync_file_system", broken)
        with pytest.raises(StorageFailed, match="Input/output error"), LabelStore.opened(directory) as store:
            store.store([item("t1")])
    for path in (directory / "shapes" / "rst").iterdir():
        path.unlink()
    with LabelStore.opened(directory) as store:
        assert names(directory) == ["a.json", "a.txt"]
        assert store.known_tasks == 1


def test_a_directory_named_rst_gets_no_second_one(tmp_path: Path) -> None:
    with LabelStore.opened(tmp_path / "rst") as store:
        store.store([item("t1")])
    assert (tmp_path / "rst" / "shapes" / "a.json").exists()


def test_a_name_that_another_task_has_gets_the_task_id(store: LabelStore, directory: Path) -> None:
    store.store([item("t1"), item("t2"), item("other", model="cars")])
    store.store([item("t3", "a.png")])
    assert names(directory) == ["a.json", "a.t2.json", "a.t2.txt", "a.t3.json", "a.t3.txt", "a.txt"]
    assert names(directory, "cars") == ["a.json", "a.txt"]
    assert owner(directory / "shapes" / "rst" / "a.t3.json") == "t3"


def test_even_a_name_made_to_look_like_another_tasks_overwrites_nothing(store: LabelStore, directory: Path) -> None:
    store.store([item("t1"), item("evil", "a.t2.jpg"), item("t2")])
    folder = directory / "shapes" / "rst"
    assert [owner(folder / f"{stem}.json") for stem in ("a", "a.t2", "a.t2.2")] == ["t1", "evil", "t2"]


def test_the_same_task_again_is_accepted_and_changes_nothing(store: LabelStore, directory: Path) -> None:
    store.store([item("t1")])
    path = directory / "shapes" / "rst" / "a.json"
    before = path.stat()
    assert store.store([item("t1"), item("t1")]) == [Verdict(), Verdict()]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert len(names(directory)) == 2


def test_the_same_task_again_is_known_after_a_restart(directory: Path) -> None:
    with LabelStore.opened(directory) as store:
        store.store([item("t1"), item("t2")])
    with LabelStore.opened(directory) as store:
        assert store.known_tasks == 2
        assert store.store([item("t2"), item("t1")]) == [Verdict(), Verdict()]
    assert names(directory) == ["a.json", "a.t2.json", "a.t2.txt", "a.txt"]


def test_a_file_that_has_gone_is_written_again_under_its_name(store: LabelStore, directory: Path) -> None:
    store.store([item("t1"), item("t2")])
    folder = directory / "shapes" / "rst"
    (folder / "a.t2.txt").unlink()
    kept = (folder / "a.t2.json").stat().st_ino
    assert store.store([item("t2")]) == [Verdict()]
    assert (folder / "a.t2.txt").exists()
    assert (folder / "a.t2.json").stat().st_ino == kept
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    store.store([item("t2")])
    assert names(directory) == ["a.t2.json", "a.t2.txt"]


def test_one_task_twice_in_a_group_is_written_once(store: LabelStore, directory: Path) -> None:
    assert store.store([item("t1"), item("t1")]) == [Verdict(is_new=True), Verdict()]
    assert names(directory) == ["a.json", "a.txt"]


def test_files_of_the_user_are_never_overwritten(store: LabelStore, directory: Path) -> None:
    folder = directory / "shapes" / "rst"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("mine")
    (folder / "b.json").write_text('{"mine": true}')
    store.store([item("t1"), item("t2", "b.jpg")])
    assert names(directory) == ["a.t1.json", "a.t1.txt", "a.txt", "b.json", "b.t2.json", "b.t2.txt"]
    assert (folder / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("left", [("a.json", "a.txt"), ("a.json",), ()])
def test_a_crash_before_the_journal_leaves_no_second_set(directory: Path, left: tuple[str, ...]) -> None:
    """Files that were put in place, but not noted, are this task's own when it comes again."""
    with LabelStore.opened(directory) as store:
        store.store([item("t1")])
    (directory / FILE_NAME).unlink()
    for name in {"a.json", "a.txt"} - set(left):
        (directory / "shapes" / "rst" / name).unlink()
    with LabelStore.opened(directory) as store:
        assert store.store([item("t1"), item("t2")]) == [Verdict(is_new=not left), Verdict(is_new=True)]
    assert names(directory) == ["a.json", "a.t2.json", "a.t2.txt", "a.txt"]
    assert owner(directory / "shapes" / "rst" / "a.json") == "t1"


def test_what_a_killed_process_left_half_written_is_removed(directory: Path, tmp_path: Path) -> None:
    for folder in (directory / "shapes" / "rst", tmp_path / "rst" / "shapes"):
        folder.mkdir(parents=True)
        (folder / ".edgesched-7.tmp").write_text("{")
        (folder / "mine.tmp").write_text("")
        with LabelStore.opened(folder.parent if folder.name == "shapes" else directory):
            assert [path.name for path in folder.iterdir()] == ["mine.tmp"]


def test_a_model_whose_directory_cannot_be_made_harms_no_other(store: LabelStore, directory: Path) -> None:
    (directory / "blocked").write_text("a file")
    good, bad = store.store([item("t1"), item("t2", model="blocked")])
    assert good == Verdict(is_new=True)
    assert isinstance(bad.error, OSError)
    (directory / "blocked").unlink()
    assert store.store([item("t2", model="blocked")]) == [Verdict(is_new=True)]


def test_a_full_disk_leaves_nothing_behind_and_later_the_same_item_is_taken(store: LabelStore, directory: Path) -> None:
    with no_file_longer_than(200):
        verdicts = store.store([item("t1", found=50), item("t2", "b.jpg", found=50)])
    assert all(verdict.error is not None for verdict in verdicts)
    assert names(directory) == []
    assert store.known_tasks == 0
    assert store.store([item("t1", found=50)]) == [Verdict(is_new=True)]


def test_a_name_as_long_as_it_may_be_still_gets_its_files(store: LabelStore, directory: Path) -> None:
    longest = "ü" * 125 + "a.jpg"  # 255 bytes
    task_ids = ["x" * 64, "y" * 64]
    assert store.store([item(task_id, longest) for task_id in task_ids]) == [Verdict(is_new=True)] * 2
    owners = {owner(path) for path in (directory / "shapes" / "rst").glob("*.json")}
    assert owners == set(task_ids)


@pytest.mark.parametrize(
    "file_name",
    [
        "",
        ".",
        "..",
        "../a.jpg",
        "a/b.jpg",
        "/etc/passwd",
        "a\\b.jpg",
        "a\0.jpg",
        "a\n.jpg",
        "a\x7f.jpg",
        "x" * 256,
        "ü" * 128,
    ],
)
def test_a_name_that_could_lead_elsewhere_is_rejected(store: LabelStore, directory: Path, file_name: str) -> None:
    bad, good = store.store([item("t1", file_name), item("t2")])
    assert bad.rejected is not None
    assert good == Verdict(is_new=True)
    assert names(directory) == ["a.json", "a.txt"]


@pytest.mark.parametrize("model", ["", ".", "..", "../up", "a/b", ".hidden", "ü", "x" * 65])
def test_a_model_that_could_lead_elsewhere_is_rejected(store: LabelStore, directory: Path, model: str) -> None:
    (verdict,) = store.store([item("t1", model=model)])
    assert verdict.rejected is not None
    assert {path.name for path in directory.iterdir()} == {FILE_NAME, redo_log.FILE_NAME}


@pytest.mark.parametrize(
    "file_name", ["a b.jpg", "東京.jpg", "..jpg", ".jpg", "a", "a.", "a..b.jpg", "-rf.jpg", "e\u0301.jpg"]
)
def test_unusual_names_are_fine(store: LabelStore, directory: Path, file_name: str) -> None:
    assert store.store([item("t1", file_name)]) == [Verdict(is_new=True)]
    stem = os.path.splitext(file_name)[0]
    assert names(directory) == sorted([f"{stem}.json", f"{stem}.txt"])


NAMES = st.text(alphabet="ab.-/\\\0 \né", max_size=8)


@given(NAMES, NAMES)
def test_no_accepted_name_leaves_its_directory(file_name: str, model: str) -> None:
    if why_unusable(item("t1", file_name, model=model)) is None:
        stem = os.path.splitext(file_name)[0]
        assert os.path.normpath(f"/data/{model}/rst/{stem}.json") == f"/data/{model}/rst/{stem}.json"


CORNERS = st.floats(min_value=-1e9, max_value=1e9)


@given(st.text(), st.text(), st.integers(0, 10**12), st.floats(0, 1), CORNERS, CORNERS)
def test_a_json_file_and_a_line_of_the_redo_log_say_exactly_what_came(
    label: str, file_name: str, class_id: int, confidence: float, left: float, top: float
) -> None:
    found = Detection(
        class_id=class_id, label=label, confidence=confidence, x1=left, y1=top, x2=left + 1, y2=top + 1e-7
    )
    labelled = item("t1", file_name).model_copy(update={"detections": (found, STAR)})
    assert LABELLED_PICTURE.parse(label_json(labelled)) == labelled
    line = redo_log.record(file_name, label_json(labelled))
    assert line.index(b"\n") == len(line) - 1
    assert redo_log.REDO.parse(line) == redo_log.Redo(stem=file_name, item=labelled)


def test_models_are_named_as_in_the_catalogue() -> None:
    assert label_store.MODEL_NAME.pattern == catalogue.MODEL_NAME.pattern


def test_a_directory_that_cannot_be_used_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartupError, match=r"--dir .*: cannot be used: Not a directory"),
        LabelStore.opened(tmp_path / "file" / "below"),
    ):
        pass

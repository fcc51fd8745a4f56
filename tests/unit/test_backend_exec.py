"""The user's own program: what it is told, what it may do, and that it never outlives its worker."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agents.worker.errors import InferenceFailed, InvalidInput, ModelUnavailable
from agents.worker.model import Model, open_model
from agents.worker.spec import parse_model
from tests.support.graphs import bright_box_graph, bright_box_picture, encoded, spec_for
from tests.support.vendors import program_for

PICTURE = encoded(bright_box_picture(128, 64, (20, 10, 80, 50)))
BOX = ("square", 1.0, 20.0, 10.0, 80.0, 50.0)
LINE = "1 20 10 80 50 1"
WITHIN_S = 20.0

# A program of a few lines: LABEL is what it does with the variables `picture` and `labels`.
LOOP = """
while :; do
  for picture in "$INPUT_DIR"/_sub_reqs_ready/"$SERVICE_NAME"/*/*/*.*; do
    [ -e "$picture" ] || continue
    name=$(basename "$picture"); folder="$OUTPUT_DIR/label/$(basename "$(dirname "$picture")")"
    mkdir -p "$folder"; labels="$folder/${name%.*}.txt"
    LABEL
  done
  sleep 0.01
done
"""


@pytest.fixture(autouse=True)
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the backend makes its directories: one that only this test has."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def described(directory: Path, **options: Any) -> dict[str, Any]:
    spec = spec_for(directory / "none", "yolov8", backend="exec", options=options)
    return {**spec, "build": {**spec["build"], "file": ""}}


def looping(directory: Path, label: str, **options: Any) -> dict[str, Any]:
    (directory / "program.sh").write_text(LOOP.replace("LABEL", label))
    return described(directory, start_cmd="sh program.sh", **options)


def opened(spec: dict[str, Any], slot: int = 0) -> Model:
    return open_model(parse_model(spec, slot=slot), lambda *record: None)


def boxes(model: Model, picture: bytes = PICTURE) -> list[tuple[Any, ...]]:
    answer = model.run(bytearray(picture))
    assert (answer.width, answer.height) == (128, 64)
    keys = ("label", "confidence", "x1", "y1", "x2", "y2")
    return [tuple(found[key] for key in keys) for found in answer.detections]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between open and read
        return False


def wait_for(condition: Any) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("form", ["start_cmd", "picture_cmd"])
def test_both_forms_give_the_labels_that_the_program_writes(tmp_path: Path, form: str) -> None:
    graph = bright_box_graph(tmp_path / "box.onnx", "yolov8")
    program = program_for(spec_for(graph, "yolov8"), graph)
    model = opened(described(tmp_path, **{form: program}))
    assert [boxes(model), boxes(model)] == [[BOX], [BOX]]
    model.close()


@pytest.mark.parametrize("label", [f'echo "{LINE}" > "$labels"; rm "$picture"', f'echo "{LINE}" > "$labels"'])
def test_a_program_may_leave_the_picture_or_delete_it(tmp_path: Path, label: str) -> None:
    model = opened(looping(tmp_path, f'[ -e "$labels" ] && continue; {label}'))
    assert boxes(model) == [BOX]
    assert boxes(model) == [BOX]
    model.close()


def test_an_empty_label_file_is_no_detection_and_half_a_file_is_not_read(tmp_path: Path) -> None:
    model = opened(looping(tmp_path, ': > "$labels"; rm "$picture"'))
    assert boxes(model) == []
    model.close()
    slowly = f'printf "1 20 10" > "$labels"; sleep 0.03; printf " 80 50 1\\n{LINE}\\n" >> "$labels"; rm "$picture"'
    model = opened(looping(tmp_path, slowly))
    assert boxes(model) == [BOX, BOX]
    model.close()


def test_weak_labels_are_dropped_and_boxes_clipped_as_with_every_backend(tmp_path: Path) -> None:
    lines = "0 0 0 20 20 0.3\\n2 100 40 900 900 0.9\\n"
    model = opened(looping(tmp_path, f'printf "{lines}" > "$labels"; rm "$picture"'))
    assert boxes(model) == [("star", 0.9, 100.0, 40.0, 128.0, 64.0)]
    model.close()


def test_the_program_gets_the_file_byte_by_byte_under_its_own_ending(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", bright_box_picture(128, 64, (0, 0, 9, 9)))[1].tobytes()
    model = opened(
        described(
            tmp_path, picture_cmd=f'cp "$PICTURE" {tmp_path}/"$SLOT-$SERVICE_NAME-${{PICTURE##*.}}"; : > "$LABELS"'
        ),
        2,
    )
    boxes(model, jpeg)
    boxes(model, PICTURE)
    model.close()
    assert (tmp_path / "2-shapes-jpg").read_bytes() == jpeg
    assert (tmp_path / "2-shapes-png").read_bytes() == PICTURE


def test_what_the_program_writes_beside_labels_does_not_pile_up(tmp_path: Path, temporary_directory: Path) -> None:
    extra = 'mkdir -p "$OUTPUT_DIR/image"; echo box > "$OUTPUT_DIR/image/$name"'
    model = opened(looping(tmp_path, f'{extra}; echo "{LINE}" > "$labels"; rm "$picture"'))
    for _ in range(3):
        boxes(model)
    assert len([path for path in temporary_directory.rglob("*") if path.is_file()]) <= 2
    model.close()
    assert list(temporary_directory.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exit 3", r"ended with exit code 3 before it wrote labels: exit 3"),
        ("no-such-command-anywhere", r"exit code 127, a command in it was not found"),
        ("kill -SEGV $$", r"was killed by signal 11"),
    ],
)
def test_a_program_that_ends_says_how(tmp_path: Path, command: str, told: str) -> None:
    with pytest.raises(InferenceFailed, match=f"model 'shapes'.*{told}"):
        opened(described(tmp_path, start_cmd=command))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("exit 4", "picture_cmd ended with exit code 4"),
        ("true", "did not write the file that LABELS names"),
        ('echo "1 2 3" > "$LABELS"', r"the line '1 2 3' is no label: it must be `class x1 y1 x2 y2 confidence`"),
        ('echo "nan 0 0 9 9 1" > "$LABELS"', "is no label"),
        ("sleep 60", "took longer than 0.2 s"),
    ],
)
def test_a_run_that_goes_wrong_says_how(tmp_path: Path, command: str, told: str) -> None:
    with pytest.raises(InferenceFailed, match=told):
        opened(described(tmp_path, picture_cmd=command, timeout_s=0.2))


def test_a_class_without_a_label_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="returned class 7, but the model has 3 labels"):
        opened(looping(tmp_path, 'echo "7 0 0 9 9 1" > "$labels"; rm "$picture"'))


def test_a_program_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(
        InferenceFailed, match=r"wrote no output/label/127\.0\.0\.1/picture-000000001\.txt within 0\.3 s"
    ):
        opened(described(tmp_path, start_cmd="sleep 60", timeout_s=0.3))


def test_a_program_that_died_is_started_again_for_the_next_picture(tmp_path: Path) -> None:
    once = "[ -e second ] && [ ! -e third ] && touch third && exit 1; touch second"  # the second picture, once
    model = opened(looping(tmp_path, f'{once}; echo "{LINE}" > "$labels"; rm "$picture"'))
    with pytest.raises(InferenceFailed, match="ended with exit code 1"):
        boxes(model)
    assert boxes(model) == [BOX]
    model.close()


@pytest.mark.parametrize("options", [{}, {"start_cmd": "a", "picture_cmd": "b"}])
def test_one_command_is_needed(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"needs one command: start_cmd .* or picture_cmd"):
        opened(described(tmp_path, **options))


def test_closing_ends_the_program_and_all_that_it_started(tmp_path: Path) -> None:
    label = f'sleep 1000 & echo $! $$ > {tmp_path}/pids; echo "{LINE}" > "$labels"; rm "$picture"'
    model = opened(looping(tmp_path, label))
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    model.close()
    wait_for(lambda: not any(map(alive, pids)))


def test_the_program_ends_even_if_its_worker_is_killed(tmp_path: Path, temporary_directory: Path) -> None:
    label = f"sleep 1000 & echo $! $$ > {tmp_path}/pids.part; mv {tmp_path}/pids.part {tmp_path}/pids; sleep 1000"
    spec = looping(tmp_path, label)
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from agents.worker.model import open_model\nfrom agents.worker.spec import parse_model\n"
        f"open_model(parse_model({spec!r}), print)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(temporary_directory)])
    try:
        wait_for((tmp_path / "pids").exists)
        pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, pids))
    finally:
        worker.kill()
        worker.wait(WITHIN_S)
    wait_for(lambda: not any(map(alive, pids)))
    assert len(list(temporary_directory.iterdir())) == 1  # it could not tidy up; the next one does
    model = opened(described(tmp_path, picture_cmd=': > "$LABELS"'))
    assert len(list(temporary_directory.iterdir())) == 1
    model.close()
    assert list(temporary_directory.iterdir()) == []


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    spec = looping(tmp_path, f'echo $$ > {tmp_path}/pid; echo "{LINE}" > "$labels"; rm "$picture"')
    script = tmp_path / "program.sh"
    script.write_text('trap "" TERM\n' + script.read_text())
    model = opened(spec)
    pid = int((tmp_path / "pid").read_text())
    model.close()
    wait_for(lambda: not alive(pid))


def test_a_picture_s_name_is_safe_whatever_the_model_is_called(tmp_path: Path) -> None:
    model = opened({**looping(tmp_path, f'echo "{LINE}" > "$labels"; rm "$picture"'), "name": "YoloV5"})
    assert boxes(model) == [BOX]
    model.close()


def test_no_picture_never_reaches_the_program(tmp_path: Path) -> None:
    model = opened(described(tmp_path, picture_cmd=': > "$LABELS"; touch ran-"$(basename "$PICTURE")"'))
    with pytest.raises(InvalidInput):
        model.run(bytearray(b"no picture"))
    model.close()
    assert [path.name for path in tmp_path.glob("ran-*")] == ["ran-picture-000000001.png"]  # the one to warm up


def test_grey_and_colour_pictures_go_the_same_way(tmp_path: Path) -> None:
    model = opened(described(tmp_path, picture_cmd=f'echo "{LINE}" > "$LABELS"'))
    assert boxes(model, encoded(np.zeros((64, 128, 3), np.uint8), ".bmp")) == [BOX]
    model.close()

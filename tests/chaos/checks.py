"""What must be true at the end. Each check returns what is wrong, one sentence each; nothing wrong is an empty list."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from edgesched.domain.detection import Detection, text_lines
from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskDetails, TaskId
from tests.chaos.pictures import Labels


def read_acknowledged(path: Path) -> tuple[Mapping[TaskId, str], Sequence[str]]:
    """The sender's own log. Returns: name of the picture by task id, and what is wrong with the log."""
    found: dict[TaskId, str] = {}
    problems = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            entry = json.loads(line)
            name, task_id = Path(entry["path"]).name, TaskId(entry["task_id"])
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path.name}: line {number} cannot be read: {line[:80]!r}")
            continue
        if found.setdefault(task_id, name) != name:
            problems.append(f"task {task_id} was acknowledged for {name} and for {found[task_id]}")
    return found, problems


def check_acknowledged(
    acknowledged: Mapping[TaskId, str], tasks: Iterable[TaskDetails], pictures: Collection[str]
) -> list[str]:
    """The client's log and the ledger tell the same story, and every picture is in it exactly once."""
    in_ledger = {details.task.task_id: details.task.file_name for details in tasks}
    problems = [
        f"task {task_id} of {name} was acknowledged, but is not in the ledger"
        for task_id, name in acknowledged.items()
        if task_id not in in_ledger
    ]
    problems += [
        f"task {task_id} was acknowledged for {name}, but in the ledger it is of {in_ledger[task_id]}"
        for task_id, name in acknowledged.items()
        if in_ledger.get(task_id, name) != name
    ]
    problems += [f"{name} was never acknowledged" for name in sorted(set(pictures) - set(acknowledged.values()))]
    problems += [
        f"task {task_id} of {name} is in the ledger, but was never acknowledged"
        for task_id, name in in_ledger.items()
        if task_id not in acknowledged
    ]
    counts = Counter(in_ledger.values())
    problems += [f"{name} has {count} tasks" for name, count in sorted(counts.items()) if count > 1]
    return problems


def check_states(tasks: Iterable[TaskDetails]) -> list[str]:
    return [
        f"task {details.task.task_id} of {details.task.file_name} is {details.task.state}"
        f" after {len(details.attempts)} attempts: {details.task.last_error or 'no error'}"
        for details in tasks
        if details.task.state is not State.DELIVERED
    ]


def check_attempts(tasks: Iterable[TaskDetails]) -> list[str]:
    """Exactly one attempt of a delivered task won, and none is open any more."""
    problems = []
    for details in tasks:
        task = details.task
        if task.state is not State.DELIVERED:
            continue
        winners = [attempt for attempt in details.attempts if attempt.failure is None]
        open_ = [attempt.attempt_id for attempt in details.attempts if attempt.ended_at_ms is None]
        if task.attempt_id not in {attempt.attempt_id for attempt in details.attempts}:
            problems.append(f"task {task.task_id}: its winner {task.attempt_id} is none of its attempts")
        if open_:
            problems.append(f"task {task.task_id}: attempts {', '.join(open_)} are open, but it was delivered")
        if len(winners) != 1:
            problems.append(f"task {task.task_id}: {len(winners)} attempts ended without a failure")
    return problems


def check_labels(folder: Path, tasks: Sequence[TaskDetails], right: Mapping[str, Labels]) -> list[str]:
    """Every task has one JSON and one text file, with the labels of an undisturbed run, and there is nothing else."""
    problems: list[str] = []
    by_task: defaultdict[str, list[Path]] = defaultdict(list)
    files = set(folder.iterdir()) if folder.is_dir() else set()
    for path in sorted(path for path in files if path.suffix == ".json"):
        try:
            by_task[json.loads(path.read_text())["task_id"]].append(path)
        except (ValueError, KeyError, TypeError):
            problems.append(f"{path.name} cannot be read")
    for details in tasks:
        task = details.task
        paths = by_task.pop(task.task_id, [])
        if len(paths) != 1:
            problems.append(f"task {task.task_id} of {task.file_name} has {len(paths)} label files")
        for path in paths:
            problems += check_pair(path, details, right)
            files -= {path, path.with_suffix(".txt")}
    return problems + [f"{path.name} belongs to no task" for path in sorted(files)]


def check_pair(path: Path, details: TaskDetails, right: Mapping[str, Labels]) -> list[str]:
    content = json.loads(path.read_text())
    task = details.task
    expected = [dict(detection) for detection in right.get(task.file_name, ())]
    if content["file_name"] != task.file_name or content["model"] != task.model:
        return [f"{path.name} says {content['file_name']}, {content['model']}; the task is of {task.file_name}"]
    problems = []
    if content["detections"] != expected:
        problems.append(f"{path.name}: its labels differ from those of an undisturbed run")
    text_path = path.with_suffix(".txt")
    if not text_path.is_file():
        problems.append(f"{text_path.name} is missing")
    elif text_path.read_text() != text_lines([Detection(**detection) for detection in expected]):
        problems.append(f"{text_path.name}: its labels differ from those of an undisturbed run")
    return problems


def check_logs(folder: Path) -> list[str]:
    """A traceback is a fault that nobody had thought of."""
    return [
        f"{path} holds a traceback"
        for path in sorted(folder.glob("*.log"))
        if "Traceback" in path.read_text(errors="replace")
    ]

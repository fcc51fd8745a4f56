"""Why a device cannot take a task. A filter returns None, or the reason as people will read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgesched.domain.device import DeviceState
from edgesched.placement.fleet import Standing
from edgesched.ports import TaskToPlace

Filter = Callable[[TaskToPlace, Standing], str | None]

MAX_MEMORY_USED_FRACTION = 0.92
"""Memory is a limit, not a weight: a board that swaps is of no use, a half full one is as good as an empty one."""

FAILED_THERE = "task failed there before"

ANY_MODEL = ""
"""The model of a dry run that names none."""


def not_ready(task: TaskToPlace, standing: Standing) -> str | None:
    device = standing.device
    match device.state:
        case DeviceState.READY:
            return None
        case DeviceState.UNHEALTHY:
            return f"unhealthy: {device.unhealthy_reason or 'it does not say why'}"
        case DeviceState.SILENT:
            return f"silent: its last heartbeat is {device.last_heartbeat_age_ms / 1000:.1f} s old"


def not_wanted(task: TaskToPlace, standing: Standing) -> str | None:
    if standing.device.is_draining:
        return "draining: it finishes what it has and leaves"
    return "cordoned by an operator" if standing.device.is_cordoned else None


def link_broken(task: TaskToPlace, standing: Standing) -> str | None:
    return None if standing.is_reachable else "the task manager's connection to it is broken"


def breaker_open(task: TaskToPlace, standing: Standing) -> str | None:
    models = standing.device.models if task.model == ANY_MODEL else (task.model,)
    if not models or not all(model in standing.open_ms for model in models):
        return None
    model = min(models, key=standing.open_ms.__getitem__)
    failures, open_s = standing.memory.breakers[model].failures, standing.open_ms[model] / 1000
    return f"breaker open for model {model!r}: {failures} failures in a row; one task tries again in {open_s:.1f} s"


def on_trial(model: str) -> str:
    """Why a device with room gets no second task of a model that failed there too often."""
    return f"one task at a time for model {model!r} until it succeeds there"


def no_build(task: TaskToPlace, standing: Standing) -> str | None:
    models = standing.device.models
    if task.model == ANY_MODEL:
        return None if models else "no model is loaded there"
    return None if task.model in models else f"model {task.model} is not loaded there"


def labels_differ(task: TaskToPlace, standing: Standing) -> str | None:
    for name, wanted in task.labels.items():
        found = standing.device.labels.get(name)
        if found != wanted:
            return f"label {name} is {found or 'not set'}, the task wants {wanted}"
    return None


def memory_full(task: TaskToPlace, standing: Standing) -> str | None:
    used = standing.device.telemetry.memory_used_fraction
    if used is None or used <= MAX_MEMORY_USED_FRACTION:
        return None
    return f"memory {used:.0%} used, the limit is {MAX_MEMORY_USED_FRACTION:.0%}"


UNABLE: Sequence[Filter] = (not_ready, not_wanted, link_broken, breaker_open, no_build, labels_differ, memory_full)
"""Reasons that no waiting for other tasks will change. The first one is the one that is told."""


def inability(task: TaskToPlace, standing: Standing) -> str | None:
    """Why a device cannot run such tasks now, whatever else it does; None if it can."""
    for refuses in UNABLE:
        reason = refuses(task, standing)
        if reason is not None:
            return reason
    return None

"""Why a device cannot take a task. A filter returns None, or the reason as people will read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgesched.domain.device import DeviceState
from edgesched.placement.fleet import Standing
from edgesched.ports import TaskToPlace

Filter = Callable[[TaskToPlace, Standing], str | None]

MAX_MEMORY_USED_FRACTION = 0.92
"""Memory is a limit, not a weight: a board that swaps is of no use, a half full one is as good as an empty one."""

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


def link_broken(task: TaskToPlace, standing: Standing) -> str | None:
    return None if standing.is_reachable else "the task manager's connection to it is broken"


def no_build(task: TaskToPlace, standing: Standing) -> str | None:
    models = standing.device.models
    if task.model == ANY_MODEL:
        return None if models else "no build of any model"
    return None if task.model in models else f"no build of model {task.model}"


def memory_full(task: TaskToPlace, standing: Standing) -> str | None:
    used = standing.device.telemetry.memory_used_fraction
    if used is None or used <= MAX_MEMORY_USED_FRACTION:
        return None
    return f"memory {used:.0%} used, the limit is {MAX_MEMORY_USED_FRACTION:.0%}"


def failed_there(task: TaskToPlace, standing: Standing) -> str | None:
    return "task failed there before" if standing.device.device_id in task.avoid else None


def window_full(task: TaskToPlace, standing: Standing) -> str | None:
    device = standing.device
    if standing.in_flight_tasks >= device.window_tasks:
        return f"window full: {standing.in_flight_tasks} of {device.window_tasks} tasks"
    wanted = standing.in_flight_bytes + task.size_bytes
    if wanted > device.window_bytes and standing.in_flight_tasks:  # an empty window takes any picture, or it never goes
        return f"window full: {wanted:,} of {device.window_bytes:,} bytes with this picture"
    return None


UNABLE: Sequence[Filter] = (not_ready, link_broken, no_build, memory_full)
"""Reasons that no waiting for other tasks will change."""

FILTERS: Sequence[Filter] = (*UNABLE, failed_there, window_full)
"""The first reason is the one that is told."""


def refusal(task: TaskToPlace, standing: Standing, filters: Sequence[Filter] = FILTERS) -> str | None:
    for refuses in filters:
        reason = refuses(task, standing)
        if reason is not None:
            return reason
    return None

"""Where in an attempt the times lie that a board has told. It tells durations only: it may have booted in 1970."""

from __future__ import annotations

from dataclasses import dataclass

from edgesched.domain.task import Timings

AGENT, WORKER = "edgesched-agent", "edgesched-worker"
WORK_STAGES = ("decode", "preprocess", "infer", "postprocess")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of an attempt, and its own parts."""

    name: str
    service: str
    started_ns: int
    ended_ns: int
    parts: tuple[Stage, ...] = ()


def board_stage(timings: Timings, *, sent_ns: int, accepted_ns: int | None, ended_ns: int) -> Stage | None:
    """What the board did, laid into its attempt: in its true order and length, and never outside the attempt.

    The picture was whole on the board before the board was heard to say so, and early enough for all the work to end
    before the outcome came. The earlier of the two is at most some tens of milliseconds late, the time that boards hold
    what nobody waits for; and labels that waited long for a broken link move nothing.

    sent_ns, ended_ns: when the attempt was sent out, and when its outcome came.
    Returns: None if the board told no time at all.
    """
    known = [ns for name in WORK_STAGES if (ns := _ns(getattr(timings, f"{name}_ms"))) is not None]
    wait_ns, transfer_ns = _ns(timings.queued_ms), _ns(timings.transfer_ms)
    work_ns = _ns(timings.service_ms)
    if work_ns is None and known:
        work_ns = sum(known)
    if wait_ns is None and transfer_ns is None and work_ns is None:
        return None
    latest_ns = ended_ns - (wait_ns or 0) - (work_ns or 0)
    whole_ns = max(sent_ns, latest_ns if accepted_ns is None else min(accepted_ns, latest_ns))
    parts: list[Stage] = []
    started_ns = whole_ns
    if transfer_ns is not None:
        started_ns = max(sent_ns, whole_ns - transfer_ns)
        parts.append(Stage(name="transfer", service=AGENT, started_ns=started_ns, ended_ns=whole_ns))
    at_ns = whole_ns
    if wait_ns is not None:
        parts.append(_stage("wait", at_ns, wait_ns, ended_ns))
        at_ns = parts[-1].ended_ns
    if work_ns is not None:
        parts.append(_work(timings, at_ns, min(at_ns + work_ns, ended_ns)))
        at_ns = parts[-1].ended_ns
        parts.append(_stage("report", at_ns, ended_ns - at_ns, ended_ns))
    return Stage(name="board", service=AGENT, started_ns=started_ns, ended_ns=ended_ns, parts=tuple(parts))


def _work(timings: Timings, started_ns: int, ended_ns: int) -> Stage:
    """The worker's stages follow each other; the time that they leave is the worker's own."""
    parts: list[Stage] = []
    at_ns = started_ns
    for name in WORK_STAGES:
        if (duration_ns := _ns(getattr(timings, f"{name}_ms"))) is not None:
            parts.append(_stage(name, at_ns, duration_ns, ended_ns, service=WORKER))
            at_ns = parts[-1].ended_ns
    return Stage(name="work", service=WORKER, started_ns=started_ns, ended_ns=ended_ns, parts=tuple(parts))


def _stage(name: str, started_ns: int, duration_ns: int, limit_ns: int, *, service: str = AGENT) -> Stage:
    return Stage(name=name, service=service, started_ns=started_ns, ended_ns=min(started_ns + duration_ns, limit_ns))


def _ns(ms: float | None) -> int | None:
    return None if ms is None else round(ms * 1e6)

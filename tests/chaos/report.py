"""What a run has shown, for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskDetails
from edgesched.local.boards import parse_boards
from tests.chaos.gaps import Span, common, gaps, uncovered_s
from tests.chaos.injector import Injected
from tests.chaos.plan import Plan
from tests.chaos.schedule import Action, Kind

MOST_PROBLEMS = 25
MOST_NAMED = 8
STOPS_DELIVERY = frozenset(
    {Kind.UP, Kind.TASK_MANAGER, Kind.GATEWAY, Kind.RECEIVER, Kind.LINK_TO_GATEWAY, Kind.LINK_TO_RECEIVER}
)
"""There is one of each: while it is away nothing can be expected to arrive."""
ECHO_S = 1.0
"""A gap that begins so soon after a fault is put down to it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    lines: Sequence[str]
    problems: Sequence[str]

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is known when a run is over."""

    injected: Sequence[Injected]
    tasks: Sequence[TaskDetails]
    delivered_at: Mapping[str, float]  # wall seconds, by picture
    audit: str  # its words, at the end
    audits: int  # while faults were in force; what they found is among the problems
    stages: Mapping[str, float]  # seconds that each took
    problems: Sequence[str]


def summed_up(plan: Plan, ended: Ended) -> Report:
    tasks, injected = ended.tasks, ended.injected
    states = Counter(details.task.state for details in tasks)
    deliveries = [
        (details.task.created_at_ms / 1000, ended.delivered_at[details.task.file_name])
        for details in tasks
        if details.task.file_name in ended.delivered_at
    ]
    found = gaps(deliveries)
    excuses = _excuses(plan, injected)
    unexplained = {gap: uncovered_s(gap, excuses) for gap in found}
    problems = [*ended.problems, *_too_long(plan, unexplained, injected)]
    shown = [f"  problem     {problem}" for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        shown.append(f"  problem     and {len(problems) - MOST_PROBLEMS} more")
    lines = [
        f"chaos: seed {plan.seed}, {plan.pictures} pictures, {plan.boards}, {plan.layout}",
        f"  tasks       {len(tasks)} in the ledger, {states[State.DELIVERED]} delivered",
        f"  attempts    {_distribution(Counter(len(details.attempts) for details in tasks))}",
        f"  audit       {ended.audit.splitlines()[0] if ended.audit else 'no words'}",
        f"              and {ended.audits} beside the faults, which asked the boards too",
        f"  faults      {len(injected)} in all",
        *_faults_by_kind(injected),
        *_delivery_lines(deliveries, unexplained, injected),
        f"  took        {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in ended.stages.items())}",
        f"  logs        {plan.directory}",
        *shown,
        f"chaos: seed {plan.seed}: " + (f"FAIL, {len(problems)} problems" if problems else "PASS"),
    ]
    return Report(lines=lines, problems=problems)


def _too_long(plan: Plan, unexplained: Mapping[Span, float], injected: Sequence[Injected]) -> list[str]:
    return [
        f"nothing was delivered for {gap.seconds:.1f} s, {unexplained_s:.1f} s of them without a fault that prevents "
        f"it (goal: {plan.goal_s:g} s), during: {_during(gap, injected)}"
        for gap, unexplained_s in unexplained.items()
        if unexplained_s >= plan.goal_s
    ]


def _excuses(plan: Plan, injected: Sequence[Injected]) -> Sequence[Span]:
    """When no delivery could be expected: one of the sole parts was away, or all boards at the same time."""
    sole = [_span(entry) for entry in injected if entry.fault.kind in STOPS_DELIVERY]
    boards = [
        [_span(entry) for entry in injected if entry.target in (name, f"link {name}")]
        for _, name in parse_boards(plan.boards)
    ]
    return [*sole, *common(boards)]


def _distribution(counts: Counter[int]) -> str:
    return ", ".join(f"{times} x {number}" for number, times in sorted(counts.items())) or "none"


def _faults_by_kind(injected: Iterable[Injected]) -> list[str]:
    by_action: defaultdict[Action, Counter[str]] = defaultdict(Counter)
    for entry in injected:
        name = "workers" if entry.fault.kind is Kind.WORKER else entry.target
        by_action[entry.fault.action][name] += 1
    return [
        f"    {action:<9} {', '.join(f'{name} {count}' for name, count in sorted(by_action[action].items()))}"
        for action in Action
        if action in by_action
    ]


def _delivery_lines(
    deliveries: Sequence[tuple[float, float]], unexplained: Mapping[Span, float], injected: Sequence[Injected]
) -> list[str]:
    """unexplained: of each gap, the seconds without a fault that prevents deliveries."""
    if not unexplained:
        return []
    found = list(unexplained)
    slowest_s = max(delivered - accepted for accepted, delivered in deliveries)
    longest = max(found, key=lambda gap: gap.seconds)
    worst = max(found, key=lambda gap: unexplained[gap])
    alone = _alone(found, injected)
    return [
        f"  slowest     {slowest_s:.1f} s from acceptance to delivery",
        f"  gaps        longest without a delivery {longest.seconds:.1f} s, during: {_during(longest, injected)}",
        f"    longest part of one without a fault that prevents it {unexplained[worst]:.1f} s, "
        f"of {worst.seconds:.1f} s, during: {_during(worst, injected)}",
        "    longest around a fault, where no other one prevents deliveries:",
        *(
            f"      {max(alone[what]):5.1f} s  {what} ({len(alone[what])})"
            for what in sorted(alone, key=lambda what: -max(alone[what]))
        ),
    ]


def _alone(found: Sequence[Span], injected: Sequence[Injected]) -> Mapping[str, Sequence[float]]:
    """By kind of fault, per fault: its longest gap, of those that no other stopping fault has a share in."""
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for entry in injected:
        others = [_span(e, ECHO_S) for e in injected if e is not entry and e.fault.kind in STOPS_DELIVERY]
        own = [gap for gap in found if gap.overlaps(_span(entry, ECHO_S))]
        lonely = [gap.seconds for gap in own if not any(gap.overlaps(other) for other in others)]
        if lonely:
            by_kind[f"{entry.fault.action} {entry.fault.kind}"].append(max(lonely))
    return by_kind


def _during(gap: Span, injected: Iterable[Injected]) -> str:
    names = [str(entry) for entry in injected if gap.overlaps(_span(entry, ECHO_S))]
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join(names[:MOST_NAMED] + more) or "no fault"


def _span(entry: Injected, echo_s: float = 0.0) -> Span:
    return Span(entry.began_at, entry.ended_at + echo_s)

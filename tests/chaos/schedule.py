"""Which faults hit what, for how long, and when: decided by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.plan import Layout, Plan


class Action(StrEnum):
    KILL = "kill"  # SIGKILL; started again after a pause
    STOP = "stop"  # SIGTERM, and it must end in good order, whatever it has in hand; started again after a pause
    FREEZE = "freeze"  # SIGSTOP, then SIGCONT
    CUT = "cut"  # the link's connections are dropped, and new ones refused for a while
    STALL = "stall"  # the link carries nothing, without a word, then goes on
    VANISH = "vanish"  # the same, and what was open then stays silent for ever; only new connections work
    OUTAGE = "outage"  # killed, and away for some seconds
    REPLACE = "replace"  # a board is killed, and comes back with an empty disk
    HANG = "hang"  # frozen or silent for longer than anybody's patience


class Kind(StrEnum):
    """What can be hit. The last five are links: they are named after the end that listens."""

    UP = "up"
    TASK_MANAGER = "task manager"
    GATEWAY = "gateway"
    AGENT = "agent"
    WORKER = "worker"
    RECEIVER = "receiver"
    SENDER = "sender"
    LINK_TO_AGENT = "link to agent"
    LINK_TO_GATEWAY = "link to gateway"
    LINK_TO_RECEIVER = "link to receiver"
    LINK_TO_TASK_MANAGER = "link to task manager"  # the sender's


LASTS_S: Mapping[Action, tuple[float, float]] = {
    Action.KILL: (0.0, 2.0),
    Action.STOP: (0.0, 2.0),
    Action.FREEZE: (0.5, 4.0),
    Action.CUT: (0.0, 2.0),
    Action.STALL: (0.5, 4.0),
    Action.VANISH: (0.5, 4.0),
    Action.OUTAGE: (3.0, 6.0),
    Action.REPLACE: (0.0, 2.0),
    Action.HANG: (12.0, 20.0),
}
LINKS = (Kind.LINK_TO_AGENT, Kind.LINK_TO_GATEWAY, Kind.LINK_TO_RECEIVER, Kind.LINK_TO_TASK_MANAGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    number: int
    after_s: float  # pause since the fault before it began
    action: Action
    kind: Kind
    lasts_s: float
    pick: float  # 0..1: which of several targets of that kind


def processes_of(layout: Layout) -> Sequence[Kind]:
    masters = (Kind.UP,) if layout is Layout.TOGETHER else (Kind.TASK_MANAGER, Kind.GATEWAY)
    return (*masters, Kind.AGENT, Kind.WORKER, Kind.RECEIVER, Kind.SENDER)


def faults(plan: Plan) -> Iterator[Fault]:
    """Rounds of faults; each one holds every possible fault once, in an order of its own."""
    draw = random.Random(plan.seed)
    every = _possible(plan.layout, plan.only)
    number = 0
    while plan.rounds is None or number < plan.rounds * len(every):
        for action, kind in draw.sample(every, len(every)):
            number += 1
            yield Fault(
                number=number,
                after_s=draw.uniform(0.1, 1.9) * plan.fault_every_s,
                action=action,
                kind=kind,
                lasts_s=draw.uniform(*LASTS_S[action]) * plan.fault_length,
                pick=draw.random(),
            )


def _possible(layout: Layout, only: Collection[str]) -> Sequence[tuple[Action, Kind]]:
    processes = processes_of(layout)
    every = [(action, kind) for action in (Action.KILL, Action.FREEZE) for kind in processes]
    every += [(Action.STOP, kind) for kind in processes if kind not in (Kind.WORKER, Kind.SENDER)]
    every += [(action, kind) for action in (Action.CUT, Action.STALL, Action.VANISH) for kind in LINKS]
    every += [(Action.OUTAGE, Kind.RECEIVER), (Action.OUTAGE, Kind.AGENT), (Action.REPLACE, Kind.AGENT)]
    every += [(Action.HANG, Kind.AGENT), (Action.HANG, Kind.LINK_TO_AGENT)]
    return [(action, kind) for action, kind in every if not only or kind in only]

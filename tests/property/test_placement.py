"""What must hold for every fleet and every request."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgesched.domain.device import Device, DeviceId, DeviceProfile, DeviceState, Telemetry
from edgesched.placement.breaker import FAILURES_TO_OPEN
from edgesched.placement.estimate import DeviceMemory
from edgesched.placement.filters import MAX_MEMORY_USED_FRACTION
from edgesched.placement.fleet import Outlook, Standing, TieBreakers
from edgesched.placement.planner import plan
from edgesched.placement.strategies import STRATEGIES
from edgesched.placement.view import Columns
from edgesched.placement.window import TYPICAL_BYTES
from edgesched.ports import InFlight, PlacementRequest, TaskToPlace
from tests.support.fleets import MODEL, acquainted, device, finished, fleet, in_flight, request, task

fractions = st.none() | st.floats(0, 1)
profiles = st.builds(
    DeviceProfile,
    slots=st.integers(1, 4),
    service_ms=st.floats(0.1, 500),
    link_mbps=st.floats(0.5, 2000),
    round_trip_ms=st.floats(0, 50),
)
readings = st.builds(
    Telemetry,
    cpu_used_fraction=fractions,
    xpu_used_fraction=fractions,
    memory_used_fraction=fractions,
    link_bandwidth_mbps=st.none() | st.floats(0, 2000),
    link_latency_ms=st.none() | st.floats(0, 100),
)
sizes = st.integers(0, 5_000_000)
promised = st.just(dict[str, Any]()) | st.fixed_dictionaries(
    {
        "slot": st.integers(0, 5),
        "predicted_remaining_ms": st.floats(-5_000, 5_000),
        "transfer_remaining_ms": st.none() | st.floats(0, 5_000),
    }
)
"""What was promised for an attempt in flight: nothing if it was adopted."""


@st.composite
def fleets(draw: st.DrawFn, *, all_eligible: bool = False, min_size: int = 0) -> list[Device]:
    count = draw(st.integers(min_size, 5))
    made = []
    for i in range(count):
        changes: dict[str, Any] = {"profile": draw(profiles)}
        if not all_eligible:
            changes["telemetry"] = draw(readings)
            changes["state"] = draw(st.sampled_from([DeviceState.READY, *DeviceState]))
            changes["models"] = draw(st.sampled_from([frozenset({MODEL}), frozenset({MODEL, "b"}), frozenset[str]()]))
            changes["window_tasks"] = draw(st.integers(1, 6))
            changes["window_bytes"] = draw(st.integers(1, 8_000_000))
        made.append(device(f"d{i}", **changes))
    return made


@st.composite
def requests(draw: st.DrawFn, device_ids: list[DeviceId], *, max_tasks: int) -> PlacementRequest:
    some_ids = st.frozensets(st.sampled_from(device_ids)) if device_ids else st.just(frozenset[DeviceId]())
    tasks = [
        replace(task(f"t{i}", size_bytes=draw(sizes)), avoid=draw(some_ids))
        for i in range(draw(st.integers(1, max_tasks)))
    ]
    flying: list[InFlight] = []
    for device_id in device_ids:
        some = in_flight(device_id, draw(st.integers(0, 4)), size_bytes=draw(sizes))
        flying += [replace(attempt, **draw(promised)) for attempt in some]
    strategy = draw(st.sampled_from([None, *STRATEGIES]))
    return replace(request(*tasks, flying=flying), strategy=strategy, unreachable=draw(some_ids))


@st.composite
def situations(draw: st.DrawFn, *, max_tasks: int = 8) -> tuple[list[Device], PlacementRequest]:
    devices = draw(fleets())
    return devices, draw(requests([d.device_id for d in devices], max_tasks=max_tasks))


@given(situations(), st.lists(st.sampled_from([f"d{i}" for i in range(5)]), max_size=8))
def test_every_task_gets_one_decision_that_accounts_for_every_device(
    situation: tuple[list[Device], PlacementRequest], failed: list[str]
) -> None:
    devices, asked = situation
    asked = replace(asked, finished=[finished(device_id, succeeded=False) for device_id in failed])
    decisions = plan(asked, fleet(*devices), acquainted(*devices))
    assert [d.task_id for d in decisions] == [t.task_id for t in asked.tasks]
    for decision in decisions:
        eligible = {d.device_id for d in devices} - set(decision.excluded)
        if decision.device_id is not None:
            assert decision.device_id in eligible
            assert decision.promise is not None
            assert decision.promise.answer_ms > decision.promise.arrival_ms >= 0
        else:
            assert decision.waits_for or not eligible
            assert decision.promise is None
        assert decision.device_id is None or failed.count(decision.device_id) < FAILURES_TO_OPEN
        assert all(decision.excluded.values())
        assert decision.reason()


@given(situations())
def test_no_device_gets_what_it_cannot_take(situation: tuple[list[Device], PlacementRequest]) -> None:
    devices, asked = situation
    by_id = {d.device_id: d for d in devices}
    flying = Counter(attempt.device_id for attempt in asked.in_flight)
    flying_bytes: Counter[DeviceId] = Counter()
    for attempt in asked.in_flight:
        flying_bytes[attempt.device_id] += attempt.size_bytes
    for wanted, decision in zip(asked.tasks, plan(asked, fleet(*devices), acquainted(*devices)), strict=True):
        if decision.device_id is None:
            continue
        board = by_id[decision.device_id]
        assert board.state is DeviceState.READY
        assert wanted.model in board.models
        assert board.device_id not in asked.unreachable
        assert (board.telemetry.memory_used_fraction or 0) <= MAX_MEMORY_USED_FRACTION
        assert flying[board.device_id] < board.window_tasks
        if flying[board.device_id]:
            assert flying_bytes[board.device_id] + wanted.size_bytes <= board.window_bytes
        flying[board.device_id] += 1
        flying_bytes[board.device_id] += wanted.size_bytes


@given(situations(max_tasks=1), st.randoms(use_true_random=False))
def test_order_and_names_of_devices_do_not_matter(
    situation: tuple[list[Device], PlacementRequest], random: Random
) -> None:
    devices, asked = situation
    names = [f"n{i}" for i in range(len(devices))]
    random.shuffle(names)
    new = {d.device_id: DeviceId(name) for d, name in zip(devices, names, strict=True)}
    renamed = [replace(d, device_id=new[d.device_id]) for d in devices]
    random.shuffle(renamed)
    asked_again = replace(
        asked,
        tasks=[replace(t, avoid=frozenset(new[i] for i in t.avoid)) for t in asked.tasks],
        in_flight=[replace(a, device_id=new[a.device_id]) for a in asked.in_flight],
        unreachable=frozenset(new[i] for i in asked.unreachable),
    )
    (before,) = plan(asked, fleet(*devices), acquainted(*devices))
    (after,) = plan(asked_again, fleet(*renamed), acquainted(*renamed))
    assert {new[i]: reason for i, reason in before.excluded.items()} == after.excluded
    if before.chosen is None:
        assert after.chosen is None
        return
    assert after.chosen is not None  # up to ties: another device only if it scores the same
    assert abs(before.chosen.score - after.chosen.score) <= 2e-6
    assert before.chosen.terms.get("in_flight_tasks") == after.chosen.terms.get("in_flight_tasks")


def worse(board: Device, what: str, amount: float) -> Device:
    """The same board with more use or less bandwidth. amount: 0.05..1."""
    telemetry = board.telemetry
    if what == "link_mbps":
        return replace(board, profile=replace(board.profile, link_mbps=board.profile.link_mbps * (1 - amount / 2)))
    if what == "link_bandwidth_mbps":
        reported = telemetry.link_bandwidth_mbps
        lower = board.profile.link_mbps if reported is None else reported
        return replace(board, telemetry=replace(telemetry, link_bandwidth_mbps=lower * (1 - amount)))
    used: float = getattr(telemetry, what) or 0.0
    return replace(board, telemetry=replace(telemetry, **{what: min(1.0, used + amount)}))


USES = ("cpu_used_fraction", "xpu_used_fraction", "memory_used_fraction")
LINKS = ("link_mbps", "link_bandwidth_mbps")


@given(situations(max_tasks=1), st.data(), st.sampled_from(USES + LINKS), st.floats(0.05, 1))
def test_more_use_or_less_bandwidth_never_makes_a_device_preferred(
    situation: tuple[list[Device], PlacementRequest], data: st.DataObject, what: str, amount: float
) -> None:
    devices, asked = situation
    asked = replace(asked, strategy="load", tasks=[replace(t, avoid=frozenset()) for t in asked.tasks])
    assume(devices)
    (before,) = plan(asked, fleet(*devices), acquainted(*devices))
    victim = data.draw(st.sampled_from(devices))
    if before.chosen is not None:  # a tie is decided by chance, before and after
        assume(before.runner_up is None or before.chosen.score < before.runner_up.score - 2e-6)
    assume(before.device_id != victim.device_id)
    changed = [worse(d, what, amount) if d is victim else d for d in devices]
    (after,) = plan(asked, fleet(*changed), acquainted(*changed))
    assert after.device_id == before.device_id


@given(
    st.builds(device, profile=profiles, telemetry=readings),
    st.sampled_from(USES[:2] + LINKS),
    st.floats(0.05, 1),
    sizes.filter(lambda size: size > 1000),
    st.integers(0, 3),
)
def test_of_two_boards_that_differ_in_one_thing_the_better_one_is_taken(
    board: Device, what: str, amount: float, size: int, flying: int
) -> None:
    telemetry = replace(board.telemetry, memory_used_fraction=None)
    if what in USES:
        telemetry = replace(telemetry, **{what: (getattr(telemetry, what) or 0.0) * 0.9})
    if what == "link_mbps":
        telemetry = replace(telemetry, link_bandwidth_mbps=None)
    if what == "link_bandwidth_mbps":
        telemetry = replace(telemetry, link_bandwidth_mbps=board.profile.link_mbps)
    board = replace(board, device_id=DeviceId("z-good"), telemetry=telemetry)
    bad = replace(worse(board, what, amount), device_id=DeviceId("a-bad"))
    asked = request(
        task(size_bytes=size),
        flying=[*in_flight("z-good", flying, size_bytes=size), *in_flight("a-bad", flying, size_bytes=size)],
    )
    (decision,) = plan(asked, fleet(bad, board), acquainted(bad, board))
    assert decision.device_id == "z-good"


@given(fleets(all_eligible=True, min_size=1), st.lists(st.integers(1, 2), max_size=12), st.integers(0, 3))
def test_roundrobin_gives_everyone_the_same(devices: list[Device], bursts: list[int], away: int) -> None:
    eligible = [replace(d, window_tasks=1000) for d in devices]
    silent = [device(f"away{i}", state=DeviceState.SILENT) for i in range(away)]
    memory = acquainted(*eligible)
    got: Counter[DeviceId | None] = Counter()
    for burst in bursts:
        tasks: list[TaskToPlace] = [task(f"t{i}") for i in range(burst)]
        asked = request(*tasks, strategy="roundrobin")
        got.update(decision.device_id for decision in plan(asked, fleet(*eligible, *silent), memory))
    shares = [got[d.device_id] for d in eligible]
    assert sum(shares) == sum(bursts)
    assert max(shares) - min(shares) <= 1


@given(st.lists(st.tuples(profiles, st.integers(0, 3)), min_size=1, max_size=6), sizes, st.sampled_from([*STRATEGIES]))
def test_for_few_devices_and_for_many_it_is_the_same_formula(
    boards: list[tuple[DeviceProfile, int]], size: int, name: str
) -> None:
    outlook = Outlook(now_ms=0.0, typical_bytes=TYPICAL_BYTES, tie_breakers=TieBreakers())
    standings = []
    for i, (profile, flying) in enumerate(boards):
        board = device(f"d{i}", profile, telemetry=Telemetry(cpu_used_fraction=0.5), window_tasks=2)
        memory = DeviceMemory(boot_id="b", completed=9, last_turn=i)
        standing = Standing(board, memory, outlook, is_reachable=True)
        for _ in range(flying):
            standing.take(MODEL, 160_000)
        standings.append(standing)
    services = [standing.service_ms(MODEL) for standing in standings]
    few = STRATEGIES[name].few(size, standings, services)
    many = STRATEGIES[name].many(size, Columns(standings, services))
    assert [float(score) for score in many] == pytest.approx(few)


SCORES: Mapping[str, Callable[[Mapping[str, float]], float]] = {
    "load": lambda terms: (terms["work_in_flight_ms"] + terms["this_task_ms"]) / 1000 + terms["tie_breaker_s"],
    "fastest": lambda terms: (terms["finish_ms"] + terms["work_in_flight_ms"] + terms["this_task_ms"]) / 1000,
    "roundrobin": lambda terms: terms["last_turn"],
}


@given(situations())
def test_the_terms_that_people_see_add_up_to_the_score(situation: tuple[list[Device], PlacementRequest]) -> None:
    devices, asked = situation
    for decision in plan(asked, fleet(*devices), acquainted(*devices)):
        for one in (decision.chosen, decision.runner_up):
            if one is not None:
                assert one.score == pytest.approx(SCORES[decision.strategy](one.terms))


@given(situations(), st.floats(-1e9, 1e9))
def test_a_clock_that_jumps_is_no_reason_to_fail(
    situation: tuple[list[Device], PlacementRequest], jump_ms: float
) -> None:
    devices, asked = situation
    memory = acquainted(*devices)
    ended = [
        finished(d.device_id, service_ms=20.0, transfer_ms=9.0, succeeded=i % 2 == 0) for i, d in enumerate(devices)
    ]
    for at_ms in (0.0, jump_ms):
        decisions = plan(replace(asked, finished=ended), replace(fleet(*devices), at_ms=at_ms), memory)
        for decision in decisions:
            assert decision.chosen is None or 0 <= decision.chosen.score < math.inf


@given(situations(), st.integers(0, 2**32))
def test_the_same_request_gives_the_same_plan(situation: tuple[list[Device], PlacementRequest], seed: int) -> None:
    devices, asked = situation
    plans = [plan(asked, fleet(*devices), acquainted(*devices, seed=seed)) for _ in range(2)]
    assert plans[0] == plans[1]

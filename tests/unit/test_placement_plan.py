"""Filters, strategies and the plan: who gets a task, and what people are told about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgesched.domain.device import Device, DeviceId, DeviceProfile, DeviceState
from edgesched.domain.task import AttemptId
from edgesched.errors import InvalidInput
from edgesched.placement.filters import ANY_MODEL
from edgesched.placement.fleet import FleetSnapshot
from edgesched.placement.memory import PlacementMemory
from edgesched.placement.planner import plan, preview
from edgesched.placement.strategies import STRATEGIES, strategy_name
from edgesched.placement.view import ARRAYS_FROM
from edgesched.ports import Decision, FinishedSample, InFlight
from tests.support.fleets import MODEL, RK3588, acquainted, device, finished, fleet, in_flight, request, task, telemetry

FAST = DeviceProfile(slots=2, service_ms=8.0, link_mbps=800.0, round_trip_ms=1.0)


def only(*devices: Device, **asked: Any) -> Decision:
    """The decision for one task, by somebody who has known the devices for a while."""
    what = asked.pop("task", task())
    (decision,) = plan(request(what, **asked), fleet(*devices), acquainted(*devices))
    return decision


# -- filters


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": DeviceState.SILENT, "last_heartbeat_age_ms": 7234.0}, "silent: its last heartbeat is 7.2 s old"),
        ({"state": DeviceState.UNHEALTHY, "unhealthy_reason": "crashing"}, "unhealthy: crashing"),
        ({"state": DeviceState.UNHEALTHY}, "unhealthy: it does not say why"),
        ({"models": frozenset({"other"})}, "model shapes is not loaded there"),
        ({"telemetry": telemetry(memory_used_fraction=0.95)}, "memory 95% used, the limit is 92%"),
        ({"is_cordoned": True}, "cordoned by an operator"),
        ({"is_draining": True}, "draining: it finishes what it has and leaves"),
    ],
)
def test_a_device_that_cannot_take_it_is_left_out_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    decision = only(device("d", **changes), flying=in_flight("d", 2))
    assert decision.device_id is None
    assert decision.chosen is None
    assert decision.excluded == {"d": reason}
    assert reason in decision.reason()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"window_tasks": 2}, "window full: 2 of 2 tasks"),
        ({"window_bytes": 400_000}, "window full: 480,000 of 400,000 bytes with this picture"),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_device_without_room_gets_nothing_and_the_reason_is_told(
    changes: dict[str, Any], reason: str, strategy: str
) -> None:
    decision = only(device("d", **changes), flying=in_flight("d", 2), strategy=strategy)
    assert decision.device_id is None
    assert decision.promise is None
    assert reason in decision.reason()


def test_a_device_must_carry_the_labels_that_a_task_wants() -> None:
    wants = replace(task(), labels={"place": "door"})
    decision = only(
        device("a", labels={"place": "roof"}), device("b"), device("c", labels={"place": "door"}), task=wants
    )
    assert decision.device_id == "c"
    assert decision.excluded == {
        "a": "label place is roof, the task wants door",
        "b": "label place is not set, the task wants door",
    }


def test_a_device_whose_connection_is_broken_gets_nothing() -> None:
    decision = only(device("d"), unreachable=frozenset({DeviceId("d")}))
    assert decision.excluded == {"d": "the task manager's connection to it is broken"}


def test_memory_at_the_limit_or_unknown_is_no_reason() -> None:
    assert only(device("d", telemetry=telemetry(memory_used_fraction=0.92))).device_id == "d"
    assert only(device("d")).device_id == "d"


def test_an_empty_window_takes_even_a_picture_larger_than_itself() -> None:
    assert only(device("d", window_bytes=100)).device_id == "d"


def test_no_device_at_all_is_said_so() -> None:
    assert only().reason() == "no device can take it now (no device is registered)"


def test_of_a_large_fleet_the_sentence_names_some_devices_and_counts_the_others() -> None:
    decision = only(*(device(f"d{i:03}", state=DeviceState.UNHEALTHY) for i in range(200)))
    assert len(decision.excluded) == 200
    assert decision.reason().endswith("; and 180 more)")
    assert len(decision.reason()) < 2_000


def test_work_on_a_device_that_left_counts_for_nobody() -> None:
    decision = only(device("d"), flying=in_flight("gone", 50))
    assert decision.chosen is not None
    assert decision.chosen.terms["work_in_flight_ms"] == 0


# -- avoid


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_adopted_attempt_counts_beside_promised_ones(strategy: str) -> None:
    """Of an adopted one nothing was promised: it stands behind all that the device already has."""
    board = device(profile=replace(RK3588, slots=1))
    known = replace(in_flight("d")[0], slot=0, predicted_remaining_ms=30.0, transfer_remaining_ms=0.0)
    adopted = replace(known, attempt_id=AttemptId("adopted"), slot=None, predicted_remaining_ms=None)
    asked = request(flying=[known, adopted], strategy=strategy)
    (decision,) = plan(asked, fleet(board), acquainted(board))
    assert decision.promise is not None
    assert decision.promise.answer_ms == pytest.approx(30 + 2 * RK3588.service_ms)


def test_where_it_failed_before_is_avoided_while_another_can_run_it() -> None:
    decision = only(device("bad", FAST), device("good"), task=task(avoid=["bad"]))
    assert decision.device_id == "good"
    assert decision.excluded == {"bad": "task failed there before"}


def test_it_waits_for_the_other_device_when_that_one_is_only_full() -> None:
    decision = only(device("bad"), device("good", window_tasks=1), task=task(avoid=["bad"]), flying=in_flight("good"))
    assert decision.device_id is None
    assert decision.excluded == {"bad": "task failed there before", "good": "window full: 1 of 1 tasks"}


@pytest.mark.parametrize(
    "other",
    [
        device("other", models=frozenset()),
        device("other", state=DeviceState.SILENT),
        device("other", telemetry=telemetry(memory_used_fraction=0.99)),
    ],
)
def test_the_same_device_tries_again_when_no_other_can(other: Device) -> None:
    assert only(device("bad"), other, task=task(avoid=["bad"])).device_id == "bad"


def test_when_it_failed_everywhere_nothing_is_avoided() -> None:
    assert only(device("a"), device("b", FAST), task=task(avoid=["a", "b"])).device_id == "b"


# -- load


def test_load_scores_seconds_of_bottleneck_work() -> None:
    decision = only(device("d"), flying=in_flight("d", 2))
    assert decision.chosen is not None
    assert decision.chosen.score == pytest.approx(3 * 0.0128)  # three pictures through a 100 Mbit/s link
    assert decision.chosen.terms == pytest.approx(
        {
            "work_in_flight_ms": 25.6,
            "this_task_ms": 12.8,
            "transfer_ms": 12.8,
            "service_ms": 27.0,
            "slots": 3,
            "in_flight_tasks": 2,
            "window_tasks": 8,
            "tie_breaker_s": 0,
        }
    )


def test_load_takes_slots_as_the_bottleneck_where_they_are_narrower() -> None:
    decision = only(device("d"), task=task(size_bytes=50_000))  # 4 ms of link, 27 / 3 ms of slots
    assert decision.chosen is not None
    assert decision.chosen.terms["this_task_ms"] == pytest.approx(9.0)


def test_a_busy_fast_board_beats_an_idle_slow_one_until_its_work_is_more() -> None:
    fast = device("fast", FAST, window_tasks=100)  # 4 ms per picture
    slow = device("slow")  # 12.8 ms
    assert only(fast, slow, flying=in_flight("fast", 2)).device_id == "fast"
    assert only(fast, slow, flying=in_flight("fast", 3)).device_id == "slow"


def test_cpu_and_accelerator_use_decide_between_equals_only() -> None:
    busy = device("busy", telemetry=telemetry(cpu_used_fraction=1.0, xpu_used_fraction=1.0))
    assert only(busy, device("idle", telemetry=telemetry(cpu_used_fraction=0.1))).device_id == "idle"
    assert only(busy, device("other"), flying=in_flight("other")).device_id == "busy"  # 2 ms against 12.8 ms


def test_tie_breakers_are_shown_where_they_are_known() -> None:
    decision = only(device("d", telemetry=telemetry(cpu_used_fraction=0.5)))
    assert decision.chosen is not None
    assert decision.chosen.terms["cpu_used_fraction"] == 0.5
    assert "xpu_used_fraction" not in decision.chosen.terms
    assert decision.chosen.score == pytest.approx(0.0128 + 0.0005)


def test_equal_work_goes_to_fewer_in_flight_then_to_the_faster_answer() -> None:
    far = device("far", telemetry=telemetry(link_latency_ms=9.0))
    assert only(far, device("near")).device_id == "near"
    two_small = in_flight("a", 2, size_bytes=160_000)
    one_large = in_flight("b", 1, size_bytes=320_000)
    assert only(device("a"), device("b"), flying=[*two_small, *one_large]).device_id == "b"


def test_equal_devices_share_by_chance_and_the_seed_repeats_it() -> None:
    def shares(seed: int) -> list[str | None]:
        memory = PlacementMemory(seed)
        return [plan(request(), fleet(device("a"), device("b")), memory)[0].device_id for _ in range(200)]

    assert shares(1) == shares(1)
    assert shares(1) != shares(2)
    assert 60 < Counter(shares(1))["a"] < 140


def test_the_tasks_of_one_request_see_each_other() -> None:
    tasks = [task(f"t{i}") for i in range(20)]
    boards = device("a"), device("b")
    decisions = plan(request(*tasks), fleet(*boards), acquainted(*boards))
    assert [d.task_id for d in decisions] == [t.task_id for t in tasks]
    assert Counter(d.device_id for d in decisions) == {"a": 8, "b": 8, None: 4}
    first_to_wait = next(d for d in decisions if d.device_id is None)
    assert first_to_wait.excluded == {"a": "window full: 8 of 8 tasks", "b": "window full: 8 of 8 tasks"}
    assert first_to_wait.waits_for == "window full: 8 of 8 tasks"
    assert decisions[-1].reason() == "load: waits in line (for a better device, behind others)"


# -- waiting for a better device


@pytest.mark.parametrize("strategy", ["load", "fastest"])
def test_a_task_rather_waits_for_a_fast_board_than_takes_a_slow_one(strategy: str) -> None:
    fast = device("fast", FAST, window_tasks=2)
    slow = device("slow", replace(FAST, service_ms=500.0, slots=1))
    decision = only(fast, slow, flying=in_flight("fast", 2), strategy=strategy)
    assert decision.device_id is None
    assert decision.chosen is not None
    assert decision.chosen.device_id == "fast"
    assert decision.waits_for == "window full: 2 of 2 tasks"
    assert "fast scores" in decision.reason()
    assert "but has no room, so the task waits" in decision.reason()


@pytest.mark.parametrize("strategy", ["load", "fastest"])
def test_the_one_that_is_deep_enough_in_line_gets_the_slow_board(strategy: str) -> None:
    fast = device("fast", FAST, window_tasks=2)
    slow = device("slow", replace(FAST, service_ms=100.0, slots=1))
    tasks = [task(f"t{i}") for i in range(60)]
    decisions = plan(
        request(*tasks, flying=in_flight("fast", 2), strategy=strategy), fleet(fast, slow), acquainted(fast, slow)
    )
    sent = [i for i, decision in enumerate(decisions) if decision.device_id == "slow"]
    assert sent
    assert 5 < sent[0] < 40  # so many the fast one does in the time that the slow one needs for one
    asked_for_one = plan(
        request(flying=in_flight("fast", 2), strategy=strategy), fleet(fast, slow), acquainted(fast, slow)
    )
    assert asked_for_one[-1].next_opening is not None  # whoever asked should show more of the line


def test_nobody_is_told_to_show_more_when_no_device_has_room() -> None:
    board = device("a", window_tasks=1)
    decisions = plan(request(task("x"), task("y"), flying=in_flight("a")), fleet(board), acquainted(board))
    assert [d.next_opening for d in decisions] == [None, None]


def test_fastest_counts_how_long_the_link_and_the_slots_are_taken() -> None:
    promised = replace(in_flight("d")[0], slot=0, predicted_remaining_ms=40.0, transfer_remaining_ms=6.0)
    decision = only(device("d", replace(FAST, slots=1)), flying=[promised], strategy="fastest")
    assert decision.promise is not None
    # 160,000 bytes at 800 Mbit/s: 1.6 ms behind the 6 ms; then the slot, free at 40 - 0.5 ms; 8 ms of work; 0.5 back
    assert decision.promise.arrival_ms == pytest.approx(7.6)
    assert decision.promise.answer_ms == pytest.approx(48.0)


def test_a_new_device_starts_with_one_task_and_gets_one_more_with_each_success() -> None:
    board, memory = device("d"), PlacementMemory()
    tasks = [task(f"t{i}") for i in range(9)]

    def sent(*samples: FinishedSample) -> int:
        decisions = plan(request(*tasks, finished=samples), fleet(board), memory)
        return sum(d.device_id is not None for d in decisions)

    assert sent() == 1
    assert sent(finished("d", service_ms=27.0)) == 2
    assert sent(*[finished("d", service_ms=27.0)] * 20) == 8  # the bandwidth-delay window, twice


# -- breaker


def test_three_failures_in_a_row_open_the_breaker_and_one_task_tries_again_later() -> None:
    board, memory = device("d"), acquainted(device("d"))
    boards = fleet(board)
    failed = finished("d", succeeded=False)

    def at(now_ms: float, *samples: FinishedSample) -> list[Decision]:
        asked = request(task("a"), task("b"), finished=samples)
        return list(plan(asked, replace(boards, at_ms=now_ms), memory))

    assert [d.device_id for d in at(0.0, failed)] == ["d", "d"]  # one crash is no reason to leave the others idle
    assert at(10.0, failed, failed)[0].excluded == {
        "d": "breaker open for model 'shapes': 3 failures in a row; one task tries again in 1.0 s"
    }
    first, second = at(1_011.0)
    assert first.device_id == "d"
    assert second.excluded == {"d": "one task at a time for model 'shapes' until it succeeds there"}
    assert at(1_020.0, failed)[0].device_id is None  # for two seconds now
    assert at(2_500.0)[0].device_id is None
    assert at(3_100.0, finished("d", service_ms=27.0))[0].device_id == "d"


TWO_MODELS = frozenset({MODEL, "segv"})
TRIED_AGAIN_MS = 1_100.0  # after the third failure


def failing(memory: PlacementMemory, model: str, boards: FleetSnapshot, *names: str) -> FleetSnapshot:
    """The model has failed three times on each of the named boards, and may be tried again. Returns: the fleet then."""
    failed = [finished(name, model=model, succeeded=False) for name in names for _ in range(3)]
    plan(request(finished=failed), boards, memory)
    return replace(boards, at_ms=TRIED_AGAIN_MS)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_whose_every_picture_fails_takes_nothing_from_the_other_models(strategy: str) -> None:
    """Six pictures of a broken model stand before twelve of another one; every attempt takes ten milliseconds."""
    board = device("d", models=TWO_MODELS, window_tasks=4)
    memory = acquainted(board)
    waiting = [*(task(f"bad{i}", model="segv") for i in range(6)), *(task(f"good{i}") for i in range(12))]
    ended: list[FinishedSample] = []
    sent: list[Counter[str]] = []
    for round_number in range(4):
        now = replace(fleet(board), at_ms=10.0 * round_number)
        decisions = plan(request(*waiting, finished=ended, strategy=strategy), now, memory)
        taken = [wanted for wanted, decision in zip(waiting, decisions, strict=True) if decision.device_id]
        sent.append(Counter(wanted.model for wanted in taken))
        ended = [finished("d", model=wanted.model, succeeded=wanted.model == MODEL) for wanted in taken]
        waiting = [wanted for wanted in waiting if wanted.model == "segv" or wanted not in taken]
    assert sent == [{"segv": 4}, {MODEL: 4}, {MODEL: 4}, {MODEL: 4}]


def test_a_model_that_failed_gets_one_task_at_a_time_and_the_others_keep_the_window() -> None:
    board, memory = device("d", models=TWO_MODELS), acquainted(device("d", models=TWO_MODELS))
    now = failing(memory, "segv", fleet(board), "d")

    def sent(*samples: FinishedSample, flying: Sequence[InFlight] = ()) -> Counter[str]:
        tasks = [task(f"{model}{i}", model=model) for i in range(9) for model in ("segv", MODEL)]
        decisions = plan(request(*tasks, flying=flying, finished=samples), now, memory)
        return Counter(t.model for t, d in zip(tasks, decisions, strict=True) if d.device_id)

    assert sent() == {"segv": 1, MODEL: 7}
    one = in_flight("d", model="segv")
    assert sent(flying=one) == {MODEL: 7}
    assert sent(flying=[replace(one[0], slot=0, predicted_remaining_ms=30.0)]) == {MODEL: 7}
    assert sent(finished("d", model="segv")) == {"segv": 4, MODEL: 4}
    assert memory.of(board).breakers == {}  # what works again is not kept


def test_a_model_that_failed_goes_to_another_board_instead_of_waiting_for_its_turn() -> None:
    fast, slow = device("fast", FAST, models=TWO_MODELS), device("slow", models=TWO_MODELS)
    memory = acquainted(fast, slow)
    now = failing(memory, "segv", fleet(fast, slow), "fast")
    decisions = plan(request(*(task(f"t{i}", model="segv") for i in range(3))), now, memory)
    assert [d.device_id for d in decisions] == ["fast", "slow", "slow"]


def test_nobody_waits_behind_a_task_that_tries_again() -> None:
    """The slow board has room, but not for this model: nobody is told to show more of the line for it."""
    fast, slow = device("fast", FAST, models=TWO_MODELS, window_tasks=2), device("slow", models=TWO_MODELS)
    memory = acquainted(fast, slow)
    now = failing(memory, "segv", fleet(fast, slow), "slow")
    flying = [*in_flight("fast", 2), *in_flight("slow", model="segv")]
    (decision,) = plan(request(task(model="segv"), flying=flying), now, memory)
    assert decision.waits_for == "window full: 2 of 2 tasks"
    assert decision.next_opening is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_a_large_fleet_a_model_that_failed_gets_one_task_at_a_time_as_well(strategy: str) -> None:
    boards = [device(f"d{i}", models=TWO_MODELS) for i in range(ARRAYS_FROM)]
    memory, same_fleet = acquainted(*boards), fleet(*boards)
    assert plan(request(task(model="segv")), same_fleet, memory)[0].device_id  # the arrays are there by now
    now = failing(memory, "segv", same_fleet, *(board.device_id for board in boards))
    tasks = [task(f"t{i}", model="segv") for i in range(ARRAYS_FROM + 5)]
    decisions = plan(request(*tasks, strategy=strategy), now, memory)
    assert Counter(d.device_id for d in decisions) == {**dict.fromkeys((b.device_id for b in boards), 1), None: 5}
    assert decisions[-1].next_opening is None


def test_a_board_that_fails_with_every_model_is_left_alone() -> None:
    board, memory = device("d", models=TWO_MODELS), acquainted(device("d", models=TWO_MODELS))
    failed = [finished("d", model=model, succeeded=False) for model in TWO_MODELS for _ in range(3)]
    decisions = plan(request(task(), task(model="segv"), finished=failed), fleet(board), memory)
    assert [d.device_id for d in decisions] == [None, None]
    foretold = preview(model=ANY_MODEL, size_bytes=1, strategy=None, fleet=fleet(board), memory=memory)
    assert "breaker open" in foretold.excluded[board.device_id]


def test_for_any_model_a_board_is_there_as_long_as_one_of_its_models_works() -> None:
    board, memory = device("d", models=TWO_MODELS), acquainted(device("d", models=TWO_MODELS))
    plan(request(finished=[finished("d", model="segv", succeeded=False)] * 3), fleet(board), memory)
    assert preview(model=ANY_MODEL, size_bytes=1, strategy=None, fleet=fleet(board), memory=memory).device_id == "d"


def test_a_picture_that_cannot_be_read_is_not_the_boards_fault() -> None:
    board, memory = device("d"), acquainted(device("d"))
    bad = [finished("d", succeeded=False, blames_device=False)] * 10
    assert plan(request(finished=bad), fleet(board), memory)[0].device_id == "d"


def test_a_device_that_proves_slow_gets_less() -> None:
    memory = PlacementMemory()
    a, b = device("a"), device("b")
    plan(request(finished=[finished("a", service_ms=2000.0)] * 5), fleet(a, b), memory)
    decision = plan(request(), fleet(a, b), memory)[0]
    assert decision.device_id == "b"
    assert decision.runner_up is not None
    assert decision.runner_up.terms["service_ms"] > 500


def test_a_decision_says_why_in_one_sentence() -> None:
    decision = only(device("a"), device("b", FAST), device("c", models=frozenset()))
    assert decision.reason() == "load: b scores 0.004; next best a 0.013; c excluded: model shapes is not loaded there"


# -- roundrobin


def test_roundrobin_goes_round_whatever_the_speed() -> None:
    memory = PlacementMemory()
    boards = fleet(device("a"), device("b", FAST), device("c"))
    got = [plan(request(strategy="roundrobin"), boards, memory)[0].device_id for _ in range(9)]
    assert set(got[:3]) == {"a", "b", "c"}
    assert got[:3] * 3 == got


def test_a_device_that_comes_back_is_not_flooded() -> None:
    memory = PlacementMemory()
    a, b = device("a"), device("b")
    away = device("b", state=DeviceState.SILENT)
    for _ in range(10):
        plan(request(strategy="roundrobin"), fleet(a, away), memory)
    got = [plan(request(strategy="roundrobin"), fleet(a, b), memory)[0].device_id for _ in range(4)]
    assert got == ["b", "a", "b", "a"]


def test_an_unknown_strategy_is_refused_with_the_list_and_changes_nothing() -> None:
    memory = PlacementMemory()
    sample = finished("d", service_ms=900.0)
    with pytest.raises(InvalidInput, match="no strategy 'greedy'; use one of: load, roundrobin, fastest"):
        plan(request(strategy="greedy", finished=[sample]), fleet(device("d")), memory)
    assert memory.of(device("d")).service == {}


def test_strategy_names() -> None:
    assert strategy_name(None) == "load"
    assert strategy_name("round_robin") == "roundrobin"
    assert {strategy_name(name) for name in STRATEGIES} == set(STRATEGIES)


# -- dry run


def test_a_dry_run_without_a_model_wants_any() -> None:
    boards = fleet(device("other", models=frozenset({"other"})), device("bare", models=frozenset()))
    decision = preview(model=ANY_MODEL, size_bytes=1, strategy=None, fleet=boards, memory=PlacementMemory())
    assert decision.device_id == "other"
    assert decision.excluded == {"bare": "no model is loaded there"}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dry_run_foretells_the_next_decision_and_changes_none(strategy: str) -> None:
    slow = device("f", telemetry=telemetry(cpu_used_fraction=0.5, link_bandwidth_mbps=20.0))
    boards = replace(fleet(slow, *(device(name) for name in "abcde")), at_ms=50_000.0)
    watched, undisturbed = PlacementMemory(7), PlacementMemory(7)
    for _ in range(20):
        foretold = preview(model="shapes", size_bytes=160_000, strategy=strategy, fleet=boards, memory=watched)
        (real,) = plan(request(strategy=strategy), boards, watched)
        assert (foretold.chosen, foretold.runner_up) == (real.chosen, real.runner_up)
        assert plan(request(strategy=strategy), boards, undisturbed) == [real]

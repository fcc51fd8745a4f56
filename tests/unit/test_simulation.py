"""The simulator: it can be trusted, it is the same each time, and production placement keeps its promises in it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from xml.etree import ElementTree

import pytest

from edgesched.domain.device import BoardType, Device, DeviceId
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import InvalidInput
from edgesched.simulation import baselines, bounds, fleets, runs, traces, workload
from edgesched.simulation.engine import Outcome, Simulation
from edgesched.simulation.faults import FAULTS, Fault
from edgesched.simulation.figures import Mean, percentile
from edgesched.simulation.fleets import Fleet
from edgesched.simulation.workload import Picture

SMALL = fleets.load("small")


def pictures(fleet: Fleet = SMALL, *, load: float = 0.7, seconds: float = 3.0, cv: float = 0.15) -> list[Picture]:
    rate = load * runs.capacity_per_s(fleet)
    return list(
        workload.stream("poisson", fleet.sizes, rate_per_s=rate, duration_s=seconds, service_cv=cv, random=Random(7))
    )


def simulated(strategy: str, fleet: Fleet = SMALL, *faults: Fault, seconds: float = 3.0) -> Outcome:
    return Simulation(fleet, pictures(fleet, seconds=seconds), strategy, seed=3, faults=faults).run()


# -- the simulator itself


@pytest.mark.parametrize("strategy", ["fastest", "load", "roundrobin"])
def test_the_same_seed_gives_the_same_run(strategy: str) -> None:
    assert simulated(strategy).latencies_ms == simulated(strategy).latencies_ms


def test_one_board_alone_is_what_arithmetic_says_that_it_is() -> None:
    """The event loop, and the baselines' one pass over the pictures, are the same model of a device."""
    alone = replace(SMALL, boards=SMALL.boards[:1])
    some = pictures(alone, load=0.5)

    def no_window(device: Device) -> Device:
        return replace(device, window_tasks=10_000)

    outcome = Simulation(alone, some, "fastest", says=no_window).run()
    expected = baselines.latencies_ms(alone, some, baselines.greedy)
    settled = [i for i, picture in enumerate(some) if picture.at_ms > 500]  # the slow start of the window is over
    got = [outcome.latencies_ms[i] or 0.0 for i in settled]
    assert percentile(got, 50) == pytest.approx(percentile([expected[i] for i in settled], 50), rel=0.02)


@pytest.mark.parametrize("strategy", ["fastest", "load", "roundrobin"])
def test_names_and_order_of_boards_change_nothing_but_ties(strategy: str) -> None:
    shuffled = list(SMALL.boards)
    Random(1).shuffle(shuffled)
    renamed = tuple(replace(board, device_id=DeviceId(f"n{i}")) for i, board in enumerate(shuffled))
    before, after = simulated(strategy), simulated(strategy, replace(SMALL, boards=renamed))
    for percent in (50, 99):
        values = [percentile([ms or 0.0 for ms in outcome.latencies_ms], percent) for outcome in (before, after)]
        assert values[0] == pytest.approx(values[1], rel=0.05)


def test_in_a_closed_loop_no_more_pictures_are_under_way_than_there_are_clients() -> None:
    some = workload.burst(200, SMALL.sizes, at_ms=0.0, service_cv=0.0, random=Random(1))
    alone = Simulation(SMALL, some, "fastest", seed=3, clients=1).run()
    assert None not in alone.latencies_ms
    assert sum(ms or 0.0 for ms in alone.latencies_ms) == pytest.approx(alone.ended_at_ms)  # one after the other
    many = Simulation(SMALL, some, "fastest", seed=3, clients=20).run()
    assert many.ended_at_ms < alone.ended_at_ms / 2


def test_a_lost_picture_does_not_end_its_clients_loop() -> None:
    some = workload.burst(60, SMALL.sizes, at_ms=0.0, service_cv=0.0, random=Random(1))
    faults = [Fault(kind="fails-fast", board=i, at_ms=0.0, until_ms=4_000.0) for i in range(3)]
    outcome = Simulation(SMALL, some, "load", seed=3, clients=2, faults=faults).run()
    assert 0 < outcome.latencies_ms.count(None) < 60


@pytest.mark.parametrize("name", ["greedy", "predecessor"])
def test_a_baseline_knows_no_closed_loop(name: str) -> None:
    with pytest.raises(InvalidInput, match="leave --clients out"):
        runs.run(SMALL, pictures(), name, clients=2)


def test_a_board_that_somebody_else_uses_is_slower_and_says_that_it_is_busy() -> None:
    alone = replace(SMALL, boards=SMALL.boards[:1])
    fault = Fault(kind="is-shared", board=0, at_ms=0.0, amount=0.5)
    some = [Picture(at_ms=200.0 * i, size_bytes=50_000, effort=1.0) for i in range(10)]
    calm, shared = (Simulation(alone, some, "load", faults=faults).run() for faults in ([], [fault]))
    service_ms = alone.boards[0].profile.service_ms
    for before, after in zip(calm.latencies_ms, shared.latencies_ms, strict=True):
        assert (after or 0.0) - (before or 0.0) == pytest.approx(service_ms)


def test_mending_one_fault_leaves_the_others_as_they_are() -> None:
    alone = replace(SMALL, boards=SMALL.boards[:1])
    some = [Picture(at_ms=1_000.0, size_bytes=50_000, effort=1.0)]
    slow = Fault(kind="slows", board=0, at_ms=0.0, amount=3.0)
    gone = Fault(kind="link-drops", board=0, at_ms=0.0, until_ms=500.0, amount=9.0)
    (ms,) = Simulation(alone, some, "load", faults=[slow, gone]).run().latencies_ms
    assert ms == pytest.approx(1.0 + 0.5 + 3 * 8.0)


# -- what production placement does there


def test_fastest_is_near_the_oracle_and_far_from_the_predecessor() -> None:
    mixed = fleets.load("mixed")
    some = pictures(mixed, load=0.5, seconds=4.0)
    late = [i for i, picture in enumerate(some) if picture.at_ms > 1_500]

    def p99(latencies: list[float | None]) -> float:
        return percentile([latencies[i] or 0.0 for i in late], 99)

    ours = p99(Simulation(mixed, some, "fastest").run().latencies_ms)
    assert ours <= 1.15 * p99(list(baselines.latencies_ms(mixed, some, baselines.greedy)))
    assert 50 * ours <= p99(list(baselines.latencies_ms(mixed, some, baselines.predecessor)))


@pytest.mark.parametrize("strategy", ["fastest", "load", "roundrobin"])
@pytest.mark.parametrize("kind", FAULTS)
def test_no_fault_of_one_board_loses_a_picture(kind: str, strategy: str) -> None:
    fault = Fault(kind=kind, board=0, at_ms=800.0, until_ms=1_800.0, amount=0.5 if kind == "freezes" else 6.0)
    assert None not in simulated(strategy, SMALL, fault).latencies_ms


@pytest.mark.parametrize("strategy", ["fastest", "load"])
def test_a_board_that_fails_fast_is_ejected_after_a_few_sends(strategy: str) -> None:
    outcome = simulated(strategy, SMALL, Fault(kind="fails-fast", board=0, at_ms=1_500.0))
    assert None not in outcome.latencies_ms
    sends = outcome.sends[SMALL.boards[0].device_id]
    assert sum(1_500 <= at_ms < 2_400 for at_ms in sends) <= 5


def test_a_board_that_lies_about_its_slots_costs_time_but_no_picture() -> None:
    def boasts(device: Device) -> Device:
        return replace(device, profile=replace(device.profile, slots=16), window_tasks=64)

    outcome = Simulation(SMALL, pictures(), "fastest", says=boasts).run()
    assert None not in outcome.latencies_ms


# -- bounds and figures


def test_the_fluid_bound_of_one_board_is_its_narrower_part() -> None:
    alone = replace(SMALL, boards=SMALL.boards[2:])  # an RK3588: 27 ms on 3 slots, 100 Mbit/s
    assert bounds.capacity_per_s(alone, [50_000] * 100) == pytest.approx(1000 / 9)
    assert bounds.capacity_per_s(alone, [500_000] * 100) == pytest.approx(1000 / 40)


def test_the_bound_sends_large_pictures_over_fast_links() -> None:
    sizes = [50_000] * 50 + [500_000] * 50
    together = bounds.capacity_per_s(SMALL, sizes)
    apart = sum(bounds.capacity_per_s(replace(SMALL, boards=(board,)), sizes) for board in SMALL.boards)
    assert together > 1.1 * apart


def test_percentiles_and_means() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert Mean.of([1.0, 3.0]).value == 2.0
    assert Mean.of([5.0]).half_width is None


# -- files


def test_every_built_in_fleet_can_be_read() -> None:
    assert {"mixed", "identical", "links", "speeds", "small"} <= set(fleets.built_in())
    for name in fleets.built_in():
        assert fleets.load(name).boards
    assert len(fleets.load("mixed").boards) == 12


def test_simulated_and_emulated_boards_have_the_same_profiles() -> None:
    for name in ("mixed", "small"):
        fleet = fleets.load(name)
        for kind, usual in USUAL_PROFILES.items():
            assert usual in [board.profile for board in fleet.boards if board.board_type is kind]
    assert {board.profile for board in fleets.load("small").boards} == set(USUAL_PROFILES.values())


def test_what_a_fleet_file_does_not_say_is_as_usual_for_that_board() -> None:
    fleet = fleets.parse('[[device]]\nboard = "rk3588"\nlink_mbps = 32\n', name="f")
    assert fleet.boards[0].profile == replace(USUAL_PROFILES[BoardType.RK3588], link_mbps=32)


GOOD = '[[device]]\nboard = "orin"\nslots = 1\nservice_ms = 12\nlink_mbps = 320\nround_trip_ms = 3\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1 to 10000 devices"),
        ("[[device]\n", "fleet f"),
        (GOOD + "colour = 1\n", "device 1: unknown key 'colour'"),
        (GOOD.replace("slots = 1\n", "").replace("orin", "generic"), "'slots' is missing"),
        (GOOD.replace("slots = 1", "slots = 1.5"), "slots must be a whole number, 1 or more, got 1.5"),
        (GOOD.replace("= 1\n", '= "two"\n'), "slots must be a whole number"),
        (GOOD.replace("320", "nan"), "device 1"),
        (GOOD.replace("orin", "toaster"), "device 1"),
        ('[sizes]\ndistribution = "odd"\n' + GOOD, "no distribution 'odd'"),
    ],
)
def test_a_fleet_file_that_is_wrong_says_where(text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        fleets.parse(text, name="f")


@pytest.mark.parametrize(
    "text",
    [
        "at_ms,size_bytes\n100,5000\n50,7000\n",
        '{"at_ms": 100, "size_bytes": 5000}\n{"created_at_ms": 50, "size_bytes": 7000}\n',
    ],
)
def test_a_trace_is_read_oldest_first_from_zero(text: str) -> None:
    assert traces.parse(text) == [(0.0, 7000), (50.0, 5000)]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "at_ms,size_bytes\nnan,5\n", "at_ms,size_bytes\n1,0\n", '{"at_ms": 1}\n']
)
def test_a_trace_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        traces.parse(text)


def test_the_bound_is_of_the_pictures_that_arrive() -> None:
    large = [Picture(at_ms=0.0, size_bytes=5_000_000, effort=1.0)]
    assert runs.capacity_per_s(SMALL, large) < runs.capacity_per_s(SMALL) / 2


def test_a_fault_names_its_board_by_number_or_name() -> None:
    assert runs.parse_fault("slows:1:2::6", SMALL) == Fault(kind="slows", board=1, at_ms=2_000.0, amount=6.0)
    assert runs.parse_fault("dies:orin-2:1:3", SMALL).board == 1
    for wrong in ("dies", "dies:9:1", "sulks:0:1", "dies:0:x"):
        with pytest.raises(InvalidInput):
            runs.parse_fault(wrong, SMALL)


def test_the_chart_is_a_picture_that_names_every_strategy() -> None:
    some = pictures(seconds=1.0)
    done = [runs.run(SMALL, some, name) for name in ("fastest", "predecessor")]
    root = ElementTree.fromstring(runs.chart(SMALL, done, "a <title>"))
    words = [element.text for element in root.iter() if element.text]
    assert {"fastest", "predecessor", "a <title>"} <= set(words)


def test_an_unknown_strategy_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidInput, match=r"fastest.*predecessor.*greedy"):
        runs.run(SMALL, pictures(seconds=1.0), "psychic")


def test_a_fleet_whose_boards_all_die_for_good_ends_the_run() -> None:
    outcome = simulated("load", SMALL, *(Fault(kind="dies", board=i, at_ms=0.0) for i in range(3)), seconds=0.5)
    assert None in outcome.latencies_ms

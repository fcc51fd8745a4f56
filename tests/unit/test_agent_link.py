"""The link: what is measured, and what an emulated one does to messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.link import FLUCTUATION_MBPS, PICTURES_COUNT_S, LinkMeter, LinkShaper, shaped

WITHIN_S = 10.0


def test_nothing_is_known_before_the_first_measurement() -> None:
    meter = LinkMeter()
    assert meter.bandwidth_mbps is None
    assert meter.latency_ms is None


def test_bandwidth_is_a_moving_average_of_megabits_per_second() -> None:
    meter = LinkMeter()
    meter.transferred(125_000, 10.0)
    assert meter.bandwidth_mbps == pytest.approx(100.0)
    meter.transferred(125_000, 5.0)
    assert meter.bandwidth_mbps == pytest.approx(120.0)


@pytest.mark.parametrize(("size_bytes", "duration_ms"), [(32_000, 100.0), (1_000_000, 0.5), (1_000_000, 0.0)])
def test_what_is_too_small_or_too_quick_teaches_nothing(size_bytes: int, duration_ms: float) -> None:
    meter = LinkMeter()
    meter.transferred(size_bytes, duration_ms)
    assert meter.bandwidth_mbps is None


def test_of_probes_the_quickest_counts_and_pictures_count_more_until_they_are_old() -> None:
    now = 0.0
    meter = LinkMeter(lambda: now)
    meter.probed(1_000, 100.0)
    assert meter.bandwidth_mbps is None, "too little"
    for duration_ms in (20.0, 10.0, 40.0):
        meter.probed(125_000, duration_ms)
    assert meter.bandwidth_mbps == pytest.approx(100.0)
    meter.transferred(125_000, 5.0)
    meter.probed(125_000, 50.0)
    assert meter.bandwidth_mbps == pytest.approx(200.0)
    now = PICTURES_COUNT_S
    assert meter.bandwidth_mbps == pytest.approx(100.0)


def test_a_link_is_idle_since_its_last_picture() -> None:
    now = 5.0
    meter = LinkMeter(lambda: now)
    meter.probed(125_000, 10.0)
    assert meter.idle_s is None
    meter.transferred(10, 0.1)  # too small to measure, but no idleness
    now = 8.0
    assert meter.idle_s == 3.0


def test_latency_is_the_quickest_of_the_last_round_trips() -> None:
    meter = LinkMeter()
    for duration_ms in (1.0, 9.0, *[4.0] * 7, 5.0):
        meter.round_trip(duration_ms)
    assert meter.latency_ms == 4.0


def test_messages_queue_on_the_link_and_travel_for_half_the_round_trip() -> None:
    shaper = LinkShaper(mbps=8.0, round_trip_ms=10.0)  # a megabyte per second
    assert shaper.arrival(100.0, 500_000) == pytest.approx(100.505)
    assert shaper.arrival(100.0, 500_000) == pytest.approx(101.005)
    assert shaper.arrival(100.0, 0) == pytest.approx(101.005)
    assert shaper.arrival(200.0, 0) == pytest.approx(200.005)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**7)), max_size=50), st.booleans())
def test_order_is_kept_whatever_is_sent_when(steps: list[tuple[float, int]], fluctuates: bool) -> None:
    shaper = LinkShaper(mbps=100.0, round_trip_ms=2.0, fluctuates=fluctuates, seed=1)
    now = last = 0.0
    for pause, size in steps:
        now += pause
        arrival = shaper.arrival(now, size)
        assert arrival >= max(last, now)
        last = arrival


def test_a_fluctuating_link_has_a_new_rate_each_second_within_its_bounds() -> None:
    shaper = LinkShaper(mbps=None, round_trip_ms=0.0, fluctuates=True, seed=1)
    rates = [1.0 / (shaper.arrival(now, 125_000) - now) for now in (0.0, 0.5, 10.0, 20.0, 30.0)]
    assert all(FLUCTUATION_MBPS[0] <= rate <= FLUCTUATION_MBPS[1] for rate in rates)
    assert rates[0] == pytest.approx(rates[1])
    assert len({round(rate, 3) for rate in rates}) == 4


def test_a_link_without_a_rate_only_delays() -> None:
    assert LinkShaper(mbps=None, round_trip_ms=4.0).arrival(1.0, 10**9) == pytest.approx(1.002)


async def count_to(limit: int, *, fail: bool = False) -> AsyncIterator[int]:
    for number in range(limit):
        yield number
    if fail:
        raise ValueError("the line was cut")


async def test_delays_overlap_and_nothing_is_lost() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    shaper = LinkShaper(mbps=None, round_trip_ms=100.0)
    async with asyncio.timeout(WITHIN_S), aclosing(shaped(count_to(500), shaper, lambda _: 0)) as messages:
        assert [message async for message in messages] == list(range(500))
    assert 0.05 <= loop.time() - began < 5.0  # one after the other they would take 25 s


async def test_an_error_of_the_messages_comes_after_those_that_arrived() -> None:
    seen: list[int] = []

    async def read() -> None:
        shaper = LinkShaper(mbps=None, round_trip_ms=0.0)
        async with aclosing(shaped(count_to(3, fail=True), shaper, lambda _: 0)) as messages:
            async for message in messages:
                seen.append(message)

    with pytest.raises(ValueError, match="cut"):
        await asyncio.wait_for(read(), WITHIN_S)
    assert seen == [0, 1, 2]


async def test_a_line_that_nobody_reads_any_more_can_be_closed() -> None:
    shaper = LinkShaper(mbps=None, round_trip_ms=0.0)
    async with asyncio.timeout(WITHIN_S):
        async with aclosing(shaped(count_to(10_000), shaper, lambda _: 0)) as messages:
            assert await anext(messages) == 0

from __future__ import annotations

import asyncio

import uvloop

from edgesched.wake import Wake

WITHIN_S = 10.0


async def test_it_wakes_once_for_all_that_was_said() -> None:
    wake = Wake()
    wake.now()
    wake.now()
    await asyncio.wait_for(wake.wait(), WITHIN_S)
    waiting = asyncio.create_task(wake.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    wake.now()
    await asyncio.wait_for(waiting, WITHIN_S)


async def test_what_is_not_urgent_is_heard_in_the_end() -> None:
    wake = Wake()
    wake.within(0.001)
    await asyncio.wait_for(wake.wait(), WITHIN_S)


async def test_whoever_hurries_takes_the_others_along() -> None:
    wake = Wake()
    wake.within(3600.0)
    wake.now()
    await asyncio.wait_for(wake.wait(), WITHIN_S)
    wake.within(0.001)  # the long wait is over: this one counts
    await asyncio.wait_for(wake.wait(), WITHIN_S)


async def test_the_shortest_wait_counts() -> None:
    wake = Wake()
    wake.within(3600.0)
    wake.within(0.001)
    wake.within(1800.0)
    await asyncio.wait_for(wake.wait(), WITHIN_S)


def test_no_wait_at_all_is_a_wait_as_well_also_for_uvloop() -> None:
    async def check() -> None:
        wake = Wake()
        wake.within(0.0)
        wake.within(0.0)
        wake.within(1.0)
        await asyncio.wait_for(wake.wait(), WITHIN_S)

    for new_event_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(check())

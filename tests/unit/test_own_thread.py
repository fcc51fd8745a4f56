"""One call after the other, each answered in the loop that made it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edgesched.own_thread import OwnThread


async def test_calls_are_done_in_their_order_in_one_other_thread() -> None:
    seen: list[int] = []
    with OwnThread("mine") as thread:
        names = await asyncio.gather(
            *(thread.call(lambda i: (seen.append(i), threading.current_thread().name)[1], i) for i in range(50))
        )
    assert (seen, set(names)) == (list(range(50)), {"mine"})


async def test_an_error_is_the_callers_and_the_next_call_is_none_the_worse() -> None:
    with OwnThread("mine") as thread:
        with pytest.raises(ZeroDivisionError):
            await thread.call(lambda: 1 / 0)
        assert await thread.call(lambda: 7) == 7


async def test_leaving_waits_for_calls_that_nobody_waits_for_any_more() -> None:
    may_go, done = threading.Event(), threading.Event()
    with OwnThread("mine") as thread:
        first = thread.call(may_go.wait)
        second = thread.call(done.set)
        for call in (first, second):
            call.cancel()
        may_go.set()
    assert done.is_set()

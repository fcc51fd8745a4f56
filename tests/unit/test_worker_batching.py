"""From a measured batch curve to the sizes that are used."""

from __future__ import annotations

import pytest

from agents.worker.batching import LONGEST_BATCH_S, RUNS, chosen, measured, sizes_up_to


@pytest.mark.parametrize(
    ("ms_per_picture", "sizes"),
    [
        ({1: 6.9, 2: 7.1, 4: 7.2, 8: 7.3}, (1,)),  # the demo model on a CPU: each batch is slower than singles
        ({1: 8.0, 2: 6.0, 4: 5.0, 8: 4.5}, (1, 2, 4, 8)),  # a GPU that one picture leaves half idle
        ({1: 8.0, 2: 6.0, 4: 5.0, 8: 5.5}, (1, 2, 4)),  # it is full at four
        ({1: 8.0, 2: 9.0, 4: 5.0}, (1, 4)),  # two are slower than one and one: they run one by one
        ({1: 8.0, 2: 5.0, 4: 6.0, 8: 4.0}, (1, 2, 8)),  # four run as two and two
        ({1: 8.0, 2: 7.9, 4: 7.0}, (1,)),  # not worth it
        ({1: 8.0}, (1,)),
        ({1: 0.0, 2: 0.0}, (1,)),  # a clock that is too coarse
    ],
)
def test_the_curve_decides(ms_per_picture: dict[int, float], sizes: tuple[int, ...]) -> None:
    assert chosen(ms_per_picture) == sizes


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_sizes_double_up_to_the_largest(most: int, sizes: list[int]) -> None:
    assert sizes_up_to(most) == sizes


class Device:
    """Takes `fixed_s + size * each_s` for a batch, and for the first one of each size a second more."""

    def __init__(self, fixed_s: float, each_s: float) -> None:
        self.now = 0.0
        self.runs: list[int] = []
        self._fixed_s, self._each_s = fixed_s, each_s

    def infer(self, size: int) -> None:
        is_first = size not in self.runs
        self.runs.append(size)
        self.now += self._fixed_s + size * self._each_s + is_first


def test_the_best_of_a_few_runs_counts_and_sizes_take_turns() -> None:
    device = Device(0.004, 0.001)
    curve = measured(device.infer, 4, lambda: device.now)
    assert curve == pytest.approx({1: 5.0, 2: 3.0, 4: 2.0})
    assert device.runs == [1, 1, 2, 2, 4, 4] + [1, 2, 4] * (RUNS - 1)


def test_a_disturbed_run_does_not_count() -> None:
    device = Device(0.004, 0.001)
    disturbed = iter([False] * 9 + [True] * 3 + [False] * 99)

    def infer(size: int) -> None:
        device.infer(size)
        device.now += 0.05 * next(disturbed)

    assert measured(infer, 4, lambda: device.now) == pytest.approx({1: 5.0, 2: 3.0, 4: 2.0})


def test_batches_that_take_too_long_are_not_used() -> None:
    device = Device(0.0, LONGEST_BATCH_S / 3)
    assert list(measured(device.infer, 64, lambda: device.now)) == [1, 2]
    assert max(device.runs) == 4
    slow = Device(0.0, 2 * LONGEST_BATCH_S)
    assert list(measured(slow.infer, 64, lambda: slow.now)) == [1]

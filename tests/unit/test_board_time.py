"""A board tells durations; where they lie in the attempt is worked out from what the task manager saw."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from edgesched.domain.task import Timings
from edgesched.task_manager.board_time import Stage, board_stage

MS = 1_000_000
MINUTE = 60_000 * MS
TOLD = Timings(queued_ms=3, decode_ms=4, preprocess_ms=1, infer_ms=10, postprocess_ms=2, service_ms=20, transfer_ms=8)


def laid(timings: Timings, *, accepted_ms: int | None, ended_ms: int, sent_ms: int = 100) -> dict[str, tuple[int, int]]:
    """Name -> (start, end) in ms."""
    accepted_ns = None if accepted_ms is None else accepted_ms * MS
    board = board_stage(timings, sent_ns=sent_ms * MS, accepted_ns=accepted_ns, ended_ns=ended_ms * MS)
    return {stage.name: (stage.started_ns // MS, stage.ended_ns // MS) for stage in flat(board)}


def flat(stage: Stage | None) -> Iterator[Stage]:
    if stage is not None:
        yield stage
        for part in stage.parts:
            yield from flat(part)


def test_stages_lie_around_the_moment_at_which_the_board_had_the_picture() -> None:
    assert laid(TOLD, accepted_ms=110, ended_ms=140) == {
        "board": (102, 140),
        "transfer": (102, 110),
        "wait": (110, 113),
        "work": (113, 133),
        "decode": (113, 117),
        "preprocess": (117, 118),
        "infer": (118, 128),
        "postprocess": (128, 130),
        "report": (133, 140),
    }


def test_a_board_that_says_late_that_it_has_the_picture_moves_no_work_beyond_its_outcome() -> None:
    stages = laid(TOLD, accepted_ms=139, ended_ms=140)

    assert stages["wait"] == (117, 120)
    assert stages["work"] == (120, 140)
    assert stages["report"] == (140, 140)


def test_labels_that_wait_for_a_broken_link_leave_the_work_where_it_was() -> None:
    board = board_stage(TOLD, sent_ns=0, accepted_ns=10 * MS, ended_ns=10 * MINUTE)
    stages = {stage.name: stage for stage in flat(board)}

    assert stages["work"].ended_ns == 33 * MS
    assert (stages["report"].started_ns, stages["report"].ended_ns) == (33 * MS, 10 * MINUTE)


def test_what_the_board_does_not_know_has_no_stage() -> None:
    assert laid(Timings(infer_ms=5), accepted_ms=110, ended_ms=140) == {
        "board": (110, 140),
        "work": (110, 115),
        "infer": (110, 115),
        "report": (115, 140),
    }
    assert laid(Timings(), accepted_ms=110, ended_ms=140) == {}


durations = st.none() | st.floats(0, 1e9) | st.sampled_from([0.0, 1e300])
all_timings = st.builds(Timings, **dict.fromkeys(Timings.__slots__, durations))


@given(all_timings, st.integers(0, 10**9), st.integers(0, 10**12), st.none() | st.integers(0, 10**13))
def test_whatever_a_board_tells_its_stages_are_in_order_and_inside_the_attempt(
    timings: Timings, sent_ns: int, took_ns: int, accepted_after_ns: int | None
) -> None:
    accepted_ns = None if accepted_after_ns is None else sent_ns + accepted_after_ns
    board = board_stage(timings, sent_ns=sent_ns, accepted_ns=accepted_ns, ended_ns=sent_ns + took_ns)

    for stage in flat(board):
        assert sent_ns <= stage.started_ns <= stage.ended_ns <= sent_ns + took_ns
        at_ns = stage.started_ns
        for part in stage.parts:
            assert at_ns <= part.started_ns
            at_ns = part.ended_ns
        assert at_ns <= stage.ended_ns

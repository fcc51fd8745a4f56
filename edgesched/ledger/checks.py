"""What must be true of a ledger's rows, as one table of queries: each of them finds the rows that break one promise.

Nothing here asks the code that writes the rows, so that an audit can fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgesched.domain.lifecycle import LABELLED_STATES, OPEN_STATES, Event, State, is_settled
from edgesched.domain.task import FailureKind, Priority

ON_BOARD = OPEN_STATES - {State.QUEUED}
NEED_PICTURE = OPEN_STATES | {State.FAILED}
SETTLED = [state for state in State if is_settled(state, wants_delivery=True)]
SETTLED_UNLESS_AWAITED = [state for state in State if is_settled(state, wants_delivery=False) and state not in SETTLED]

RESTORE = (
    "no run of the task manager mends this: keep a copy of the file, restore a backup (`edgesched ledger restore`), "
    "and report it as a fault of edgesched unless the file was changed by hand"
)
GIVE_UP = "put the picture directory back, or give the picture up with `edgesched ledger repair` and send it again"


@dataclass(frozen=True, slots=True)
class Check:
    """query: its rows are a task id (or NULL) and whatever `what` names as {0}, {1}, ...; no row: all is well."""

    name: str
    query: str
    what: str
    advice: str = RESTORE


def _in(names: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{name}'" for name in sorted(names)) + ")"


CHECKS: Sequence[Check] = (
    Check(
        "task.state",
        f"SELECT task_id, state FROM task WHERE state NOT IN {_in(State)}",
        "its state {0!r} is none of the lifecycle's",
    ),
    Check(
        "task.priority",
        f"SELECT task_id, priority FROM task WHERE priority NOT IN {_in(Priority)}",
        "its priority {0!r} is none that there is",
    ),
    Check(
        "task.settled",
        f"""SELECT task_id, state, CASE WHEN settled_at_ms IS NULL THEN 'unsettled' ELSE 'settled' END FROM task
            WHERE (settled_at_ms IS NOT NULL) IS NOT
                  (state IN {_in(SETTLED)} OR (state IN {_in(SETTLED_UNLESS_AWAITED)} AND receiver_url IS NULL))""",
        "it is marked as {1} while it is {0}: retention would take it too early, or never",
    ),
    Check(
        "task.attempt",
        "SELECT task_id, attempt_id FROM task WHERE state = 'queued' AND (attempt_id NOTNULL OR device_id NOTNULL)",
        "it is queued and has a current attempt {0}",
    ),
    Check(
        "task.revision",
        """SELECT task_id, task.revision, meta.revision FROM task, meta WHERE task.revision > meta.revision
           UNION ALL
           SELECT MIN(task_id), revision, COUNT(*) FROM task GROUP BY revision HAVING COUNT(*) > 1""",
        "its revision {0} is not one of its own (the newest, or how many share it: {1}): watchers would miss changes",
    ),
    Check(
        "task.order",
        """SELECT task_id, task.seq, owner_epoch FROM task, meta
           WHERE owner_epoch > meta.epoch
              OR task.seq > (SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'task')""",
        "its number {0} or its owner's epoch {1} was never given out",
    ),
    Check(
        "attempt.open",
        f"""SELECT task.task_id, attempt.attempt_id, task.state FROM attempt JOIN task USING (seq)
            WHERE attempt.ended_at_ms IS NULL AND (
                task.state NOT IN {_in(ON_BOARD)} OR task.attempt_id IS NOT attempt.attempt_id
                OR task.device_id IS NOT attempt.device_id)""",
        "attempt {0} is open, but the task is {1} and has another current attempt, or none",
    ),
    Check(
        "attempt.missing",
        f"""SELECT task.task_id, task.state, task.attempt_id FROM task LEFT JOIN attempt
                ON attempt.attempt_id = task.attempt_id AND attempt.seq = task.seq AND attempt.ended_at_ms IS NULL
            WHERE task.state IN {_in(ON_BOARD)} AND attempt.number IS NULL""",
        "it is {0}, but its current attempt {1} is not there or has ended: nobody works on it",
    ),
    Check(
        "attempt.several",
        """SELECT task.task_id, COUNT(*) FROM attempt JOIN task USING (seq) WHERE ended_at_ms IS NULL
           GROUP BY attempt.seq HAVING COUNT(*) > 1""",
        "{0} of its attempts are open at once",
    ),
    Check(
        "attempt.cause",
        f"""SELECT task.task_id, attempt.attempt_id, attempt.device_id FROM attempt JOIN task USING (seq)
            WHERE attempt.ended_at_ms IS NOT NULL AND attempt.failure_kind IS NULL
              AND NOT (task.state IN {_in(LABELLED_STATES)} AND task.attempt_id IS attempt.attempt_id)""",
        "attempt {0} on {1} has ended with neither labels nor a cause",
    ),
    Check(
        "attempt.kind",
        f"""SELECT task.task_id, attempt.attempt_id, failure_kind FROM attempt LEFT JOIN task USING (seq)
            WHERE failure_kind NOT IN {_in(FailureKind)} OR (failure_kind IS NULL) <> (failure_message IS NULL)
               OR (failure_kind NOTNULL AND ended_at_ms IS NULL)""",
        "attempt {0} has the unknown or incomplete cause {1!r}",
    ),
    Check(
        "attempt.task",
        """SELECT NULL, attempt.attempt_id, attempt.seq FROM attempt LEFT JOIN task USING (seq)
           WHERE task.seq IS NULL""",
        "attempt {0} belongs to task number {1}, which does not exist",
    ),
    Check(
        "winner",
        f"""SELECT task_id, state, winners FROM (
                SELECT task.task_id, task.state, task.attempt_id, COUNT(attempt.number) AS winners,
                       MAX(attempt.attempt_id) AS winner
                FROM task LEFT JOIN attempt ON attempt.seq = task.seq
                     AND attempt.ended_at_ms IS NOT NULL AND attempt.failure_kind IS NULL
                WHERE task.state IN {_in(LABELLED_STATES)} GROUP BY task.seq)
            WHERE winners <> 1 OR winner IS NOT attempt_id""",
        "it is {0} and must have one winning attempt, its current one; {1} attempts have won",
    ),
    Check(
        "labels.missing",
        f"""SELECT task.task_id, task.state FROM task LEFT JOIN result USING (seq)
            WHERE task.state IN {_in(LABELLED_STATES)} AND result.attempt_id IS NOT task.attempt_id""",
        "it is {0}, but the labels of its winning attempt are not there",
    ),
    Check(
        "labels.unexpected",
        f"""SELECT task.task_id, result.seq, COALESCE(task.state, 'gone') FROM result LEFT JOIN task USING (seq)
            WHERE task.state IS NULL OR task.state NOT IN {_in(LABELLED_STATES)}""",
        "there are labels for task number {0}, which is {1}",
    ),
    Check(
        "picture.unnamed",
        f"""SELECT task_id, state FROM task WHERE state IN {_in(NEED_PICTURE)} AND image IS NULL
              AND NOT (state = 'failed' AND COALESCE(last_error, '') LIKE '{Event.PICTURE_LOST}: %')""",
        "it is {0} and needs its picture, but names none",
        GIVE_UP,
    ),
    Check(
        "picture.shared",
        """SELECT MIN(task_id), image, COUNT(*) FROM task WHERE image NOTNULL GROUP BY image HAVING COUNT(*) > 1""",
        "it shares its picture {0} with others ({1} tasks name it): the first to settle takes it away from the rest",
    ),
    Check(
        "key.twice",
        """SELECT task.task_id, task.client_id, task.submission_key FROM task JOIN retired_submission
           USING (client_id, submission_key)""",
        "key {1!r} of client {0!r} is remembered for a task that is gone as well: sent again, it has two answers",
    ),
    Check(
        "key.memory",
        """SELECT NULL, client_id, submission_key FROM retired_submission WHERE NOT json_valid(task)""",
        "what is remembered of key {1!r} of client {0!r} cannot be read",
    ),
)

GIVEN_UP = (
    f"SELECT COUNT(*) FROM task WHERE state = 'failed' AND image IS NULL AND last_error LIKE '{Event.PICTURE_LOST}: %'"
)

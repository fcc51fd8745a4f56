-- The ledger's file, version 3. Read by edgesched/ledger/database.py when a ledger is made.
-- Times are wall milliseconds since 1970, by the task manager's clock.

-- One row: whose file this is. Every write transaction checks that `epoch` is still its own.
CREATE TABLE meta (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    schema_version INTEGER NOT NULL,
    ledger_id      TEXT    NOT NULL, -- made once, with the file
    owner_id       TEXT    NOT NULL,
    epoch          INTEGER NOT NULL, -- grows each time that somebody takes the ledger over
    revision       INTEGER NOT NULL  -- the newest of any task, also of those that are deleted
) STRICT;

-- `accepted`, and `retired_<state>`: they grow in the transaction that inserts or deletes the rows.
CREATE TABLE counter (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE task (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT, -- order of acceptance; never used again
    task_id         TEXT    NOT NULL UNIQUE,
    revision        INTEGER NOT NULL,
    state           TEXT    NOT NULL,
    client_id       TEXT    NOT NULL,
    submission_key  TEXT    NOT NULL,
    model           TEXT    NOT NULL,
    file_name       TEXT    NOT NULL,
    image           TEXT,             -- NULL once the picture was retired
    image_digest    TEXT    NOT NULL,
    size_bytes      INTEGER NOT NULL,
    receiver_url    TEXT,
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL,
    settled_at_ms   INTEGER,          -- NULL while something is still to happen; what retention counts from
    expires_at_ms   INTEGER,
    attempt_id      TEXT,             -- the current attempt; the winning one once there are labels
    device_id       TEXT,
    failed_attempts INTEGER NOT NULL,
    last_error      TEXT,
    owner_epoch     INTEGER NOT NULL, -- who claimed it; an epoch has exactly one owner
    priority        TEXT    NOT NULL DEFAULT 'normal',
    UNIQUE (client_id, submission_key)
) STRICT;

CREATE INDEX task_by_revision ON task (revision);                                            -- changes_since
CREATE INDEX task_by_state ON task (state, seq);                                             -- list by state
CREATE INDEX task_in_line ON task (model, priority, seq) WHERE state = 'queued';             -- claim
CREATE INDEX task_undelivered ON task (seq) WHERE state = 'done' AND receiver_url IS NOT NULL;
CREATE INDEX task_deadline ON task (expires_at_ms)
    WHERE expires_at_ms IS NOT NULL AND state IN ('queued', 'dispatched', 'running');
CREATE INDEX task_settled ON task (settled_at_ms) WHERE settled_at_ms IS NOT NULL;           -- retire_tasks
CREATE INDEX task_picture ON task (settled_at_ms, seq, size_bytes)                           -- retire_images
    WHERE settled_at_ms IS NOT NULL AND image IS NOT NULL AND state <> 'failed';

CREATE TABLE attempt (
    number          INTEGER PRIMARY KEY, -- the order in which the ledger heard of them
    attempt_id      TEXT    NOT NULL UNIQUE,
    seq             INTEGER NOT NULL,    -- of its task
    device_id       TEXT    NOT NULL,
    reason          TEXT    NOT NULL,
    started_at_ms   INTEGER NOT NULL,
    ended_at_ms     INTEGER,             -- NULL while it is open: a task has at most one such attempt
    failure_kind    TEXT,
    failure_message TEXT,
    timings         TEXT                 -- JSON, only for labels that won
) STRICT;

CREATE INDEX attempt_of_task ON attempt (seq);
CREATE UNIQUE INDEX attempt_open ON attempt (seq) WHERE ended_at_ms IS NULL;

-- The labels of each DONE or DELIVERED task: written once, never changed.
CREATE TABLE result (
    seq        INTEGER PRIMARY KEY,
    attempt_id TEXT    NOT NULL, -- the winner; its timings stand in its own row
    digest     TEXT    NOT NULL,
    detections TEXT    NOT NULL, -- JSON
    width      INTEGER,
    height     INTEGER
) STRICT;

-- Submissions whose task row is gone: the same key still gets the same answer.
CREATE TABLE retired_submission (
    client_id      TEXT    NOT NULL,
    submission_key TEXT    NOT NULL,
    image_digest   TEXT    NOT NULL,
    retired_at_ms  INTEGER NOT NULL, -- when the row went; what key_retention counts from
    task           TEXT    NOT NULL, -- JSON: the row as it was
    PRIMARY KEY (client_id, submission_key)
) STRICT, WITHOUT ROWID;

CREATE INDEX retired_submission_age ON retired_submission (retired_at_ms);

"""How patient the task manager is with a board."""

from __future__ import annotations

from edgesched.settings import TaskManagerSettings
from edgesched.task_manager.device_link import LINK_OPTIONS


def test_a_board_that_falls_silent_has_lost_its_tasks_within_ten_seconds() -> None:
    options = dict(LINK_OPTIONS)
    noticed_ms = options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"]

    assert noticed_ms + TaskManagerSettings().reconnect_grace_ms < 10_000

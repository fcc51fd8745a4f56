"""Every expected error has its HTTP status, and its gRPC status."""

from __future__ import annotations

import pytest

from edgesched import rest
from edgesched.errors import EdgeSchedError, Overloaded, row_for
from edgesched.task_manager.status import STATUS as GRPC_STATUS
from gateway.problems import STATUS, problem


def concrete_errors(kind: type[EdgeSchedError] = EdgeSchedError) -> set[type[EdgeSchedError]]:
    """Those that this process can raise: of the project's own modules, not of other tests."""
    found = set()
    for child in kind.__subclasses__():
        if child.__module__.split(".")[0] in {"edgesched", "gateway"}:
            found |= {child} | concrete_errors(child)
    return found


@pytest.mark.parametrize("kind", sorted(concrete_errors(), key=lambda kind: kind.__name__))
def test_every_error_has_a_status(kind: type[EdgeSchedError]) -> None:
    assert row_for(STATUS, kind) in STATUS.values()
    if not kind.__module__.startswith("gateway"):  # those never reach the task manager's door
        assert row_for(GRPC_STATUS, kind) in GRPC_STATUS.values()


def test_every_status_is_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())


def test_a_full_queue_says_when_to_come_back() -> None:
    response = problem(STATUS[Overloaded], "full", retry_after_ms=1_200)
    assert response.headers["Retry-After"] == "2"
    assert isinstance(response.body, bytes)
    assert rest.PROBLEM.parse(response.body).retry_after_ms == 1_200


@pytest.mark.parametrize("status", sorted(set(STATUS.values())))
def test_the_body_is_problem_details(status: int) -> None:
    response = problem(next(s for s in STATUS.values() if s == status), "do this instead")
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    body = rest.PROBLEM.parse(response.body)
    assert (body.status, body.detail) == (status, "do this instead")
    assert body.title

"""/schedule, /tasks, /health and what is common to all routes, over a real port."""

from __future__ import annotations

import io
import json
import math
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import pytest

from edgesched import rest
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Line, Priority, Task, TaskDetails, TaskFilter, TaskId
from edgesched.ports import Asker, FinishedSample, PlacementPlan
from gateway.app import MAX_BODY_BYTES
from tests.support.fleets import in_flight, request, task
from tests.support.gateways import GatewayUnderTest, agent_port, gateway_under_test


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        yield gateway


@pytest.fixture
async def two_boards(gateway: GatewayUnderTest) -> AsyncIterator[GatewayUnderTest]:
    """`fast`, and `slow` with a model more."""
    fast = {"slots": 2, "service_ms": 8.0, "link_mbps": 800.0, "round_trip_ms": 1.0}
    async with agent_port() as a, agent_port() as b:
        await gateway.register("fast", a, profile=fast)
        await gateway.register("slow", b, models=["shapes", "yolo"])
        yield gateway


async def place(gateway: GatewayUnderTest, asked: Any, **params: str) -> PlacementPlan:
    answer = await gateway.call("POST", "/api/v1/schedule", rest.PLACEMENT_REQUEST.dump(asked), **params)
    assert answer.status == 200, answer.body
    return rest.PLACEMENT_PLAN.parse(json.dumps(answer.body))


# -- /schedule


async def test_a_dry_run_names_device_runner_up_and_terms(two_boards: GatewayUnderTest) -> None:
    answer = await two_boards.call("GET", "/schedule", strategy="load")
    assert answer.status == 200
    assert (answer.body["strategy"], answer.body["device_id"]) == ("load", "fast")
    assert answer.body["runner_up"]["device_id"] == "slow"
    assert answer.body["chosen"]["terms"]["this_task_ms"] == pytest.approx(4.0)
    assert answer.body["reason"] == "load: fast scores 0.004; next best slow 0.013"


async def test_a_dry_run_says_who_was_left_out_and_why(two_boards: GatewayUnderTest) -> None:
    answer = await two_boards.call("GET", "/schedule", model="yolo", size_bytes=1000)
    assert answer.body["device_id"] == "slow"
    assert answer.body["excluded"] == {"fast": "model yolo is not loaded there"}
    assert (answer.body["model"], answer.body["size_bytes"]) == ("yolo", 1000)


async def test_the_predecessors_spelling_of_strategy_works(two_boards: GatewayUnderTest) -> None:
    for name in ("roundrobin", "round_robin"):
        assert (await two_boards.call("GET", "/schedule", stargety=name)).body["strategy"] == "roundrobin"


async def test_dry_runs_never_take_a_turn(two_boards: GatewayUnderTest) -> None:
    chosen = [(await two_boards.call("GET", "/schedule", strategy="roundrobin")).body["device_id"] for _ in range(4)]
    assert len(set(chosen)) == 1


async def test_a_post_without_tasks_is_a_dry_run_whose_query_wins(two_boards: GatewayUnderTest) -> None:
    assert (await two_boards.call("POST", "/schedule")).body["device_id"] == "fast"
    answer = await two_boards.call("POST", "/schedule", {"model": "yolo", "strategy": "roundrobin"})
    assert (answer.body["device_id"], answer.body["strategy"]) == ("slow", "roundrobin")
    answer = await two_boards.call("POST", "/schedule", {"strategy": "roundrobin"}, strategy="load")
    assert answer.body["strategy"] == "load"


async def test_the_weights_of_the_tie_breakers_are_settings() -> None:
    used = {"cpu_used_fraction": 0.5, "xpu_used_fraction": 1.0}
    async with gateway_under_test(load_cpu_weight=0.01, load_xpu_weight=0.0) as gateway, agent_port() as port:
        await gateway.register("d", port)
        await gateway.heartbeat("d", telemetry=used)
        terms = (await gateway.call("GET", "/schedule", strategy="load")).body["chosen"]["terms"]
    assert terms["tie_breaker_s"] == pytest.approx(0.005)
    assert {name: terms[name] for name in used} == used


async def test_no_device_for_a_dry_run_is_503_with_every_reason(two_boards: GatewayUnderTest) -> None:
    two_boards.tasks.model_names = ("shapes", "digits")
    answer = await two_boards.call("GET", "/schedule", model="digits")
    assert answer.status == 503
    assert "fast: model digits is not loaded there; slow: model digits is not loaded there" in answer.body["detail"]


async def test_a_dry_run_for_a_model_that_nobody_knows_is_404_with_the_nearest(two_boards: GatewayUnderTest) -> None:
    answers = [
        await two_boards.call("GET", "/schedule", model="shape"),
        await two_boards.call("POST", "/schedule", {"model": "shape"}),
    ]
    for answer in answers:
        assert answer.status == 404
        assert answer.body["detail"].startswith("there is no model 'shape'; did you mean 'shapes'?")
    two_boards.tasks.is_reachable = False
    answer = await two_boards.call("GET", "/schedule", model="shape")
    assert answer.status == 503, "nobody can tell whether there is such a model"
    assert "model shape is not loaded there" in answer.body["detail"]


async def test_an_empty_fleet_is_503(gateway: GatewayUnderTest) -> None:
    answer = await gateway.call("GET", "/schedule")
    assert (answer.status, answer.body["detail"]) == (503, "no device can take it now (no device is registered)")


async def test_placement_over_http_is_placement_with_routes(two_boards: GatewayUnderTest) -> None:
    plan = await place(two_boards, request(task("a"), task("b"), flying=in_flight("fast", 8)))
    assert [d.task_id for d in plan.decisions] == ["a", "b"]
    assert plan.decisions[0].device_id == "slow"
    assert set(plan.decisions[0].excluded) == {"fast"}
    assert plan.decisions[0].excluded[DeviceId("fast")].startswith("window full: ")
    assert {route.device_id for route in plan.routes} == {"fast", "slow"}
    assert all(route.is_ready and route.address.startswith("127.0.0.1:") for route in plan.routes)


async def test_placement_without_a_feasible_device_is_a_plan_not_an_error(two_boards: GatewayUnderTest) -> None:
    plan = await place(two_boards, request(task(model="unheard-of")))
    assert plan.decisions[0].device_id is None
    assert set(plan.decisions[0].excluded) == {"fast", "slow"}


async def test_the_strategy_of_query_then_body_then_gateway(two_boards: GatewayUnderTest) -> None:
    assert (await place(two_boards, request())).decisions[0].strategy == "load"
    assert (await place(two_boards, request(strategy="roundrobin"))).decisions[0].strategy == "roundrobin"
    plan = await place(two_boards, request(strategy="roundrobin"), strategy="load")
    assert plan.decisions[0].strategy == "load"


async def test_the_gateways_default_strategy_is_used_when_nobody_says_anything() -> None:
    async with gateway_under_test("roundrobin") as gateway, agent_port() as port:
        await gateway.register("d", port)
        assert (await gateway.call("GET", "/schedule")).body["strategy"] == "roundrobin"
        assert (await place(gateway, request())).decisions[0].strategy == "roundrobin"


TASK = b'{"task_id":"t","model":"m","size_bytes":1}'


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"tasks":[' + TASK + b"]}", "in_flight"),
        (b'{"tasks":5,"in_flight":[]}', "tasks"),
        (b'{"tasks":[{"task_id":"t"}],"in_flight":[]}', "tasks.0.model"),
        (b'{"tasks":[{"task_id":"t","model":"m","size_bytes":-1}],"in_flight":[]}', "tasks.0.size_bytes"),
        (b'{"tasks":[{"task_id":"t","model":"m","size_bytes":1e400}],"in_flight":[]}', "tasks.0.size_bytes"),
        (
            b'{"tasks":[],"in_flight":[{"attempt_id":"a","device_id":"d","model":"m","size_bytes":1,"elapsed_ms":NaN}]}',
            "in_flight.0.elapsed_ms",
        ),
        (
            b'{"tasks":[],"in_flight":[{"attempt_id":"a","device_id":"d","model":"m","size_bytes":1,"elapsed_ms":1,'
            b'"slot":0,"predicted_remaining_ms":NaN}]}',
            "in_flight.0.predicted_remaining_ms",
        ),
        (
            b'{"tasks":[],"in_flight":[],"finished":[{"device_id":"d","model":"m","size_bytes":1,"service_ms":1e999,'
            b'"transfer_ms":null,"total_ms":1,"succeeded":true}]}',
            "finished.0.service_ms",
        ),
        (b'{"tasks":[' + TASK + b'],"in_flight":[],"strategy":"greedy"}', "load, roundrobin"),
        (b'{"strategy":"greedy"}', "load, roundrobin"),
        (b'{"size_bytes":"big"}', "size_bytes"),
        (b"not json", "Invalid JSON"),
        (b"5", "body"),
    ],
)
async def test_a_malformed_placement_names_what_is_wrong(two_boards: GatewayUnderTest, body: bytes, named: str) -> None:
    answer = await two_boards.call("POST", "/schedule", body)
    assert answer.status == 400
    assert named in answer.body["detail"]


SAMPLE: dict[str, Any] = dict.fromkeys(field.name for field in fields(FinishedSample) if field.name.endswith("_ms"))
SAMPLE |= {"device_id": "fast", "model": "shapes", "size_bytes": 1, "total_ms": 1.0, "succeeded": True}


@pytest.mark.parametrize("name", [name for name in SAMPLE if name.endswith("_ms")])
async def test_no_duration_of_a_sample_may_be_endless(two_boards: GatewayUnderTest, name: str) -> None:
    asked = {"tasks": [], "in_flight": [], "finished": [SAMPLE | {name: math.inf}]}
    answer = await two_boards.call("POST", "/schedule", json.dumps(asked).replace("Infinity", "1e999").encode())
    assert answer.status == 400
    assert f"finished.0.{name}" in answer.body["detail"]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"strategy": "greedy"}, "there is no strategy 'greedy'; use one of: load, roundrobin"),
        ({"stargety": "random"}, "load, roundrobin"),
        ({"size_bytes": "-1"}, "size_bytes"),
        ({"size_bytes": "1e9"}, "size_bytes"),
        ({"size_bytes": "9" * 400}, "size_bytes"),
        ({"size_bytes": "٣"}, "size_bytes"),
    ],
)
async def test_a_malformed_dry_run_names_what_is_wrong(
    two_boards: GatewayUnderTest, params: dict[str, str], named: str
) -> None:
    answer = await two_boards.call("GET", "/schedule", **params)
    assert answer.status == 400
    assert named in answer.body["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_parameter_that_nobody_knows_is_named_with_those_that_there_are(
    two_boards: GatewayUnderTest, method: str
) -> None:
    answer = await two_boards.call(method, "/schedule", modle="yolo", strategy="load", nonsense=1)
    assert answer.status == 400
    assert "'modle'; did you mean 'model'?" in answer.body["detail"]
    assert "'nonsense'" in answer.body["detail"]
    assert answer.body["detail"].endswith("there are: strategy, stargety, model, size_bytes")


@pytest.mark.parametrize(
    ("path", "misspelt", "meant"),
    [("/tasks", "stat", "state"), ("/devices", "archive", "archived"), ("/workers", "device", "device_id")],
)
async def test_lists_refuse_a_parameter_that_they_do_not_know(
    gateway: GatewayUnderTest, path: str, misspelt: str, meant: str
) -> None:
    answer = await gateway.call("GET", path, **{misspelt: "x"})
    assert answer.status == 400
    assert f"{misspelt!r}; did you mean {meant!r}?; there are: " in answer.body["detail"]


async def test_what_the_predecessors_task_manager_sends_is_no_unknown_parameter(two_boards: GatewayUnderTest) -> None:
    body = {"ip": "10.0.0.7", "tasktype": "YoloV5", "req_id": "r", "total_num": 1, "filename": "a.jpg", "filepath": "x"}
    answer = await two_boards.call("POST", "/schedule", body, stargety="roundrobin")
    assert (answer.status, answer.body["strategy"]) == (200, "roundrobin")


# -- /tasks

DETAILS = TaskDetails(
    task=Task(
        task_id=TaskId("t-1"),
        seq=1,
        revision=9,
        state=State.DONE,
        client_id="c",
        model="shapes",
        file_name="a.jpg",
        image=None,
        size_bytes=10,
        receiver_url=None,
        created_at_ms=1,
        updated_at_ms=2,
        expires_at_ms=None,
        attempt_id=None,
        device_id=None,
        failed_attempts=0,
        last_error=None,
        priority=Priority.NORMAL,
    ),
    attempts=(),
    result=None,
)


async def test_tasks_are_listed_with_filters_and_a_cursor(gateway: GatewayUnderTest) -> None:
    gateway.tasks.details = {DETAILS.task.task_id: DETAILS}
    answer = await gateway.call(
        "GET", "/tasks", state="done", model="shapes", client_id="c", priority="low", limit=5, cursor=70
    )
    assert answer.status == 200
    assert [t["task_id"] for t in answer.body["tasks"]] == ["t-1"]
    assert answer.body["next_cursor"] == 7
    wanted = TaskFilter(state=State.DONE, model="shapes", client_id="c", priority=Priority.LOW)
    assert gateway.tasks.asked == [(wanted, 5, 70)]


async def test_a_list_of_tasks_is_bounded_when_nobody_says_so(gateway: GatewayUnderTest) -> None:
    await gateway.call("GET", "/api/v1/tasks")
    assert gateway.tasks.asked == [(TaskFilter(), 100, None)]


async def test_one_task_and_the_counts(gateway: GatewayUnderTest) -> None:
    gateway.tasks.details = {DETAILS.task.task_id: DETAILS}
    assert (await gateway.call("GET", "/tasks/t-1")).body["task"]["file_name"] == "a.jpg"
    assert (await gateway.call("GET", "/tasks/t-2")).status == 404
    counts = (await gateway.call("GET", "/tasks/counts")).body
    assert (counts["queued"], counts["done"], counts["failed"]) == (2, 5, 0)
    assert set(counts) == set(State)
    gateway.tasks.also_queued = {Line("shapes", Priority.HIGH): 3, Line("faces", Priority.LOW): 1}
    queue = (await gateway.call("GET", "/api/v1/tasks/queue")).body
    assert [(line["model"], line["priority"], line["tasks"]) for line in queue] == [
        ("faces", "low", 1),
        ("shapes", "high", 3),
        ("shapes", "normal", 2),
    ]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"state": "finished"}, "state: Input should be 'queued', 'dispatched'"),
        ({"limit": "0"}, "limit: Input should be greater than or equal to 1"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "abc"}, "cursor"),
    ],
)
async def test_a_malformed_task_query_names_what_is_wrong(
    gateway: GatewayUnderTest, params: dict[str, str], named: str
) -> None:
    answer = await gateway.call("GET", "/tasks", **params)
    assert answer.status == 400
    assert named in answer.body["detail"]


@pytest.mark.parametrize("path", ["/tasks", "/tasks/t-1", "/tasks/counts"])
async def test_without_the_task_manager_tasks_are_503(gateway: GatewayUnderTest, path: str) -> None:
    gateway.tasks.is_reachable = False
    answer = await gateway.call("GET", path)
    assert (answer.status, answer.body["detail"]) == (503, "the task manager does not answer; start it")


# -- /health


async def test_health_is_ok_with_a_ready_device_and_a_task_manager(two_boards: GatewayUnderTest) -> None:
    answer = await two_boards.call("GET", "/health")
    assert (answer.status, answer.body["status"], answer.body["problems"]) == (200, "ok", [])
    assert answer.body["devices"] == {"ready": 2, "unhealthy": 0, "silent": 0}
    assert answer.body["tasks"]["queued"] == 2
    assert answer.body["version"]


async def test_health_is_degraded_but_200_when_something_is_missing(two_boards: GatewayUnderTest) -> None:
    two_boards.tasks.is_reachable = False
    await two_boards.heartbeat("slow", unhealthy_reason="hot")
    answer = await two_boards.call("GET", "/api/v1/health")
    assert (answer.status, answer.body["status"], answer.body["tasks"]) == (200, "degraded", None)
    assert answer.body["devices"] == {"ready": 1, "unhealthy": 1, "silent": 0}
    assert answer.body["problems"] == ["devices unhealthy: 1 (slow)", "the task manager does not answer; start it"]


async def test_health_is_degraded_while_tasks_wait_and_no_device_takes_work(two_boards: GatewayUnderTest) -> None:
    assert (await two_boards.call("POST", "/devices/fast/cordon")).status == 200
    assert (await two_boards.call("GET", "/health")).body["status"] == "ok", "slow still works"
    assert (await two_boards.call("POST", "/devices/slow/drain")).status == 200
    answer = await two_boards.call("GET", "/health")
    assert answer.body["status"] == "degraded"
    (problem,) = answer.body["problems"]
    assert problem.startswith(
        "2 queued tasks wait and no device takes work (1 cordoned, 1 draining): give one work again"
    )
    await two_boards.heartbeat("slow", unhealthy_reason="hot")
    problems = (await two_boards.call("GET", "/health")).body["problems"]
    assert any("(1 cordoned, 1 unhealthy)" in problem for problem in problems)
    two_boards.tasks.queued = 0
    await two_boards.heartbeat("slow")
    assert (await two_boards.call("GET", "/health")).body["status"] == "ok", "nothing waits for them"


async def test_health_is_degraded_while_tasks_wait_for_a_model_that_no_device_runs(
    two_boards: GatewayUnderTest,
) -> None:
    two_boards.tasks.also_queued = {Line("rare", Priority.HIGH): 3, Line("rare", Priority.LOW): 4}
    (problem,) = (await two_boards.call("GET", "/health")).body["problems"]
    assert problem.startswith("7 queued tasks of model rare wait and no device that takes work can run it")


async def test_health_without_devices_says_so(gateway: GatewayUnderTest) -> None:
    assert (await gateway.call("GET", "/health")).body["problems"] == ["no device is ready"]


async def test_labels_that_their_receiver_does_not_take_are_a_problem_after_some_time(
    two_boards: GatewayUnderTest,
) -> None:
    two_boards.tasks.undelivered = 3
    assert (await two_boards.call("GET", "/health")).body["problems"] == []
    two_boards.tasks.oldest_undelivered_ms = 62_000.0
    answer = await two_boards.call("GET", "/health")
    assert answer.body["status"] == "degraded"
    (problem,) = answer.body["problems"]
    assert problem.startswith("3 labelled tasks are not delivered, the oldest for 62 s: start the receiver")
    two_boards.tasks.undelivered = 1_000
    (problem,) = (await two_boards.call("GET", "/health")).body["problems"]
    assert problem.startswith("1000 or more labelled tasks")


async def test_two_task_managers_are_a_problem_while_both_ask(two_boards: GatewayUnderTest) -> None:
    first, second = (Asker(ledger_id=f"ledger-{name}", owner_id=name) for name in ("a", "b"))

    async def problems(*askers: Asker) -> list[str]:
        for asker in askers:
            await place(two_boards, request(asker=asker))
        listed: list[str] = (await two_boards.call("GET", "/health")).body["problems"]
        return listed

    assert await problems(first, first, second, second) == [], "the first one was restarted, for all that is known"
    (problem,) = await problems(first)
    assert problem.startswith("2 task managers ask this gateway (of the ledgers ledger-a, ledger-b)")
    two_boards.clock.now_ms += 5_500
    for name in ("fast", "slow"):
        await two_boards.heartbeat(name)
    assert len(await problems(second)) == 1
    two_boards.clock.now_ms += 5_500
    for name in ("fast", "slow"):
        await two_boards.heartbeat(name)
    assert len(await problems(second, second)) == 1
    two_boards.clock.now_ms += 5_500
    for name in ("fast", "slow"):
        await two_boards.heartbeat(name)
    assert await problems(second) == [], "the first one is silent for long"


async def test_somebody_who_only_tries_is_no_task_manager(two_boards: GatewayUnderTest) -> None:
    asker = Asker(ledger_id="ledger", owner_id="a")
    for who in (asker, None, asker):
        await place(two_boards, request(asker=who))
    assert (await two_boards.call("GET", "/health")).body["problems"] == []


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_supervisors_get_200_whatever_else_is_broken(gateway: GatewayUnderTest, path: str) -> None:
    gateway.tasks.is_reachable = False
    assert (await gateway.call("GET", path)).status == 200
    assert (await gateway.call("HEAD", path)).status == 200


# -- all routes


async def test_the_front_page_lists_routes_for_people_and_programs(gateway: GatewayUnderTest) -> None:
    answer = await gateway.call("GET", "/")
    assert {"/devices", "/schedule", "/tasks", "/health"} <= {route["alias"] for route in answer.body["routes"]}
    async with gateway.session.get(gateway.url, headers={"Accept": "text/html"}) as response:
        assert response.content_type == "text/html"
        assert "dashboard/dashboard.js" in await response.text()


async def test_every_listed_route_exists_under_both_names(gateway: GatewayUnderTest) -> None:
    for route in (await gateway.call("GET", "/")).body["routes"]:
        for path in (route["path"], route["alias"]):
            address = gateway.url + path.format(device_id="x", task_id="x", name="x", worker="x", command_id="x")
            async with gateway.session.request(route["method"], address) as response:
                assert response.status != 405
                assert response.status != 404 or "there is nothing at" not in await response.text()


async def test_an_unknown_route_and_a_wrong_method_are_problems_too(gateway: GatewayUnderTest) -> None:
    answer = await gateway.call("GET", "/devicez")
    assert (answer.status, answer.body["status"], answer.body["title"]) == (404, 404, "Not Found")
    assert "GET / lists what there is" in answer.body["detail"]
    answer = await gateway.call("PUT", "/schedule")
    assert (answer.status, answer.body["detail"]) == (405, "/schedule takes GET, HEAD, POST")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("path", ["/devices", "/devices/x/heartbeat", "/schedule"])
async def test_a_body_that_is_too_large_is_refused_and_the_gateway_goes_on(
    gateway: GatewayUnderTest, path: str
) -> None:
    answer = await gateway.call("POST", path, io.BytesIO(b" " * (MAX_BODY_BYTES + 1)))
    assert answer.status == 413
    assert "too large" in answer.body["detail"]
    assert (await gateway.call("GET", "/health/live")).status == 200


async def test_a_bug_is_told_to_nobody_and_the_gateway_goes_on(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> Any:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(gateway.tasks, "counts", broken)  # the stand-in, not the code under test
    answer = await gateway.call("GET", "/tasks/counts")
    assert answer.status == 500
    assert "secret" not in answer.body["detail"]
    assert "request.crashed" in caplog.text
    assert (await gateway.call("GET", "/health/live")).status == 200

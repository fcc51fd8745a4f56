"""`edgesched tasks list|show|cancel|retry|abandon`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesched.cli.gateway_call import visible_json
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Priority

if TYPE_CHECKING:
    from edgesched.domain.task import Task, TaskDetails

app = typer.Typer(help="Look at tasks, and replay those that failed.", no_args_is_help=True)

CALL_TIMEOUT_S = 10.0
PIPED_WIDTH = 200  # columns where no terminal says how wide it is

Host = Annotated[str, typer.Option("--host", "-H", metavar="ADDRESS", help="The task manager's address.")]
Port = Annotated[int, typer.Option("--port", "-P", help="The task manager's gRPC port.")]
Json = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per task.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="TASK_ID...", help="One or more task ids.")]

STYLES = {"failed": "red", "expired": "yellow", "delivered": "green", "done": "green", "running": "cyan"}


@app.command("list")
def list_tasks(
    state: Annotated[
        str | None,
        typer.Option("--state", help="Only tasks in this state, like failed.", autocompletion=lambda: list(State)),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only tasks of this model.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Only tasks that went to this device.")] = None,
    priority: Annotated[Priority | None, typer.Option("--priority", help="Only tasks of this priority.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many, newest first.")] = 20,
    host: Host = "127.0.0.1",
    port: Port = 9999,
    as_json: Json = False,
) -> None:
    """The newest tasks."""
    from edgesched import wire
    from edgesched.domain.device import DeviceId
    from edgesched.domain.task import TaskFilter
    from edgesched.process import fail
    from edgesched.rest import TASK

    if state is not None and state not in set(State):
        fail(f"there is no state {state!r}; there are: {', '.join(State)}")
    device_id = DeviceId(device) if device else None
    filter_ = TaskFilter(state=State(state) if state else None, model=model, device_id=device_id, priority=priority)
    reply = _ask(host, port, "ListTasks", wire.list_request(filter_, limit=limit, cursor=None))
    tasks = wire.task_page(reply).tasks
    if as_json:
        for task in tasks:
            print(TASK.dump(task).decode())
    else:
        _print_tasks(tuple(TASK.parse(visible_json(TASK.dump(task))) for task in tasks))


@app.command()
def show(task_ids: TaskIds, host: Host = "127.0.0.1", port: Port = 9999, as_json: Json = False) -> None:
    """Everything about a task: where it was tried, why there, what came of it, and its labels."""
    from edgesched import wire
    from edgesched.rest import TASK_DETAILS
    from edgesched.v1 import task_manager_pb2 as pb

    for task_id in task_ids:
        request = pb.GetTaskRequest(task_id=task_id)
        details = wire.task_details(_ask(host, port, "GetTask", request))
        if as_json:
            print(TASK_DETAILS.dump(details).decode())
        else:
            _print_details(TASK_DETAILS.parse(visible_json(TASK_DETAILS.dump(details))))


@app.command()
def retry(task_ids: TaskIds, host: Host = "127.0.0.1", port: Port = 9999, as_json: Json = False) -> None:
    """Queue failed tasks again, with all their tries."""
    from edgesched.v1 import task_manager_pb2 as pb

    for task_id in task_ids:
        request = pb.RetryTaskRequest(task_id=task_id)
        _print_told(_ask(host, port, "RetryTask", request), "is queued again", as_json)


@app.command()
def cancel(task_ids: TaskIds, host: Host = "127.0.0.1", port: Port = 9999, as_json: Json = False) -> None:
    """End open tasks without labels."""
    from edgesched.v1 import task_manager_pb2 as pb

    for task_id in task_ids:
        request = pb.CancelTaskRequest(task_id=task_id)
        _print_told(_ask(host, port, "CancelTask", request), "is cancelled", as_json)


@app.command()
def abandon(task_ids: TaskIds, host: Host = "127.0.0.1", port: Port = 9999, as_json: Json = False) -> None:
    """Stop trying to deliver labels that no receiver takes. The labels stay in the ledger."""
    from edgesched.v1 import task_manager_pb2 as pb

    for task_id in task_ids:
        request = pb.AbandonDeliveryRequest(task_id=task_id)
        _print_told(
            _ask(host, port, "AbandonDelivery", request),
            "will not be delivered; `edgesched tasks show` has its labels",
            as_json,
        )


def _ask(host: str, port: int, method: str, request: Any) -> Any:
    """One call to the task manager. Ends the process with one sentence when it is refused."""
    import asyncio

    async def ask() -> Any:
        import grpc.aio

        from edgesched import wire
        from edgesched.v1 import task_manager_pb2_grpc

        async with grpc.aio.insecure_channel(f"{host}:{port}", options=wire.CHANNEL_OPTIONS) as channel:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await getattr(task_manager_pb2_grpc.TaskManagerStub(channel), method)(request)

    with _sentences(host, port):
        return asyncio.run(ask())


@contextmanager
def _sentences(host: str, port: int) -> Iterator[None]:
    import grpc

    from edgesched.process import fail

    try:
        yield
    except TimeoutError:
        fail(f"the task manager at {host}:{port} did not answer within {CALL_TIMEOUT_S:g} s")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            fail(f"no task manager answers at {host}:{port}; name another --host or --port")
        fail(str(error.details()))


def _print_told(reply: Any, outcome: str, as_json: bool) -> None:
    from edgesched import wire
    from edgesched.rest import TASK

    task = wire.task(reply)
    print(TASK.dump(task).decode() if as_json else f"{task.task_id} {outcome}")


def _print_tasks(tasks: tuple[Task, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not tasks:
        print("no such task")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)  # to be copied into `tasks show`
    for column in ("file", "model", "priority", "state", "device", "failures", "accepted"):
        table.add_column(column, overflow="fold")
    for task in tasks:
        state = f"[{STYLES[task.state]}]{task.state}[/]" if task.state in STYLES else str(task.state)
        cells = [task.task_id, task.file_name, task.model, task.priority, state, task.device_id or "-"]
        table.add_row(*cells, str(task.failed_attempts), _clock(task.created_at_ms))
    console = Console(emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)


def _print_details(details: TaskDetails) -> None:
    task = details.task
    print(f"{task.task_id}  {task.file_name}  ({task.size_bytes} bytes, model {task.model})")
    print(f"  state      {task.state}{f': {task.last_error}' if task.last_error else ''}")
    if details.waits_for is not None:
        print(f"  waits      {details.waits_for}")
    print(f"  accepted   {_clock(task.created_at_ms)}, last change {_clock(task.updated_at_ms)}")
    print(f"  client     {task.client_id}")
    print(f"  priority   {task.priority}")
    print(f"  receiver   {task.receiver_url or 'none: ask for the labels here'}")
    for number, attempt in enumerate(details.attempts, 1):
        took = f"{attempt.ended_at_ms - attempt.started_at_ms} ms" if attempt.ended_at_ms else "open"
        print(f"  attempt {number}  {attempt.device_id}, {took} ({attempt.attempt_id})")
        print(f"             why there: {attempt.reason}")
        if attempt.failure:
            print(f"             failed: {attempt.failure.kind}: {attempt.failure.message}")
    if details.result is not None:
        print(f"  labels     {len(details.result.detections)}")
        for d in details.result.detections:
            print(f"             {d.label} {d.confidence:.2f}  ({d.x1:g}, {d.y1:g}) to ({d.x2:g}, {d.y2:g})")


def _clock(wall_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_ms / 1000))

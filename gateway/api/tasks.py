"""/tasks: what the task manager knows, read through its port; and what people tell it to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from edgesched import rest
from edgesched.domain.detection import text_lines
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import LABELLED_STATES, State
from edgesched.domain.task import Priority, Task, TaskDetails, TaskFilter, TaskId
from edgesched.errors import Conflict, NotKnown
from edgesched.ports import TaskDesk
from gateway.routes import LARGEST_NUMBER, Route, asked_of, json_reply, query_of
from gateway.sending import IMMUTABLE, Sender, media_type
from gateway.uploads import UploadForm, UploadQuery, Uploads

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000

TASK_COUNTS: rest.Wire[Mapping[State, int]] = rest.Wire(Mapping[State, int])
NOT_KNOWN = {404: "no such task; the detail names the nearest one"}


class TaskQuery(BaseModel):
    state: State | None = None
    model: Annotated[str | None, Field(max_length=64)] = None
    client_id: Annotated[str | None, Field(max_length=128)] = None
    device_id: Annotated[DeviceId | None, Field(max_length=64, description="that it was sent to last")] = None
    priority: Priority | None = None
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = DEFAULT_PAGE
    cursor: Annotated[int | None, Field(ge=0, le=LARGEST_NUMBER, description="next_cursor of the page before")] = None


class LabelsQuery(BaseModel):
    format: Annotated[
        Literal["json", "txt"], Field(description="txt: one `class_id x1 y1 x2 y2 confidence` line per detection")
    ] = "json"


class Tasks:
    def __init__(self, tasks: TaskDesk, uploads: Uploads, sender: Sender) -> None:
        self._tasks = tasks
        self._uploads = uploads
        self._sender = sender

    def routes(self) -> Sequence[Route]:
        one = "/tasks/{task_id}"
        return (
            Route(
                method="GET",
                path="/tasks",
                handler=self.list,
                summary="tasks, newest first",
                query=TaskQuery,
                reply=rest.TASK_PAGE.adapter,
            ),
            Route(
                method="POST",
                path="/tasks",
                handler=self._uploads.submit,
                summary="submit pictures as files of a form",
                query=UploadQuery,
                form=UploadForm,
                reply=rest.SUBMITTED.adapter,
                status=201,
                also={207: "some files have a task, others a problem"},
                problems={
                    404: "no such model",
                    408: "the upload stopped half way",
                    409: "the submission key was used for another picture or model",
                    413: "a picture or the whole form is too large",
                    429: "the queue is full, or too many uploads at once; Retry-After says when to try again",
                },
            ),
            Route(
                method="GET",
                path="/tasks/counts",
                handler=self.counts,
                summary="how many tasks per state",
                reply=TASK_COUNTS.adapter,
            ),
            Route(
                method="GET",
                path="/tasks/queue",
                handler=self.queue,
                summary="how many tasks are queued, by model and priority",
                reply=rest.QUEUE.adapter,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.show,
                summary="a task, its attempts and labels",
                reply=rest.TASK_DETAILS.adapter,
                problems=NOT_KNOWN,
            ),
            Route(
                method="GET",
                path=f"{one}/picture",
                handler=self.picture,
                summary="the picture as it was sent",
                media=("image/jpeg", "image/png", "image/bmp", "image/webp"),
                problems={404: "no such task, or its picture was let go", 429: "too many pictures at once"},
            ),
            Route(
                method="GET",
                path=f"{one}/labels",
                handler=self.labels,
                summary="its labels, as a receiver gets them",
                query=LabelsQuery,
                reply=rest.LABELLED_PICTURE.adapter,
                media=("application/json", "text/plain"),
                problems=NOT_KNOWN | {409: "it has no labels"},
            ),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{verb}",
                    handler=self._told(command),
                    summary=summary,
                    reply=rest.TASK.adapter,
                    problems=NOT_KNOWN | {409: "its state does not allow it"},
                )
                for verb, command, summary in (
                    ("cancel", self._tasks.cancel, "end an open task without labels"),
                    ("retry", self._tasks.retry, "queue a failed task again, with all its tries"),
                    ("abandon", self._tasks.abandon, "give up delivering its labels; they stay readable here"),
                )
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        query = asked_of(request, TaskQuery)
        filter_ = TaskFilter(
            state=query.state,
            model=query.model,
            client_id=query.client_id,
            device_id=query.device_id,
            priority=query.priority,
        )
        return json_reply(rest.TASK_PAGE.dump(await self._tasks.list(filter_, limit=query.limit, cursor=query.cursor)))

    async def counts(self, request: web.Request) -> web.Response:
        counts = await self._tasks.counts()
        return json_reply(TASK_COUNTS.dump({state: counts.get(state, 0) for state in State}))

    async def queue(self, request: web.Request) -> web.Response:
        return json_reply(rest.QUEUE.dump(rest.queue_of(await self._tasks.stats())))

    async def show(self, request: web.Request) -> web.Response:
        return json_reply(rest.TASK_DETAILS.dump(await self._details(request)))

    async def picture(self, request: web.Request) -> web.StreamResponse:
        task_id = _task_id(request)
        etag = f'"{task_id}"'  # a task's picture never changes
        if request.headers.get("If-None-Match") == etag:
            await self._tasks.get(task_id)
            return web.Response(status=304, headers={"ETag": etag, "Cache-Control": IMMUTABLE})
        async with self._sender.turn():
            data = await self._tasks.picture(task_id)
            headers = {"ETag": etag, "Cache-Control": IMMUTABLE}
            return await self._sender.send(request, data, media=media_type(data), headers=headers)

    async def labels(self, request: web.Request) -> web.Response:
        """Raises: Conflict if it has none (yet)."""
        wanted = query_of(request, LabelsQuery).format
        details = await self._details(request)
        task, result = details.task, details.result
        if task.state not in LABELLED_STATES or result is None or task.attempt_id is None:
            why = f": {task.last_error}" if task.last_error else ""
            raise Conflict(f"task {task.task_id} is {task.state} and has no labels{why}")
        if wanted == "txt":
            return web.Response(text=text_lines(result.detections), content_type="text/plain", charset="utf-8")
        labelled = rest.LabelledPicture(
            task_id=task.task_id,
            attempt_id=task.attempt_id,
            model=task.model,
            file_name=task.file_name,
            detections=result.detections,
        )
        return json_reply(rest.LABELLED_PICTURE.dump(labelled))

    async def _details(self, request: web.Request) -> TaskDetails:
        return await self._tasks.get(_task_id(request))

    def _told(
        self, command: Callable[[TaskId], Awaitable[Task]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.Response:
            return json_reply(rest.TASK.dump(await command(_task_id(request))))

        return handler


def _task_id(request: web.Request) -> TaskId:
    """Raises: NotKnown if it cannot be one."""
    task_id = request.match_info["task_id"]
    if not (task_id.isascii() and task_id.isprintable()):
        raise NotKnown("a task id is plain ASCII; GET /tasks lists the newest")
    return TaskId(task_id)

"""/tasks: what the task manager knows, read through its port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from edgesched import rest
from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskFilter, TaskId
from edgesched.errors import InvalidInput
from edgesched.ports import TaskQueries
from gateway.routes import Route, json_reply, whole_number

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000

TASK_COUNTS: rest.Wire[Mapping[State, int]] = rest.Wire(Mapping[State, int])


class Tasks:
    def __init__(self, tasks: TaskQueries) -> None:
        self._tasks = tasks

    def routes(self) -> Sequence[Route]:
        listing = "?state=&model=&client_id=&limit=&cursor=: tasks, newest first"
        return (
            Route(method="GET", path="/tasks", handler=self.list, summary=listing),
            Route(method="GET", path="/tasks/counts", handler=self.counts, summary="how many tasks per state"),
            Route(method="GET", path="/tasks/{task_id}", handler=self.show, summary="a task, its attempts and labels"),
        )

    async def list(self, request: web.Request) -> web.Response:
        query = request.query
        filter_ = TaskFilter(state=_state(query), model=query.get("model"), client_id=query.get("client_id"))
        limit = whole_number(query, "limit", lowest=1, highest=LARGEST_PAGE)
        page = await self._tasks.list(filter_, limit=limit or DEFAULT_PAGE, cursor=whole_number(query, "cursor"))
        return json_reply(rest.TASK_PAGE.dump(page))

    async def show(self, request: web.Request) -> web.Response:
        details = await self._tasks.get(TaskId(request.match_info["task_id"]))
        return json_reply(rest.TASK_DETAILS.dump(details))

    async def counts(self, request: web.Request) -> web.Response:
        counts = await self._tasks.counts()
        return json_reply(TASK_COUNTS.dump({state: counts.get(state, 0) for state in State}))


def _state(query: Mapping[str, str]) -> State | None:
    text = query.get("state")
    try:
        return None if text is None else State(text)
    except ValueError:
        raise InvalidInput(f"there is no state {text!r}; use one of: {', '.join(State)}") from None

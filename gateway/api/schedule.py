"""/schedule: where work goes, and why. With a list of tasks it is placement; without one a dry run for people."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edgesched import rest
from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput, NoFeasibleDevice, PeerUnavailable
from edgesched.ports import Candidate, PlacementPlan, PlacementRequest, TaskQueries
from gateway.api.models import no_such_model
from gateway.local_placement import LocalPlacement
from gateway.routes import LARGEST_NUMBER, Route, check_names, json_reply, whole_number

TYPICAL_PICTURE_BYTES = 160_000
"""A dry run that names no size asks for such a picture."""

MAX_TASKS_PER_REQUEST = 10_000
ASK_TIMEOUT_S = 2.0

OF_ATTEMPT = ("elapsed_ms", "predicted_remaining_ms", "transfer_remaining_ms")
OF_SAMPLE = ("service_ms", "transfer_ms", "total_ms", "predicted_ms", "waited_ms", "decode_ms", "infer_ms")

ASSUMPTION = "as if nothing were in flight: only the task manager knows what is, and says so with each of its requests"


class DryRunQuery(BaseModel):
    """What a dry run may be told."""

    model_config = ConfigDict(frozen=True)

    strategy: str | None = None
    stargety: str | None = None  # the spelling of the system that people come from
    model: str | None = None
    size_bytes: Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] = TYPICAL_PICTURE_BYTES


class DryRunRequest(DryRunQuery):
    """The body of a POST. All of it may also stand in the query, which wins."""

    tasks: object = None  # present: this is no dry run


class DryRun(BaseModel):
    """Which device would get a picture, and why not another one."""

    model_config = ConfigDict(frozen=True)

    strategy: str
    model: str | None
    size_bytes: int
    device_id: DeviceId
    reason: str
    chosen: Candidate
    runner_up: Candidate | None
    excluded: Mapping[DeviceId, str]
    assumption: str = ASSUMPTION


DRY_RUN_REQUEST: rest.Wire[DryRunRequest] = rest.Wire(DryRunRequest)
DRY_RUN: rest.Wire[DryRun] = rest.Wire(DryRun)


class Schedule:
    def __init__(self, placement: LocalPlacement, tasks: TaskQueries) -> None:
        self._placement = placement
        self._tasks = tasks

    def routes(self) -> Sequence[Route]:
        ask = "?strategy=&model=&size_bytes=: dry run, says which device and why"
        place = "the same; with a list of tasks: place them"
        no_model = {404: "no device has such a model, nor has the catalogue; the detail names the nearest one"}
        return (
            Route(
                method="GET",
                path="/schedule",
                handler=self.ask,
                summary=ask,
                query=DryRunQuery,
                reply=DRY_RUN.adapter,
                problems=no_model,
            ),
            Route(
                method="POST",
                path="/schedule",
                handler=self.place,
                summary=place,
                query=DryRunQuery,
                body=TypeAdapter(PlacementRequest | DryRunRequest),
                reply=TypeAdapter(PlacementPlan | DryRun),
                problems=no_model,
            ),
        )

    async def ask(self, request: web.Request) -> web.Response:
        check_names(request.query, DryRunQuery)
        return await self._dry_run(request.query, DryRunRequest())

    async def place(self, request: web.Request) -> web.Response:
        check_names(request.query, DryRunQuery)
        body = await request.read()
        wanted = DRY_RUN_REQUEST.parse(body or b"{}")
        if wanted.tasks is None:
            return await self._dry_run(request.query, wanted)
        placement = rest.PLACEMENT_REQUEST.parse(body)
        _check(placement)
        strategy = _strategy(request.query) or placement.strategy or wanted.stargety
        plan = await self._placement.place(replace(placement, strategy=strategy))
        return json_reply(rest.PLACEMENT_PLAN.dump(plan))

    async def _dry_run(self, query: Mapping[str, str], body: DryRunRequest) -> web.Response:
        """Raises: NoFeasibleDevice with the devices' reasons, NotKnown if it is because nobody knows the model."""
        model = query.get("model") or body.model
        size_bytes = whole_number(query, "size_bytes")
        if size_bytes is None:
            size_bytes = body.size_bytes
        strategy = _strategy(query) or body.strategy or body.stargety
        decision = self._placement.dry_run(model=model, size_bytes=size_bytes, strategy=strategy)
        if decision.device_id is None or decision.chosen is None:
            await self._check_known(model)
            raise NoFeasibleDevice(decision.reason())
        reply = DryRun(
            strategy=decision.strategy,
            model=model,
            size_bytes=size_bytes,
            device_id=decision.device_id,
            reason=decision.reason(),
            chosen=decision.chosen,
            runner_up=decision.runner_up,
            excluded=decision.excluded,
        )
        return json_reply(DRY_RUN.dump(reply))

    async def _check_known(self, model: str | None) -> None:
        """Waiting mends no misspelt model. Without the catalogue nobody can tell. Raises: NotKnown."""
        if model is None:
            return
        with suppress(PeerUnavailable, TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                known = [facts.name for facts in await self._tasks.models()]
            if model not in known:
                raise no_such_model(model, known)


def _strategy(query: Mapping[str, str]) -> str | None:
    return query.get("strategy") or query.get("stargety")


def _check(request: PlacementRequest) -> None:
    """What the types do not say. Raises: InvalidInput."""
    if len(request.tasks) > MAX_TASKS_PER_REQUEST:
        raise InvalidInput(f"tasks: at most {MAX_TASKS_PER_REQUEST} in one request, got {len(request.tasks)}")
    sizes = {
        "tasks": [task.size_bytes for task in request.tasks],
        "in_flight": [attempt.size_bytes for attempt in request.in_flight],
        "finished": [sample.size_bytes for sample in request.finished],
    }
    for name, values in sizes.items():
        for i, size_bytes in enumerate(values):
            if not 0 <= size_bytes <= LARGEST_NUMBER:
                raise InvalidInput(f"{name}.{i}.size_bytes must be from 0 to {LARGEST_NUMBER}, got {size_bytes}")
    for i, attempt in enumerate(request.in_flight):
        if attempt.elapsed_ms < 0:
            raise InvalidInput(f"in_flight.{i}.elapsed_ms must be 0 or more, got {attempt.elapsed_ms}")
    durations = (("in_flight", request.in_flight, OF_ATTEMPT), ("finished", request.finished, OF_SAMPLE))
    for name, entries, fields in durations:
        for i, entry in enumerate(entries):
            for field in fields:
                ms = getattr(entry, field)
                if ms is not None and not math.isfinite(ms):
                    raise InvalidInput(f"{name}.{i}.{field} must be a finite number, got {ms}")

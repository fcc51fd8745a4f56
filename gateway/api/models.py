"""/models: what can be asked for, and which devices can do it now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiohttp import web

from edgesched import rest
from edgesched.domain.device import DeviceState
from edgesched.domain.task import ModelFacts
from edgesched.errors import NotKnown, nearest
from edgesched.ports import TaskQueries
from gateway.registry import Registry
from gateway.routes import Route, json_reply


class Models:
    def __init__(self, tasks: TaskQueries, registry: Registry) -> None:
        self._tasks = tasks
        self._registry = registry

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="GET",
                path="/models",
                handler=self.list,
                summary="every model, and the ready devices that can run it",
                reply=rest.MODEL_LIST.adapter,
            ),
            Route(
                method="GET",
                path="/models/{name}",
                handler=self.show,
                summary="one model",
                reply=rest.MODEL_ENTRY.adapter,
                problems={404: "no such model; the detail names the nearest one"},
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        entries = tuple(self._entry(model) for model in await self._tasks.models())
        return json_reply(rest.MODEL_LIST.dump(rest.ModelList(models=entries)))

    async def show(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        models = {model.name: model for model in await self._tasks.models()}
        if name not in models:
            raise no_such_model(name, models)
        return json_reply(rest.MODEL_ENTRY.dump(self._entry(models[name])))

    def _entry(self, model: ModelFacts) -> rest.ModelEntry:
        devices = [
            device.device_id
            for device in self._registry.snapshot().devices
            if model.name in device.models and device.state is DeviceState.READY
        ]
        return rest.ModelEntry(model=model, devices=tuple(sorted(devices)))


def no_such_model(name: str, known: Iterable[str]) -> NotKnown:
    return NotKnown(f"there is no model {name!r}{nearest(name, known)}; GET /models lists those there are")

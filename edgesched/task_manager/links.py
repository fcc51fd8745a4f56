"""One link per device that has, or had, something to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgesched.domain.device import DeviceId
from edgesched.images.base import ImageStore
from edgesched.ledger.base import Ownership
from edgesched.ports import DeviceRoute
from edgesched.task_manager.attempts import OpenAttempts
from edgesched.task_manager.device_link import DeviceLink, LinkListener

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    link: DeviceLink
    task: asyncio.Task[None]


class Links:
    """Follows the fleet's routes: a stream is opened for a dispatch, for an open attempt, and for a full outbox."""

    def __init__(
        self,
        attempts: OpenAttempts,
        images: ImageStore,
        *,
        ownership: Callable[[], Ownership],
        attempt_timeout_ms: int,
    ) -> None:
        self._attempts = attempts
        self._images = images
        self._ownership = ownership
        self._attempt_timeout_ms = attempt_timeout_ms
        self._stream_numbers = itertools.count(1)
        self._seen: Sequence[DeviceRoute] = ()
        self._routes: Mapping[DeviceId, DeviceRoute] = {}
        self._running: dict[DeviceId, _Running] = {}

    def follow(self, routes: Sequence[DeviceRoute], listener: LinkListener, tasks: asyncio.TaskGroup) -> None:
        """Take over the newest routes and start what they make necessary."""
        if routes is not self._seen:  # a gateway in this process hands out the same ones until something changed
            self._seen, self._routes = routes, {route.device_id: route for route in routes}
        for device_id in self._running.keys() - self._routes.keys():
            if not self._attempts.is_busy(device_id):
                self._running.pop(device_id).task.cancel()
        for route in routes:
            if route.outbox_count or self._attempts.is_busy(route.device_id):
                self._link(route, listener, tasks).want()

    def open_to(self, device_id: DeviceId, listener: LinkListener, tasks: asyncio.TaskGroup) -> DeviceLink | None:
        """The link to a device; None if the fleet does not know it any more."""
        route = self._routes.get(device_id)
        return self._link(route, listener, tasks) if route else None

    def get(self, device_id: DeviceId) -> DeviceLink | None:
        running = self._running.get(device_id)
        return running.link if running else None

    def is_open(self, device_id: DeviceId) -> bool:
        link = self.get(device_id)
        return link is not None and link.is_open

    def suspects(self) -> frozenset[DeviceId]:
        return frozenset(device_id for device_id, r in self._running.items() if r.link.is_suspect)

    def _link(self, route: DeviceRoute, listener: LinkListener, tasks: asyncio.TaskGroup) -> DeviceLink:
        running = self._running.get(route.device_id)
        if running is not None and running.link.address == route.address:
            return running.link
        link = DeviceLink(
            route.device_id,
            route.address,
            ownership=self._ownership,
            stream_numbers=self._stream_numbers,
            images=self._images,
            listener=listener,
            attempt_timeout_ms=self._attempt_timeout_ms,
        )
        if running is not None:  # the board came back under another address
            running.task.cancel()
            for attempt in self._attempts.of_device(route.device_id):
                if running.link.is_waiting(attempt):
                    link.dispatch(attempt)
        task = tasks.create_task(link.run(self._is_needed(route.device_id)), name=f"link {route.device_id}")
        self._running[route.device_id] = _Running(link, task)
        return link

    def _is_needed(self, device_id: DeviceId) -> Callable[[], bool]:
        def needed() -> bool:
            route = self._routes.get(device_id)
            return self._attempts.is_busy(device_id) or (route is not None and route.outbox_count > 0)

        return needed

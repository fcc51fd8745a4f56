"""Tell the gateway that this board exists, and how it fares."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
from yarl import URL

from agents.http import Reply, call, sentence_of
from agents.link import LinkMeter
from edgesched.errors import InvalidInput, PeerUnavailable, StartupError
from edgesched.rest import (
    API_PREFIX,
    DEVICE_REGISTRATION,
    HEARTBEAT,
    HEARTBEAT_REPLY,
    REGISTRATION_REPLY,
    CommandToDo,
    DeviceRegistration,
    Heartbeat,
)

CALL_TIMEOUT_S = 10.0
"""The gateway dials this agent before it answers a registration."""

HEARTBEAT_TIMEOUT_S = 2.0
"""It takes the gateway no time to answer one. Whoever waits for long on a connection that has died is silent himself in
the gateway's eyes, while a new connection would work."""

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
REFUSED_PAUSE_S = 3.0
LEAVE_TIMEOUT_S = 1.0
MIN_HEARTBEAT_S = 0.1
"""Between two heartbeats, however often the board's health changes."""

ADDRESS = re.compile(r"(\[[^\[\]\s]+\]|[^:\[\]\s]+):(?P<port>[0-9]{1,5})")

log = logging.getLogger(__name__)


class Registration:
    """Registers, then reports each interval; registers again when the gateway has forgotten the device."""

    def __init__(
        self,
        gateway_url: str,
        session: aiohttp.ClientSession,
        device: DeviceRegistration,
        report: Callable[[], Awaitable[Heartbeat]],
        *,
        meter: LinkMeter,
        half_trip_s: float = 0.0,
        refused_pause_s: float = REFUSED_PAUSE_S,
        on_commands: Callable[[Sequence[CommandToDo]], None] = lambda _: None,
    ) -> None:
        """report: makes the next heartbeat. half_trip_s: added to each way of an emulated link.

        on_commands: given those that came with a heartbeat's answer.
        """
        self._devices_url = f"{gateway_url}{API_PREFIX}/devices"
        self._session = session
        self._device = device
        self._told: DeviceRegistration | None = None  # what the gateway knows
        self._report = report
        self._meter = meter
        self._half_trip_s = half_trip_s
        self._refused_pause_s = refused_pause_s
        self._on_commands = on_commands
        self._interval_s: float | None = None
        self.registered = asyncio.Event()
        """Set while the gateway knows this device, as far as this side can tell."""
        self.hurry = asyncio.Event()
        """Set it to have the next heartbeat sent soon."""

    async def run(self) -> None:
        """Until cancelled. It may be run again afterwards, and goes on where it was.

        Raises: StartupError if the gateway refuses this device for good.
        """
        while True:
            if not self._is_known():
                await self._register()
            await self._heartbeats()

    def offer(self, models: frozenset[str]) -> None:
        """Have the gateway know, soon, that the board runs these models."""
        if models != self._device.models:
            self._device = self._device.model_copy(update={"models": models})
            self.hurry.set()

    async def leave(self) -> None:
        """Tell the gateway goodbye, if it is there to hear it."""
        if not self.registered.is_set():
            return
        try:
            url = f"{self._url}?boot_id={self._device.boot_id}"
            await call(self._session, "DELETE", url, timeout_s=LEAVE_TIMEOUT_S)
        except PeerUnavailable as error:
            log.warning("device.leave_unheard", extra={"reason": str(error)})

    @property
    def _url(self) -> str:
        return f"{self._devices_url}/{self._device.device_id}"

    def _is_known(self) -> bool:
        """Whether the gateway knows this device as it is now, as far as this side can tell."""
        return self.registered.is_set() and self._told is self._device

    async def _register(self) -> None:
        failures = 0
        while True:
            device = self._device
            body = DEVICE_REGISTRATION.dump(device)
            try:
                answer = await call(self._session, "POST", self._devices_url, body, timeout_s=CALL_TIMEOUT_S)
                if answer.status >= 500:
                    raise PeerUnavailable(f"it answered {answer.status}: {sentence_of(answer.body)}")
                if self._is_registered(answer):
                    self._told = device
                    return
                pause_s = self._refused_pause_s
            except InvalidInput as error:
                raise StartupError(f"--master-url: {error}") from error
            except PeerUnavailable as error:
                failures += 1
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
                if failures == 1:
                    log.warning("gateway.awaited", extra={"url": self._devices_url, "reason": str(error)})
            await asyncio.sleep(pause_s)

    def _is_registered(self, answer: Reply) -> bool:
        """Read the gateway's answer to a registration. Raises: StartupError if asking again would be no use."""
        if answer.status >= 300:
            sentence = sentence_of(answer.body)
            if answer.status in (400, 409):
                raise StartupError(f"the gateway refuses device {self._device.device_id}: {sentence}")
            log.error("device.refused", extra={"status": answer.status, "reason": sentence})
            return False
        try:
            accepted = REGISTRATION_REPLY.parse(answer.body)
        except InvalidInput as error:
            log.error("device.refused", extra={"url": self._devices_url, "reason": f"this is no gateway: {error}"})
            return False
        self._interval_s = accepted.heartbeat_interval_ms / 1000.0
        self.registered.set()
        log.info("device.registered", extra={"device_id": self._device.device_id, "address": accepted.address})
        return True

    async def _heartbeats(self) -> None:
        """Until the gateway no longer knows the device as it is."""
        failures = 0
        while self._is_known():
            self.hurry.clear()
            beat = HEARTBEAT.dump(await self._report())
            try:
                answer = await self._timed_post(f"{self._url}/heartbeat", beat)
                if answer.status == 404:
                    log.warning("device.forgotten", extra={"device_id": self._device.device_id})
                    self.registered.clear()
                    return
                if answer.status >= 300:
                    raise PeerUnavailable(f"it answered {answer.status}: {sentence_of(answer.body)}")
                reply = HEARTBEAT_REPLY.parse(answer.body)
                self._interval_s = reply.heartbeat_interval_ms / 1000.0
                self._on_commands(reply.commands)
                if failures:
                    log.info("gateway.back", extra={"failures": failures})
                failures = 0
            except (PeerUnavailable, InvalidInput) as error:
                failures += 1
                if failures == 1:
                    log.warning("heartbeat.unheard", extra={"reason": str(error)})
            await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        """Until the next heartbeat is due; what was not heard is said again sooner."""
        interval_s = self._interval_s or LONGEST_PAUSE_S
        if failures:
            interval_s = min(interval_s, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
        await asyncio.sleep(min(MIN_HEARTBEAT_S, interval_s))
        try:
            async with asyncio.timeout(interval_s - MIN_HEARTBEAT_S):
                await self.hurry.wait()
        except TimeoutError:
            return

    async def _timed_post(self, url: str, body: bytes) -> Reply:
        """A POST whose time counts as a round trip: request and answer are small, and nobody computes in between."""
        sent_at = time.perf_counter()
        await asyncio.sleep(self._half_trip_s)
        answer = await call(self._session, "POST", url, body, timeout_s=HEARTBEAT_TIMEOUT_S)
        await asyncio.sleep(self._half_trip_s)
        self._meter.round_trip((time.perf_counter() - sent_at) * 1000.0)
        return answer


def check_gateway_url(url: str) -> None:
    """Raises: StartupError if nothing can ever be called there."""
    try:
        parsed = URL(url)
        is_usable = parsed.scheme in ("http", "https") and bool(parsed.host) and bool(parsed.port)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise StartupError(
            f"{url!r} is no URL of a gateway: give --master-url http://HOST:PORT, or --master-ip and --master-port"
        )


def check_advertised(address: str) -> None:
    """Raises: StartupError if the task manager could never dial it."""
    match = ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise StartupError(f"--advertise {address!r} is no address: give HOST:PORT or [IPv6]:PORT")

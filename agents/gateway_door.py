"""Calls to the gateway in the name of this start of this board."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp

from agents.http import Reply, call, sentence_of
from edgesched.errors import PeerUnavailable
from edgesched.rest import API_PREFIX

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0


class GatewayDoor:
    """For whatever is said besides registration and heartbeats. Nothing is said while the gateway does not know us."""

    def __init__(
        self, gateway_url: str, session: aiohttp.ClientSession, *, device_id: str, boot_id: str, known: asyncio.Event
    ) -> None:
        """known: set while the gateway knows this device."""
        self.boot_id = boot_id
        self._url = f"{gateway_url}{API_PREFIX}/devices/{device_id}"
        self._session = session
        self._known = known

    async def call(self, method: str, path: str, body: bytes | None = None, *, timeout_s: float) -> Reply:
        """An answer that is no refusal for now. path: below the device's own.

        Raises: PeerUnavailable if there is none, or if the gateway cannot do it now; InvalidInput (the URL).
        """
        await self._known.wait()
        answer = await call(self._session, method, self._url + path, body, timeout_s=timeout_s)
        if answer.status >= 500 or answer.status in (408, 429):
            raise PeerUnavailable(f"it answered {answer.status}: {sentence_of(answer.body)}")
        return answer


async def again_and_again(step: Callable[[], Awaitable[None]]) -> None:
    """Do it for ever; after a PeerUnavailable with a pause that grows."""
    failures = 0
    while True:
        try:
            await step()
            failures = 0
        except PeerUnavailable:  # said once by the heartbeats
            failures += 1
            await asyncio.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10)))

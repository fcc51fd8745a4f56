"""Placement asked over HTTP: the gateway is another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.ports import PlacementPlan, PlacementRequest
from edgesched.rest import API_PREFIX, PLACEMENT_PLAN, PLACEMENT_REQUEST, PROBLEM

TIMEOUT_S = 3.0
LOOK_AGAIN_S = 0.5  # the gateway does not call back; a device that joins is seen within this time


class RemotePlacement:
    """Implements `ports.Placement`."""

    def __init__(self, session: aiohttp.ClientSession, gateway_url: str) -> None:
        self._session = session
        self._url = f"{gateway_url.rstrip('/')}{API_PREFIX}/schedule"

    @classmethod
    @asynccontextmanager
    async def opened(cls, gateway_url: str) -> AsyncIterator[RemotePlacement]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield cls(session, gateway_url)

    async def place(self, request: PlacementRequest) -> PlacementPlan:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=PLACEMENT_REQUEST.dump(request), headers=headers) as response:
                body = await response.read()
                if response.status == 200:
                    plan = PLACEMENT_PLAN.parse(body)
                    if len(plan.decisions) != len(request.tasks):
                        raise PeerUnavailable(
                            f"{self._url} decided {len(plan.decisions)} of {len(request.tasks)} tasks"
                        )
                    return plan
                detail = PROBLEM.parse(body).detail
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PeerUnavailable(f"the gateway at {self._url} cannot be reached: {str(error) or 'timeout'}") from error
        except InvalidInput as error:
            raise PeerUnavailable(f"the answer of {self._url} is not usable: {error}") from error
        if response.status == 400:
            raise InvalidInput(detail)
        raise PeerUnavailable(f"the gateway answered {response.status}: {detail}")

    async def wait_for_change(self) -> None:
        await asyncio.sleep(LOOK_AGAIN_S)

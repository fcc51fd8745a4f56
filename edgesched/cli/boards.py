"""Asks boards what their outboxes hold, for the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from edgesched import wire
from edgesched.cli.gateway_call import call
from edgesched.domain.device import DeviceId
from edgesched.domain.outbox import HeldOutcome, Inventory
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.rest import DEVICE_LIST
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc

BOARD_TIMEOUT_S = 30.0
"""A full outbox has some hundred megabytes of labels, and the board reads all of them to tell their digests."""
BOARDS_AT_ONCE = 16


@dataclass(slots=True)
class Asked:
    """away: of whom nothing could be learnt, by name or address, and why."""

    inventories: list[Inventory] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)


def ask_boards(gateway_url: str | None, addresses: Sequence[str]) -> Asked:
    """gateway_url: ask every board that it knows. addresses: HOST:PORT of agents to ask besides."""
    asked = Asked()
    targets: dict[str, DeviceId | None] = dict.fromkeys(addresses)
    if gateway_url is not None:
        try:
            entries = DEVICE_LIST.parse(call(gateway_url, "GET", "/devices")).devices
            targets |= {entry.device.address: entry.device.device_id for entry in entries}
        except (PeerUnavailable, InvalidInput) as error:
            asked.away["the gateway's boards"] = str(error)
    asyncio.run(_ask_all(targets, asked))
    return asked


async def _ask_all(targets: dict[str, DeviceId | None], asked: Asked) -> None:
    at_once = asyncio.Semaphore(BOARDS_AT_ONCE)

    async def ask_one(address: str, expected: DeviceId | None) -> None:
        try:
            async with at_once:
                inventory = await _inventory(address)
            if expected is not None and inventory.device_id != expected:
                raise PeerUnavailable(f"board {inventory.device_id} answers at its address {address}")
            if inventory.device_id not in {known.device_id for known in asked.inventories}:  # under two addresses
                asked.inventories.append(inventory)
        except PeerUnavailable as error:
            asked.away[expected or address] = str(error)

    async with asyncio.TaskGroup() as asking:
        for address, expected in targets.items():
            asking.create_task(ask_one(address, expected))


async def _inventory(address: str) -> Inventory:
    """Raises: PeerUnavailable."""
    device_id: DeviceId | None = None
    outcomes: list[HeldOutcome] = []
    try:
        async with (
            asyncio.timeout(BOARD_TIMEOUT_S),
            grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel,
        ):
            async for page in agent_pb2_grpc.AgentStub(channel).Inventory(pb.InventoryRequest()):
                device_id = DeviceId(page.device_id)
                outcomes += map(wire.held_outcome, page.entries)
    except TimeoutError:
        raise PeerUnavailable(f"no whole answer from {address} within {BOARD_TIMEOUT_S:g} s") from None
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise PeerUnavailable(f"the agent at {address} is of an earlier release, or none") from error
        raise PeerUnavailable(f"no agent answers at {address} ({error.details()})") from error
    if device_id is None:
        raise PeerUnavailable(f"{address} told nothing")
    return Inventory(device_id=device_id, outcomes=outcomes)

"""PerformRpc: the server calls a participant, which answers, or does not (protocol reference, section 8.3)."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import models

from tests.api.caller import Refused, caller
from tests.rooms.test_lifetimes import connect, join
from tests.rooms.test_lifetimes import running as rooms_running
from tests.signalling.world import DualClient, World, dual, running
from triosfu.rooms.server_calls import MAX_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

Reason, RELIABLE = models.DisconnectReason, models.DataPacket.RELIABLE
CALL = {"room": "room", "destination_identity": "alice", "method": "add", "payload": "1+1"}


async def failure(world: Any, **fields: Any) -> tuple[str, str]:  # noqa: ANN401  whatever has rooms; a request's
    with pytest.raises(Refused) as refused:
        await caller(world).json("PerformRpc", **{**CALL, **fields})
    return refused.value.code, refused.value.text


@asynccontextmanager
async def called(world: World, alice: DualClient) -> AsyncIterator[tuple[models.DataPacket, Callable[[], Any]]]:
    """Alice is called; the block answers, and the caller's answer can be had after it."""
    outcome: list[Any] = []

    async def perform() -> None:
        try:
            outcome.append(await caller(world.rooms).json("PerformRpc", **CALL))
        except Refused as refused:
            outcome.append((refused.code, refused.text))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(perform)
        await alice.subscriber.until(lambda side: bool(side.messages))
        yield alice.subscriber.packets()[0], lambda: outcome[0]


def answer(request: models.DataPacket, **response: Any) -> models.DataPacket:  # noqa: ANN401  protobuf fields
    said = models.RpcResponse(request_id=request.rpc_request.id, **response)
    return models.DataPacket(rpc_response=said, destination_identities=[request.participant_identity])


async def test_a_participant_is_called_and_answers() -> None:
    async with running() as world, dual(world, "alice") as alice, dual(world, "bob") as bob:
        await alice.open_data()
        await bob.open_data()
        async with called(world, alice) as (request, outcome):
            assert (request.rpc_request.method, request.rpc_request.payload) == ("add", "1+1")
            assert (request.rpc_request.version, request.rpc_request.response_timeout_ms) == (1, 10_000)
            assert uuid.UUID(request.participant_identity)
            ack = models.RpcAck(request_id=request.rpc_request.id)
            for packet in (answer(request, payload="3"), models.DataPacket(user=models.UserPacket(payload=b"there"))):
                bob.publisher.channels["_reliable"].send_nowait(packet.SerializeToString())
            await alice.subscriber.until(lambda side: len(side.messages) == 2)  # who was not asked answers in vain
            for packet in (models.DataPacket(rpc_ack=ack), answer(request, payload="2")):
                alice.publisher.channels["_reliable"].send_nowait(packet.SerializeToString())
        assert outcome() == {"payload": "2"}
        assert bob.subscriber.messages == []  # neither the call nor its answer
        assert len(world.room().data.calls) == 0


ERRORS = [
    (1400, "Method not supported at destination", "invalid_argument"),
    (1404, "Unsupported RPC version", "unimplemented"),
    (1500, "Application error in method handler", "internal"),
    (1504, "Response payload too large", "internal"),
    (77, "mine", "internal"),
]


@pytest.mark.parametrize(("number", "text", "code"), ERRORS)
async def test_an_error_is_passed_on(number: int, text: str, code: str) -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.open_data()
        async with called(world, alice) as (request, outcome):
            packet = answer(request, error=models.RpcError(code=number, message=text))
            alice.publisher.channels["_reliable"].send_nowait(packet.SerializeToString())
        assert outcome() == (code, f"RpcError {number}: {text}")


async def test_who_leaves_does_not_answer() -> None:
    async with running() as world, dual(world, "alice") as alice:
        await alice.open_data()
        async with called(world, alice) as (_, outcome):
            world.participant("alice").close(Reason.CLIENT_INITIATED)
        assert outcome() == ("unavailable", "RpcError 1503: Recipient disconnected")


async def test_who_says_nothing_is_waited_for_two_seconds_and_who_does_not_answer_as_asked(
    autojump_clock: MockClock,
) -> None:
    async with rooms_running() as rooms:
        alice, _ = await join(rooms, "alice")
        connect(alice)
        started = trio.current_time()
        assert await failure(rooms) == ("canceled", "RpcError 1501: Connection timeout")
        assert trio.current_time() - started == 2

        async def acknowledge() -> None:
            await trio.sleep(1)
            (number,) = alice.room.data.calls._waiting
            alice.room.data.publish(alice, models.DataPacket(rpc_ack=models.RpcAck(request_id=number)), RELIABLE)

        for asked, waited in ((0, 10), (5000, 5), (4_000_000_000, 60)):
            async with trio.open_nursery() as nursery:
                started = trio.current_time()
                nursery.start_soon(acknowledge)
                late = await failure(rooms, response_timeout_ms=asked)
                assert late == ("canceled", "RpcError 1502: Response timeout")
                assert trio.current_time() - started == waited + 1
        assert len(alice.room.data.calls) == 0


async def test_a_cancelled_call_leaves_nothing_that_waits(autojump_clock: MockClock) -> None:
    async with rooms_running() as rooms:
        alice, _ = await join(rooms, "alice")
        with trio.move_on_after(1) as scope:
            await caller(rooms).json("PerformRpc", **CALL)
        assert scope.cancelled_caught
        assert len(alice.room.data.calls) == 0


async def test_what_cannot_be_called() -> None:
    async with rooms_running() as rooms:
        assert await failure(rooms) == ("not_found", "requested room does not exist")
        await join(rooms, "bob")
        assert await failure(rooms) == ("not_found", "RpcError 1401: Recipient not found")
        nobody = ("invalid_argument", "destination identity is required")
        assert await failure(rooms, destination_identity="") == nobody
        too_large = ("malformed", "RpcError 1402: Request payload too large")
        assert await failure(rooms, payload="x" * (MAX_PAYLOAD + 1)) == too_large

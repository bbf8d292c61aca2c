"""What a participant leaves behind when it is gone: nothing, not even an object that only the collector would find."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import models

import triosfu
from tests.support.client import join
from tests.support.side import LIMIT, tables
from triosfu.config import load_config

if TYPE_CHECKING:
    from triosfu.server import Server

CONFIG = load_config(development=True, overrides={"port": 0, "rtc": {"udp_port": 0}})
GUESTS = 4


def parts(server: Server, identity: str) -> dict[str, weakref.ref[Any]]:
    """What one participant is made of, without holding it."""
    (room,) = server.rooms
    one = room.participants[identity]
    found: dict[str, Any] = {"participant": one}
    for peer in one.shape.peers:
        found |= {
            f"{peer.name} peer": peer,
            f"{peer.name} transport": peer._transport,
            f"{peer.name} association": peer._data,
            f"{peer.name} ingress": peer.ingress,
            f"{peer.name} negotiation": peer.negotiation,
        }
    for publication in one.publications:
        found[f"{publication.sid}"] = publication
        found |= {f"{publication.sid} {mime}": receiver for mime, receiver in publication.receivers.items()}
    for subscription in one.subscriptions:
        found[f"wish for {subscription.track_sid}"] = subscription
    return {f"{identity}'s {name}": weakref.ref(part) for name, part in found.items()}


@pytest.mark.parametrize("single", [False, True])
async def test_a_participant_that_left_is_referenced_by_nothing(single: bool) -> None:
    async with triosfu.serve(CONFIG) as server, join(server, "stays") as stays:
        await stays.ready()
        (room,) = server.rooms
        before = tables(server.mux)
        left: dict[str, weakref.ref[Any]] = {}
        for number in range(GUESTS):
            identity = f"guest {number}"
            async with join(server, identity, single=single) as guest:
                await guest.ready()
                await guest.say(b"hello", to=stays)
                await guest.play(str(number).encode(), to=stays)
                left |= parts(server, identity)
            with trio.fail_after(LIMIT):
                while identity in room.participants:
                    await trio.lowlevel.checkpoint()
        stay = room.participants["stays"]
        with trio.fail_after(LIMIT):
            while len(stay.subscriptions):
                await trio.lowlevel.checkpoint()
        assert tables(server.mux) == before
        assert not len(stay.subscriptions)
        assert list(stay.known_versions) == []
        assert stay.shape.subscriber.sender.tracks == []
        assert all(not receiver.subscribers for one in stay.publications for receiver in one.receivers.values())
        assert all(not one.subscriptions for one in stay.publications)
        del guest
        for _ in range(3):
            await trio.sleep(0.05)
            gc.collect()
        assert [name for name, part in left.items() if part() is not None] == []


async def test_a_closed_room_is_referenced_by_nothing() -> None:
    async with triosfu.serve(CONFIG) as server:
        async with join(server, "alice") as alice, join(server, "bob", single=True) as bob:
            await alice.ready()
            await bob.ready()
            left = parts(server, "alice") | parts(server, "bob")
            (room,) = server.rooms
            left["room"] = weakref.ref(room)
            room.close(models.DisconnectReason.ROOM_DELETED)
            del room
            await server.rooms.wait_empty()
        for _ in range(3):
            await trio.sleep(0.05)
            gc.collect()
        assert not any(tables(server.mux).values())
        assert [name for name, part in left.items() if part() is not None] == []


async def test_sessions_that_were_replaced_are_referenced_by_nothing() -> None:
    async with triosfu.serve(CONFIG) as server, join(server, "stays") as stays:
        await stays.ready()
        (room,) = server.rooms
        left: dict[str, weakref.ref[Any]] = {}
        for number in range(GUESTS):
            async with join(server, "twin", single=number % 2 == 0) as twin:
                await twin.ready()
                left |= {f"{number} {name}": part for name, part in parts(server, "twin").items()}
                async with join(server, "twin") as successor:
                    await twin.until(lambda twin=twin: twin.gone)  # type: ignore[misc]
                    await successor.ready()
        with trio.fail_after(LIMIT):
            while "twin" in room.participants:
                await trio.lowlevel.checkpoint()
        del twin, successor
        for _ in range(3):
            await trio.sleep(0.05)
            gc.collect()
        assert [name for name, part in left.items() if part() is not None] == []
        assert list(room.participants) == ["stays"]
        assert not room.announcer._paced.keys() - {room.participants["stays"].sid}
        assert tables(server.mux)["routes"] == 2

"""WHIP and WHEP sessions with their transports: media, tracks that come and go, ICE restarts, and their ends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from livekit.protocol import models

from tests.support.client import join
from tests.support.steps import back_to, eventually, held, running, settled, virtual_clock
from tests.support.whip import whip
from triosfu.peer import PeerState
from triosfu.rooms.liveness import RESUME
from triosfu.rooms.transfer import move_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from triosfu.rooms.participant import Participant
    from triosfu.server import Server

TEXT = b"a frame of sound"


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A server that holds in the end what it held at the beginning: nothing for any session."""
    async with running() as run:
        server = await run.up()
        before = await settled(lambda: held(run))
        yield server
        for room in server.rooms:
            room.close(models.DisconnectReason.ROOM_CLOSED)
        await back_to(before, lambda: held(run))
        assert not server.rooms.counters["bugs"]


def participant(server: Server, identity: str) -> Participant | None:
    return next((room.participants[identity] for room in server.rooms if identity in room.participants), None)


async def gone(server: Server, identity: str, *, within: float = 1.0) -> None:
    await eventually(lambda: participant(server, identity) is None, within=within)


async def test_what_is_published_is_heard_and_whoever_watches_hears_it_too(clock: MockClock) -> None:
    async with (
        serving() as server,
        join(server, "bob") as bob,
        whip(server, "alice") as alice,
        whip(server, "viewer", watches=True) as viewer,
    ):
        for client in (bob, alice, viewer):
            await client.ready()
        await alice.play(TEXT, to=bob)
        await alice.play(b"for who watches", to=viewer)
        await alice.say(b"data", to=bob)
        told = bob.told("alice")
        assert told is not None
        assert [track.name for track in told.tracks] == ["synthesized-microphone"]
        for client in (alice, viewer):
            assert (await client.ask("DELETE")).status == 200
            assert (await client.ask("DELETE")).status == 404
            await client.closed()  # it is told by DTLS
            await gone(server, client.identity)


async def test_tracks_come_and_go_where_a_viewer_watches_as_one_stream(clock: MockClock) -> None:
    async with serving() as server, whip(server, "viewer", watches=True) as viewer, join(server, "dave") as dave:
        await viewer.ready()
        await dave.ready()
        for identity in ("alice", "bob", "carol"):
            async with whip(server, identity) as publisher:
                await publisher.ready()
                # Dave has come first, and has the only place while he is heard; then these three, one by one.
                if identity == "alice":
                    await dave.play(b"dave", to=viewer)
                    await dave.leave()
                await publisher.play(identity.encode(), to=viewer)
                assert (await publisher.ask("DELETE")).status == 200
            await gone(server, identity)
        await trio.sleep(60)
        assert participant(server, "viewer") is not None, "nobody waits for an offer of a client that makes one only"
        payloads = list(dict.fromkeys(packet.payload for packet in viewer.received))
        assert payloads == [b"dave", b"alice", b"bob", b"carol"]
        assert len({packet.ssrc for packet in viewer.received}) == 1
        sequences = [packet.sequence for packet in viewer.received]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences))), "no gap where publishers change"
        stamps = [packet.timestamp for packet in viewer.received]
        assert stamps == sorted(set(stamps))


async def test_what_a_viewer_gets_is_counted_once_whoever_it_comes_from(clock: MockClock) -> None:
    async with serving() as server, whip(server, "viewer", watches=True) as viewer:
        await viewer.ready()
        for identity in ("alice", "bob", "carol"):
            async with whip(server, identity) as publisher:
                await publisher.ready()
                await publisher.play(identity.encode(), to=viewer)
                assert (await publisher.ask("DELETE")).status == 200
            await gone(server, identity)
        counted = server.rooms.services.tally.totals(server.rooms)
        sent = sum(counts.packets for flow, counts in counted.items() if flow.direction == "outgoing")
        assert sent == len(viewer.received)


async def test_publishers_and_viewers_are_moved_and_notice_nothing(clock: MockClock) -> None:
    async with (
        serving() as server,
        join(server, "bob", room="other") as bob,
        whip(server, "alice") as alice,
        whip(server, "viewer", watches=True, query="participant=alice") as viewer,
    ):
        for client in (bob, alice, viewer):
            await client.ready()
        await alice.play(b"in the first room", to=viewer)
        found = participant(server, "alice")
        assert found is not None
        await move_to(server.rooms, found, "other", create=False)
        await alice.play(TEXT, to=bob)
        assert TEXT not in viewer.sounds
        found = participant(server, "viewer")
        assert found is not None
        await move_to(server.rooms, found, "other", create=False)
        await alice.play(b"in the other room", to=viewer)
        assert len({packet.ssrc for packet in viewer.received}) == 1, "one stream, wherever it comes from"
        assert (await alice.restart()).status == 200
        await alice.play(b"after a restart", to=viewer)
        for client in (alice, viewer):
            assert (await client.ask("DELETE")).status == 200
            assert (await client.ask("DELETE")).status == 404
            await gone(server, client.identity)


async def test_a_viewer_of_one_participant_gets_nobody_else(clock: MockClock) -> None:
    async with serving() as server, whip(server, "bob") as bob, whip(server, "alice") as alice:
        await bob.ready()
        await alice.ready()
        for selector in ("participant=alice", f"track={_sid(server, 'alice')}", "track=nothing"):
            async with whip(server, "viewer", watches=True, query=selector) as viewer:
                await viewer.ready()
                found = participant(server, "viewer")
                assert found is not None
                await eventually(lambda found=found: all(one.down for one in found.subscriptions))  # type: ignore[misc]
                heard = [one.publication.publisher.identity for one in found.subscriptions if one.publication]
                assert heard == ([] if "nothing" in selector else ["alice"])
            await gone(server, "viewer", within=20)


def _sid(server: Server, identity: str) -> str:
    found = participant(server, identity)
    assert found is not None
    return next(iter(found.publications)).sid


@pytest.mark.parametrize("watches", [False, True])
async def test_a_client_that_vanishes_is_gone_within_twenty_seconds(clock: MockClock, *, watches: bool) -> None:
    async with serving() as server, whip(server, "alice", watches=watches) as alice:
        await alice.ready()
        alice.publisher.peer._scope.cancel()  # its task ends, and close() would tell: so first take its voice
        alice.publisher.mux.remove(alice.publisher.peer._transport)
        at = trio.current_time()
        await gone(server, "alice", within=20)
        assert trio.current_time() - at > 1, "nobody has told"


async def test_a_client_that_says_goodbye_by_dtls_only_is_gone_sooner(clock: MockClock) -> None:
    async with serving() as server:
        async with whip(server, "alice") as alice:
            await alice.ready()
        await gone(server, "alice", within=6)


async def test_ice_restarts_under_media(clock: MockClock) -> None:
    async with serving() as server, join(server, "bob") as bob, whip(server, "alice") as alice:
        await bob.ready()
        await alice.ready()
        await alice.play(b"before", to=bob)
        restarted = await alice.restart()
        assert restarted.status == 200
        await alice.play(b"after", to=bob)
        await trio.sleep(30)  # longer than any deadline that a restart may have armed
        assert participant(server, "alice") is not None
        await alice.play(b"and long after", to=bob)
        assert (await alice.trickle("candidate:1 1 udp 1 192.0.2.1 9 typ host")).status == 412, "of the old one"


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_session_that_is_about_to_be_given_up_comes_back(clock: MockClock, *, restarts: bool) -> None:
    async with serving() as server, join(server, "bob") as bob, whip(server, "alice") as alice:
        await bob.ready()
        await alice.ready()
        found = participant(server, "alice")
        assert found is not None
        peer = found.shape.primary
        egress, sent = alice.publisher.mux.egress, alice.publisher.mux.egress.send
        # The client's network is down.
        egress.send = lambda *_: None  # type: ignore[method-assign]
        await eventually(lambda: RESUME in found.deadlines, within=14)
        assert peer.state is PeerState.DISCONNECTED
        egress.send = sent  # type: ignore[method-assign]
        if restarts:
            assert (await alice.restart()).status == 200
        await alice.play(TEXT, to=bob)
        await trio.sleep(30)
        assert not found.closed
        assert found.linked, "it may be lost again"


async def test_an_offer_whose_answer_is_never_used_costs_twenty_seconds(clock: MockClock) -> None:
    async with serving() as server, whip(server, "alice") as alice:
        await eventually(lambda: alice.answer is not None)
        alice.publisher.peer.close("never")
        await gone(server, "alice", within=21)


async def test_a_removed_participant_is_told_by_dtls_and_its_session_is_unknown(clock: MockClock) -> None:
    async with serving() as server, whip(server, "alice") as alice:
        await alice.ready()
        found = participant(server, "alice")
        assert found is not None
        found.close(models.DisconnectReason.PARTICIPANT_REMOVED)
        await alice.closed()
        assert (await alice.trickle()).status == 404

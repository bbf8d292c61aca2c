"""What clients do while something is stopped: join, publish, subscribe, exchange data, leave.

To add one, write a function of a `Scene` and decorate it:

    @scenario()
    async def knock(scene: Scene) -> None:
        await scene.alice.say(b"knock", to=scene.bob)

It is stopped by everything in `tests/cancel/stops.py`, at every step that the server takes while it runs. Say
`joined=False` if Alice is to be only joining when it begins, and `single=False` if it needs a session of two peer
connections. What must end by itself when the session does, such as a writer, goes into `scene.background`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from livekit.protocol import models

from tests.support.client import LOSSY, RELIABLE
from tests.support.whip import WhipClient
from triosfu.errors import PeerGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from tests.support.client import Client
    from triosfu.peer import DataChannel
    from triosfu.rooms.participant import Participant
    from triosfu.server import Server

LARGE = 60_000  # bytes; with `steps.QUICK` the second such message waits
WRITERS = 3


@dataclass
class Scene:
    """Who is there."""

    server: Server
    alice: Client  # whose session is stopped
    bob: Client  # who is in the room with her
    background: trio.Nursery
    begun: bool = False  # steps count from here on

    @property
    def participant(self) -> Participant:
        """Alice, as the server knows her."""
        found = alice_in(self.server)
        assert found is not None
        return found


@dataclass(frozen=True)
class Scenario:
    """Something that Alice does."""

    name: str
    run: Callable[[Scene], Awaitable[None]]
    joined: bool  # whether she has joined when it begins
    single: bool  # whether one peer connection will do
    http: Literal["", "whip", "whep"] = ""  # how she signals, if not by WebSocket


SCENARIOS: list[Scenario] = []


def scenario(
    *, joined: bool = True, single: bool = True, http: Literal["", "whip", "whep"] = ""
) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    """Add a scenario to the list."""

    def add(run: Callable[[Scene], Awaitable[None]]) -> None:
        SCENARIOS.append(Scenario(run.__name__, run, joined, single, http))

    return add


def alice_in(server: Server) -> Participant | None:
    """Alice's session, while there is one."""
    return next((one for room in server.rooms for one in room.participants.values() if one.identity == "alice"), None)


@scenario(joined=False)
async def join(scene: Scene) -> None:
    """Two transports or one, channels, a published track."""
    await scene.alice.ready()


@scenario()
async def publish(scene: Scene) -> None:
    """One more track: announced, offered, heard, muted, taken away."""
    alice, bob = scene.alice, scene.bob
    track = await alice.publish()
    await alice.play(b"a second track", to=bob, track=track)
    await alice.mute(track, muted=True)
    await bob.until(lambda: (told := bob.told_of("alice", alice.sid(track))) is not None and told.muted)
    await alice.mute(track, muted=False)
    await bob.until(lambda: (told := bob.told_of("alice", alice.sid(track))) is not None and not told.muted)
    await alice.unpublish(track)
    await bob.until(lambda: bob.told_of("alice", alice.sid(track)) is None)


@scenario(single=False)
async def subscribe(scene: Scene) -> None:
    """Somebody's track: had, given up, had again, paused, wanted in another quality."""
    alice, bob = scene.alice, scene.bob
    sid = bob.sid()
    await bob.play(b"subscribed", to=alice)
    await alice.subscribe(sid, wanted=False)
    await alice.subscribe(sid, wanted=True)
    await bob.play(b"again", to=alice)
    await alice.want(sid, disabled=True)
    await alice.want(sid)
    await bob.play(b"as it is wanted", to=alice)


@scenario()
async def data(scene: Scene) -> None:
    """Messages both ways, on the channels that are there and on one of her own; some writers have to wait."""
    alice, bob = scene.alice, scene.bob
    for label in (RELIABLE, LOSSY):
        await alice.say(label.encode(), to=bob, label=label)
        await bob.say(label.encode(), to=alice, label=label)
    own = alice.publisher.peer.open_channel("own")
    await own.send(b"by a channel of her own")
    await bob.until(lambda: ("alice", b"by a channel of her own") in bob.heard)
    own.close()
    await alice.until(lambda: "own" in alice.publisher.ended)
    towards_alice = scene.participant.data._channels[RELIABLE]
    for _ in range(WRITERS):
        scene.background.start_soon(write, alice.publisher.channels[RELIABLE], bob.identity)
        scene.background.start_soon(write, towards_alice, alice.identity)
    for one in (alice, bob):
        await one.until(lambda one=one: sum(len(data) > LARGE for _, data, _ in one.subscriber.messages) == WRITERS)  # type: ignore[misc]


async def write(channel: DataChannel, destination: str) -> None:
    """Send one large message, or learn that the channel is over."""
    user = models.UserPacket(payload=bytes(LARGE))
    packet = models.DataPacket(user=user, destination_identities=[destination])
    with suppress(PeerGone):
        await channel.send(packet.SerializeToString())


@scenario()
async def leave(scene: Scene) -> None:
    """She says that she leaves."""
    await scene.alice.leave()


@scenario()
async def removed(scene: Scene) -> None:
    """She is put out, as by the server's API."""
    scene.participant.close(models.DisconnectReason.PARTICIPANT_REMOVED)
    await scene.alice.until(lambda: scene.alice.gone)


@scenario(joined=False, http="whip")
async def whip(scene: Scene) -> None:
    """She publishes by HTTP requests: candidates, an ICE restart, the end."""
    alice, bob = scene.alice, scene.bob
    assert isinstance(alice, WhipClient)
    await alice.ready()
    await alice.play(b"published", to=bob)
    await alice.trickle("candidate:1 1 udp 1 192.0.2.1 9 typ host")
    await alice.restart()
    await alice.play(b"restarted", to=bob)
    await alice.ask("DELETE")
    await alice.closed()


@scenario(joined=False, http="whep")
async def whep(scene: Scene) -> None:
    """She watches by HTTP requests, also over another path."""
    alice, bob = scene.alice, scene.bob
    assert isinstance(alice, WhipClient)
    await bob.until(lambda: bool(bob.track.negotiated))
    await alice.ready()
    await bob.play(b"watched", to=alice)
    await alice.restart()
    await bob.play(b"still watched", to=alice)
    await alice.ask("DELETE")
    await alice.closed()

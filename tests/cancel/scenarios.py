"""What clients do while something is stopped: join, publish, subscribe, exchange data, leave.

To add one, write a function of a `Scene` and decorate it:

    @scenario()
    async def knock(scene: Scene) -> None:
        await scene.alice.say(b"knock", to=scene.bob)

It is stopped by everything in `tests/cancel/stops.py`, at every step that the server takes while it runs. Say
`joined=False` if Alice is to be only joining when it begins, `single=False` if it needs a session of two peer
connections, `elsewhere=True` if it may leave a room behind (ELSEWHERE, or her own, made anew), `levels` if not every
stop concerns it, and `every=False` if each of its steps takes too long. What must end by itself when the session does,
such as a writer, goes into `scene.background`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio
from livekit.protocol import models
from livekit.protocol.agent_dispatch import CreateAgentDispatchRequest

from tests.agents.worker import worker
from tests.support.client import LOSSY, RELIABLE
from tests.support.steps import QUICK
from tests.support.whip import WhipClient, request
from triosfu.errors import PeerGone
from triosfu.rooms.transfer import forward_to, move_to
from triosfu.tokens import VideoGrant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.client import Client
    from triosfu.peer import DataChannel
    from triosfu.rooms.participant import Participant
    from triosfu.server import Server

LEVELS = frozenset({"connection", "participant", "room", "server"})
LARGE = 60_000  # bytes; with `steps.QUICK` the second such message waits
WRITERS = 3
ELSEWHERE = "elsewhere"


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
    every: bool  # whether some of the stops come at every step in each run of the tests
    levels: frozenset[str]  # of the stops that concern it
    http: Literal["", "whip", "whep"] = ""  # how she signals, if not by WebSocket
    elsewhere: bool = False  # whether it may leave a room behind


SCENARIOS: list[Scenario] = []


def scenario(
    *,
    joined: bool = True,
    single: bool = True,
    every: bool = True,
    levels: frozenset[str] = LEVELS,
    http: Literal["", "whip", "whep"] = "",
    elsewhere: bool = False,
) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    """Add a scenario to the list."""

    def add(run: Callable[[Scene], Awaitable[None]]) -> None:
        SCENARIOS.append(Scenario(run.__name__, run, joined, single, every and not elsewhere, levels, http, elsewhere))

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


@scenario(levels=frozenset({"room", "server"}))
async def agent(scene: Scene) -> None:
    """A worker comes, takes a job in her room, and is told to stop; `test_workers.py` has one that dies."""
    room, dispatches = scene.participant.room, scene.server.agents.dispatches
    async with worker(scene.server, agent_name="helper") as one:
        wish = CreateAgentDispatchRequest(agent_name="helper", room=room.name)
        dispatch = dispatches.create(room, wish, dispatch_id="")
        try:
            job = (await one.take()).job
        finally:
            if dispatches.find(room, dispatch.id) is dispatch:
                dispatches.delete(room, dispatch)
        assert (await one.expect("termination")).job_id == job.id


@scenario()
async def leave(scene: Scene) -> None:
    """She says that she leaves."""
    await scene.alice.leave()


@scenario()
async def removed(scene: Scene) -> None:
    """She is put out, as by the server's API."""
    scene.participant.close(models.DisconnectReason.PARTICIPANT_REMOVED)
    await scene.alice.until(lambda: scene.alice.gone)


@scenario(elsewhere=True)
async def moved(scene: Scene) -> None:
    """She is taken to another room, and is taken back."""
    alice, bob, rooms, home = scene.alice, scene.bob, scene.server.rooms, scene.participant.room.name
    await move_to(rooms, scene.participant, ELSEWHERE, create=True)
    await alice.until(lambda: len(alice.seen("room_moved")) == 1)
    await move_to(rooms, scene.participant, home, create=False)
    await alice.until(lambda: len(alice.seen("room_moved")) == 2)
    await alice.play(b"back again", to=bob)
    await bob.say(b"welcome back", to=alice)


@scenario(elsewhere=True)
async def forwarded(scene: Scene) -> None:
    """Another room sees and hears her, and what she publishes, for a while."""
    alice, rooms = scene.alice, scene.server.rooms
    await forward_to(rooms, scene.participant, ELSEWHERE, create=True)
    [forward] = scene.participant.forwards
    for _ in range(3):
        await alice.publish()
    assert len(forward.publications) == 4
    forward.close(models.DisconnectReason.PARTICIPANT_REMOVED)


@scenario(every=False)  # it is long
async def resume(scene: Scene) -> None:
    """Her signalling is lost, and comes back with new credentials for her transports; what was said meanwhile came."""
    alice, bob = scene.alice, scene.bob
    before = scene.participant
    await alice.drop()
    await bob.say(b"while she was away", to=alice)
    alice.resume(scene.server)
    await alice.until(lambda: bool(alice.seen("room_update")))
    assert scene.participant is before
    await alice.say(b"she is back", to=bob)
    await bob.say(b"welcome back", to=alice)


@scenario(elsewhere=True, levels=LEVELS - {"connection"})
async def reconnect(scene: Scene) -> None:
    """Her signalling is lost, and she starts over: a new session takes the place of the one that waits for her."""
    alice, bob = scene.alice, scene.bob
    before = scene.participant
    await alice.drop()
    again = await alice.start_over(scene.server, settings=QUICK)
    await again.ready()
    assert before.closed
    await again.play(b"her track is back", to=bob)
    await bob.say(b"welcome back", to=again)


@scenario(elsewhere=True, levels=LEVELS - {"connection"})
async def calls(scene: Scene) -> None:
    """A backend makes a room, changes her, mutes her, sends her data, asks something of her; each call is answered."""
    alice, room = scene.alice, scene.participant.room.name
    her, statuses, over = {"room": room, "identity": "alice"}, list[int](), trio.Event()
    wishes: tuple[tuple[str, dict[str, object]], ...] = (
        ("CreateRoom", {"name": ELSEWHERE}),
        ("UpdateParticipant", {**her, "metadata": "changed"}),
        ("MutePublishedTrack", {**her, "track_sid": alice.sid(), "muted": True}),
        ("SendData", {"room": room, "data": "aGVsbG8=", "destination_identities": ["alice"]}),
        ("PerformRpc", {"room": room, "destination_identity": "alice", "method": "add", "payload": "1 + 1"}),
        ("DeleteRoom", {"room": ELSEWHERE}),
    )
    grant = VideoGrant(room_create=True, room_admin=True, room=room)
    token = scene.server.create_token(identity="", room=room, video=grant)

    async def backend() -> None:
        headers = {"Authorization": f"Bearer {token}", "Content_Type": "application/json"}
        with suppress(
            OSError, trio.BrokenResourceError, IndexError
        ):  # the server has gone, before or while it is asked
            for method, fields in wishes:
                target = f"/twirp/livekit.RoomService/{method}"
                answer = await request(scene.server.port, "POST", target, json.dumps(fields), **headers)
                statuses.append(answer.status)
        over.set()

    scene.background.start_soon(backend)
    await alice.until(lambda: bool(asked_of(alice)))
    (asked,) = asked_of(alice)
    for packet in (
        models.DataPacket(rpc_ack=models.RpcAck(request_id=asked)),
        models.DataPacket(rpc_response=models.RpcResponse(request_id=asked, payload="2")),
    ):
        await alice.publisher.channels[RELIABLE].send(packet.SerializeToString())
    await over.wait()
    assert statuses == [200] * len(wishes)


def asked_of(client: Client) -> list[str]:
    """The ids of what the server has called the client for."""
    packets = [models.DataPacket.FromString(data) for _, data, _ in client.subscriber.messages]
    return [packet.rpc_request.id for packet in packets if packet.HasField("rpc_request")]


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

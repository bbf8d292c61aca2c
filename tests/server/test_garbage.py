"""Garbage of every kind against a running server, while two clients hear each other: they go on, and it is counted."""

from __future__ import annotations

import fcntl
import random
import socket
import sys
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from livekit.protocol import models, rtc
from structlog.testing import capture_logs

from tests.support.client import Client, join
from tests.support.side import LIMIT
from tests.support.steps import running
from triosfu import tokens
from triosfu.ice import binding
from triosfu.ice.core import Credentials
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from triosfu.net.udp import _Port
    from triosfu.peer import PeerConnection
    from triosfu.peer.transport import Transport
    from triosfu.rooms.participant import Participant
    from triosfu.server import Server

BATCH = 40  # datagrams between two turns of the loop: what socket buffers hold in any case
numbers = count(1)


@dataclass
class Conversation:
    """A server on which Alice and Bob talk."""

    server: Server
    alice: Client
    bob: Client
    rng: random.Random = field(default_factory=lambda: random.Random(20))

    async def goes_on(self) -> None:
        """Data both ways, and sound."""
        number = next(numbers)
        await self.alice.say(b"data %d" % number, to=self.bob)
        await self.bob.say(b"data %d" % number, to=self.alice)
        await self.alice.play(b"sound %d" % number, to=self.bob)

    async def endures(self, sock: socket.socket, garbage: list[bytes]) -> None:
        """Send `garbage` from `sock` while the two talk."""
        address = self.server.mux.local_addresses[0]
        for first in range(0, len(garbage), BATCH):
            for datagram in garbage[first : first + BATCH]:
                sock.sendto(datagram, address)
            await trio.lowlevel.checkpoint()
            with trio.fail_after(LIMIT):  # much control is read by the clock (`net.reading`)
                while any(map(_unread, (*self.server.mux._ports, *self.server.mux._beside))):
                    await trio.testing.wait_all_tasks_blocked(0.001)
        await self.goes_on()

    def counted(self, reason: str) -> int:
        return self.server.mux.counters[reason]

    def participant(self, client: Client) -> Participant:
        (room,) = self.server.rooms
        return room.participants[client.identity]


@asynccontextmanager
async def conversation() -> AsyncIterator[Conversation]:
    """Two who talk; whatever happens in the block, they still do at its end, and no bug was met."""
    with capture_logs() as logs:
        async with running() as run:
            server = await run.up()
            async with join(server, "alice") as alice, join(server, "bob") as bob:
                await alice.ready()
                await bob.ready()
                talk = Conversation(server, alice, bob)
                await talk.goes_on()
                yield talk
                await talk.goes_on()
                assert not alice.gone
                assert not bob.gone
                assert not server.mux.counters["route_failed"]
                assert not any(room.counters["bugs"] for room in server.rooms)
    assert not [entry for entry in logs if entry["log_level"] in {"error", "critical"}]


@asynccontextmanager
async def mallory(talk: Conversation) -> AsyncIterator[Client]:
    """A third client, who is up to no good."""
    async with join(talk.server, "mallory") as client:
        await client.ready()
        yield client


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """A socket that no session knows."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def _unread(port: _Port) -> int:
    """Bytes of the next datagram that waits in a server's socket."""
    return int.from_bytes(fcntl.ioctl(port.sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def socket_of(client: Client) -> socket.socket:
    """The socket that a client's publishing connection is bound to."""
    sock = client.publisher.mux._ports[0].sock
    assert isinstance(sock, socket.socket)
    return sock


def record(transport: Transport) -> dict[str, list[bytes]]:
    """Keep copies of what a transport of the server's receives from now on, by protocol."""
    kept: dict[str, list[bytes]] = {"stun": [], "dtls": [], "rtp": [], "rtcp": []}
    stun, dtls, rtp, rtcp = (
        transport.receive_stun,
        transport.receive_dtls,
        transport.receive_rtp,
        transport.receive_rtcp,
    )

    def receive_stun(data: bytes, *rest: object) -> None:
        kept["stun"].append(data)
        stun(data, *rest)  # type: ignore[arg-type]

    def receive_dtls(data: bytes, *rest: object) -> None:
        kept["dtls"].append(data)
        dtls(data, *rest)  # type: ignore[arg-type]

    def receive_rtp(arena: memoryview, pointer: object, length: int, now: float, following: int = 0) -> int:
        kept["rtp"].append(bytes(arena[:length]))
        return rtp(arena, pointer, length, now, following)

    def receive_rtcp(arena: memoryview, pointer: object, length: int, now: float) -> bool:
        kept["rtcp"].append(bytes(arena[:length]))
        return rtcp(arena, pointer, length, now)

    for tap in (receive_stun, receive_dtls, receive_rtp, receive_rtcp):
        setattr(transport, tap.__name__, tap)
    return kept


async def recorded(talk: Conversation, client: Client) -> dict[str, list[bytes]]:
    """Real datagrams of each protocol, from `client`."""
    kept = record(talk.participant(client).shape.publisher._transport)
    await client.say(bytes(3000), to=talk.bob)
    await client.play(b"real", to=talk.bob)
    sender = client.publisher.peer
    now = trio.current_time()
    sender._transport.ice.handle_timeout(now + 3)  # a check is due
    sender.sender.handle_timeout(now + 4)
    sender._transport.send_rtcp(bytes.fromhex("80c90001deadbeef"))
    sender.drain_soon()
    with trio.fail_after(LIMIT):
        while not all(kept.values()):
            await trio.testing.wait_all_tasks_blocked()
    return {protocol: datagrams[:5] for protocol, datagrams in kept.items()}


def damaged(rng: random.Random, datagram: bytes, times: int) -> Iterator[bytes]:
    """Truncated, with flipped bits, with bytes cut out or put in."""
    for _ in range(times):
        at = rng.randrange(len(datagram))
        yield datagram[:at]
        flipped = bytearray(datagram)
        for _ in range(rng.choice((1, 1, 2, 8))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
        yield datagram[:at] + rng.randbytes(rng.randrange(1, 9)) + datagram[at:]
        yield datagram[:at] + datagram[at + rng.randrange(1, 9) :]


def noise(rng: random.Random) -> list[bytes]:
    """Random bytes, of each length that matters and with each first byte."""
    lengths = (1, 2, 12, 13, 20, 28, 100, 1200, 1472, 4000)
    return [bytes([first]) + rng.randbytes(rng.choice(lengths) - 1) for first in range(256) for _ in range(3)]


async def test_noise_from_anywhere(stranger: socket.socket) -> None:
    async with conversation() as talk, mallory(talk) as bad:
        for sock in (stranger, socket_of(bad)):
            before = talk.server.mux.counters.copy()
            await talk.endures(sock, noise(talk.rng))
            gained = talk.server.mux.counters - before
            assert gained["unknown_protocol"] > 100
            assert gained["odd_size"] > 10
            assert gained["odd_stun"] > 3
            if sock is stranger:
                assert gained["unbound_tuple"] > 100
        transport = talk.participant(bad).shape.publisher._transport
        assert transport.counters["unauthentic_rtp"] > 10
        assert transport.counters["unauthentic_rtcp"] > 10


async def test_damaged_and_repeated_datagrams_of_every_protocol(stranger: socket.socket) -> None:
    async with conversation() as talk, mallory(talk) as bad:
        real = await recorded(talk, bad)
        transport = talk.participant(bad).shape.publisher._transport
        # STUN comes last: changed behind its MESSAGE-INTEGRITY it stays authentic, and makes the stranger known.
        for protocol, datagrams in reversed(real.items()):
            garbage = [piece for datagram in datagrams for piece in damaged(talk.rng, datagram, 30)]
            before = talk.counted("unbound_tuple")
            await talk.endures(stranger, garbage)
            assert protocol == "stun" or talk.counted("unbound_tuple") - before > len(garbage) // 2
            await talk.endures(socket_of(bad), garbage + datagrams * 3)
        assert transport.counters["unauthentic_rtp"] > 100
        assert transport.counters["unauthentic_rtcp"] > 30
        assert transport.counters["malformed_stun"] > 20
        assert transport._dtls is not None
        assert transport._dtls.dropped > 10


async def test_stun_with_a_wrong_key_is_not_answered_and_binds_nothing(stranger: socket.socket) -> None:
    async with conversation() as talk:
        transport = talk.participant(talk.alice).shape.publisher._transport
        tuples = len(talk.server.mux._by_tuple)
        ours = transport.ice.local
        for remote in (Credentials(ours.ufrag, "wrong" * 6), Credentials("stranger", "wrong" * 6)):
            check = binding.request(
                bytes(12),
                local=Credentials("stranger", "wrong" * 6),
                remote=remote,
                priority=1,
                controlling=True,
                tie_breaker=1,
                nominating=True,
            )
            await talk.endures(stranger, [check] * 50)
        assert transport.ice.dropped["unauthenticated"] == 50
        assert talk.counted("unknown_ufrag") >= 50
        assert len(talk.server.mux._by_tuple) == tuples
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(2048)


async def test_forged_media_reaches_nobody(stranger: socket.socket) -> None:
    async with conversation() as talk, mallory(talk) as bad:
        genuine = talk.alice.track
        forged = [
            build_rtp(
                ssrc=genuine.ssrc,
                payload_type=genuine.negotiated[0].payload_type,
                sequence=number,
                timestamp=number * 960,
                payload=b"forged" + talk.rng.randbytes(30),
            )
            for number in range(300)
        ]
        for sock in (stranger, socket_of(bad)):
            await talk.endures(sock, forged)
        assert not [sound for sound in talk.bob.sounds if sound.startswith(b"forged")]
        transport = talk.participant(bad).shape.publisher._transport
        assert transport.counters["unauthentic_rtp"] == 300


async def test_malformed_media_reports_and_data_inside_good_encryption() -> None:
    """A client that has the keys and sends nonsense under them."""
    async with conversation() as talk, mallory(talk) as bad:
        client, server = bad.publisher.peer, talk.participant(bad).shape.publisher
        rtp = build_rtp(
            ssrc=77, payload_type=96, sequence=1, timestamp=1, payload=bytes(40), extensions={1: b"abc", 3: b"\0\1"}
        )
        rtcp = [
            bytes.fromhex("80c90001deadbeef"),
            bytes.fromhex("81c90007deadbeef") + bytes(24),
            bytes.fromhex("8fcd0005deadbeef") + bytes(16),
            bytes.fromhex("81ce0003deadbeef00000000ffffffff"),
        ]
        for data in damaged(talk.rng, rtp, 60):
            send_rtp(client, data)
        await talk.goes_on()
        for compound in rtcp:
            for data in damaged(talk.rng, compound, 30):
                if len(data) >= 8:  # libsrtp takes no shorter ones
                    client._transport.send_rtcp(data)
        await talk.goes_on()
        assert server.counters["malformed_rtcp"] > 10
        client._transport.send_data(b"")
        packets = [bytes.fromhex("1388138800000000") + talk.rng.randbytes(size) for size in range(200)]
        for packet in packets:
            client._transport.send_data(packet)
        client.drain_soon()
        await talk.goes_on()


def send_rtp(peer: PeerConnection, data: bytes) -> None:
    """Protect and send what need not be a packet; libsrtp refuses what is too damaged to have an SSRC."""
    offset = peer.sink.reserve()
    peer.sink.arena[offset : offset + len(data)] = data
    if len(data) >= 12:
        peer.sink.commit_rtp(offset, len(data))


MALFORMED_FRAMES = [b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", "{", "[3]", '{"offer": 3}', "{" * 2000, '{"ping": "x"}']


@pytest.mark.parametrize("frame", [*MALFORMED_FRAMES, bytes((2 << 20) + 1), "x" * ((2 << 20) + 1)], ids=lambda f: f[:9])
async def test_malformed_and_oversized_frames_end_their_own_connection(frame: bytes | str) -> None:
    async with conversation() as talk, join(talk.server, "mallory") as bad:
        await bad.until(lambda: bool(bad.seen("join")))
        await bad.signal(frame)
        await bad.until(lambda: bad.gone)
        assert bad.code == (1009 if len(frame) > 2 << 20 else 1007)


def nonsense() -> list[rtc.SignalRequest]:
    """Requests that are well formed, and make no sense."""
    return [
        rtc.SignalRequest(),
        rtc.SignalRequest(answer=rtc.SessionDescription(type="answer", sdp="v=0", id=99)),
        rtc.SignalRequest(answer=rtc.SessionDescription()),
        rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit="{", target=rtc.SignalTarget.SUBSCRIBER)),
        rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit='{"candidate": 3}')),
        rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit='{"candidate": "candidate:x"}')),
        rtc.SignalRequest(trickle=rtc.TrickleRequest(candidateInit="[" * 5000)),
        rtc.SignalRequest(add_track=rtc.AddTrackRequest()),
        rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid="x" * 10_000, sid="TR_nobody")),
        rtc.SignalRequest(mute=rtc.MuteTrackRequest(sid="TR_nobody", muted=True)),
        rtc.SignalRequest(subscription=rtc.UpdateSubscription(track_sids=["", "TR_nobody"], subscribe=True)),
        rtc.SignalRequest(subscription=rtc.UpdateSubscription(participant_tracks=[models.ParticipantTracks()])),
        rtc.SignalRequest(track_setting=rtc.UpdateTrackSettings(track_sids=["x"], width=2**32 - 1, fps=2**32 - 1)),
        rtc.SignalRequest(
            subscription_permission=rtc.SubscriptionPermission(track_permissions=[rtc.TrackPermission()])
        ),
        rtc.SignalRequest(sync_state=rtc.SyncState()),
        rtc.SignalRequest(update_layers=rtc.UpdateVideoLayers(track_sid="TR_nobody", layers=[models.VideoLayer()])),
        rtc.SignalRequest(simulate=rtc.SimulateScenario()),
        rtc.SignalRequest(ping=-1),
        rtc.SignalRequest(ping_req=rtc.Ping(timestamp=-(2**63))),
        rtc.SignalRequest(update_metadata=rtc.UpdateParticipantMetadata(metadata="x" * 1_000_000)),
        rtc.SignalRequest(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid="TR_nobody")),
        rtc.SignalRequest(update_video_track=rtc.UpdateLocalVideoTrack(track_sid="TR_nobody")),
        rtc.SignalRequest(publish_data_track_request=rtc.PublishDataTrackRequest()),
        rtc.SignalRequest(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=2**32 - 1)),
        rtc.SignalRequest(update_data_subscription=rtc.UpdateDataSubscription()),
    ]


async def test_nonsensical_requests_disturb_nobody() -> None:
    async with conversation() as talk, mallory(talk) as bad:
        for request in nonsense():
            await bad.signal(request)
        await bad.signal(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=7)))
        await bad.until(lambda: bad.gone or bool(bad.seen("pong_resp")))
        await talk.goes_on()


async def test_damaged_descriptions_end_their_own_session_at_most() -> None:
    async with conversation() as talk:
        for number in range(60):
            async with join(talk.server, "mallory") as bad:
                await bad.until(lambda: bool(bad.seen("answer")))
                sdp = damaged_text(talk.rng, bad.publisher.peer.create_offer())
                description = rtc.SessionDescription(sdp=sdp, id=number)
                kinds = rtc.SignalRequest(offer=description), rtc.SignalRequest(answer=description)
                await bad.signal(kinds[number % 3 == 2])
                await bad.signal(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=7)))
                await bad.until(lambda: bad.gone or bool(bad.seen("pong_resp")))
            if number % 10 == 0:
                await talk.goes_on()


def damaged_text(rng: random.Random, sdp: str) -> str:
    """A description with lines left out, doubled, exchanged, cut or changed."""
    lines = sdp.split("\r\n")
    for _ in range(rng.choice((1, 2, 5))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                lines[at] = ""
            case 1:
                lines.insert(at, lines[other])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            case 4:
                lines[at] += str(rng.randrange(10**20))
            case _:
                lines[at] = "".join(rng.choices("av=:/ 0123456789é\x00", k=20))
    return "\r\n".join(lines)


async def get(server: Server, path: str, token: str | None) -> tuple[int, str]:
    """Status and text of a plain GET."""
    host, port = server.url.removeprefix("ws://").rsplit(":", 1)
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    with trio.fail_after(LIMIT):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            data = b"".join([part async for part in stream])
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode().strip()


async def test_bad_tokens_are_refused_in_livekits_words() -> None:
    async with conversation() as talk:
        good = talk.server.create_token(identity="mallory", room="room")
        head, claims, signature = good.split(".")
        unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + claims + "."
        foreign = tokens.create_token("devkey", "x" * 32, now=0, identity="m", room="room", ttl=10**10)
        unknown = tokens.create_token("nobody", "x" * 32, now=0, identity="m", room="room", ttl=10**10)
        expected = {
            None: (401, "no permissions to access the room"),
            "": (401, "invalid authorization"),
            "x": (401, "invalid authorization token"),
            "a.b.c": (401, "invalid authorization token"),
            unsigned: (401, "invalid authorization token"),
            unknown: (401, "invalid API key"),
            foreign: (401, "invalid authorization token"),
            f"{head}.{claims}.{signature[:-4]}AAAA": (401, "invalid authorization token"),
            talk.server.create_token(identity="", room="room"): (400, "identity cannot be empty"),
            talk.server.create_token(identity="m", room=""): (401, "no permissions to access the room"),
            talk.server.create_token(identity="m", room="", video=tokens.VideoGrant(room_join=True)): (
                400,
                "no room name",
            ),
            talk.server.create_token(identity="m", room="room", ttl=-3600): (401, "invalid authorization token: "),
            talk.server.create_token(identity="m", room="r", video=tokens.VideoGrant(room="r")): (
                401,
                "permissions denied",
            ),
            good: (200, "success"),
        }
        for token, (status, text) in expected.items():
            answer = await get(talk.server, "/rtc/validate", token)
            assert answer[0] == status, (token, answer)
            assert answer[1].startswith(text), (token, answer)
        for _ in range(100):
            at = talk.rng.randrange(len(good))
            mangled = good[:at] + talk.rng.choice("Aab0._-") + good[at + 1 :]
            status, _ = await get(talk.server, "/rtc/validate", mangled)
            assert status in {200, 401}  # the last characters' spare bits mean nothing

"""WHIP and WHEP clients made of our own cores: HTTP requests, one peer connection, a track of sound."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from tests.support.client import LOSSY, RELIABLE, Client
from tests.support.side import LIMIT, Side
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerState
from triosfu.rtp.wire import RtpPacket
from triosfu.sdp.negotiation import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from triosfu.peer import PeerSettings
    from triosfu.server import Server

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
SENT_ONLY = ("a=msid:", "a=ssrc:", "a=ssrc-group:", "a=rid:", "a=simulcast:")  # lines of who sends


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    headers: Mapping[str, str]
    body: str


async def request(port: int, method: str, target: str, body: str | bytes = b"", **headers: str) -> Answer:
    """One request on a connection of its own; `_` in a header's name stands for `-`."""
    data = body.encode() if isinstance(body, str) else body
    fields = {"Host": "x", "Connection": "close", "Content-Length": str(len(data)), **headers}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    received = b""
    with trio.fail_after(LIMIT):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode() + data)
            while more := await stream.receive_some(65536):
                received += more
    head, _, text = received.decode().partition("\r\n\r\n")
    status, *found = head.split("\r\n")
    pairs = (line.partition(":") for line in found)
    return Answer(int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, text)


def watching(offer: str) -> str:
    """An offer to send turned into one to receive."""
    lines = offer.replace("a=sendonly", "a=recvonly").split("\r\n")
    return "\r\n".join(line for line in lines if not line.startswith(SENT_ONLY))


class WhipClient(Client):
    """A client that posts one offer: to publish its track, or (`watches`) to receive in that track's section."""

    def __init__(self, identity: str, side: Side, *, watches: bool = False, query: str = "") -> None:
        super().__init__(identity, side, side)
        self.watches = watches
        # No redundancy, like OBS or FFmpeg: the packets of these tests have none.
        codecs = tuple(mime for mime in side.peer.negotiation.policy.send if mime != "audio/red")
        side.peer.negotiation.policy = replace(side.peer.negotiation.policy, send=codecs)
        self.target = f"{'/whep/v1' if watches else '/whip/v1'}?{query}"
        self.answer: Answer | None = None
        self.received: list[RtpPacket] = []
        self.port, self.token = 0, ""
        if watches:
            side.peer.transport_rtp = self._receive  # type: ignore[method-assign]

    @property
    def is_ready(self) -> bool:
        up = self.publisher.peer.state is PeerState.CONNECTED
        return up and {RELIABLE, LOSSY} <= self.publisher.channels.keys()

    @property
    def sounds(self) -> set[bytes]:
        return {packet.payload for packet in self.received}

    @property
    def location(self) -> str:
        assert self.answer is not None
        return self.answer.headers["location"]

    def _receive(self, packet: bytes, now: float) -> None:
        self.received.append(RtpPacket.parse(bytes(packet), now))
        self.tell()

    async def closed(self) -> None:
        """Wait until the peer connection is over."""
        await self.until(lambda: self.publisher.peer.closed)

    def offer_text(self) -> str:
        text = self.publisher.peer.create_offer()
        return watching(text) if self.watches else text

    async def ask(self, method: str, target: str = "", body: str = "", **headers: str) -> Answer:
        """A request of this client, to its session unless another target is given."""
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        return await request(self.port, method, target or self.location, body, **headers)

    async def converse(self, server: Server, room: str) -> None:
        """Post the offer and take the answer."""
        self.port = server.port
        self.token = server.create_token(identity=self.identity, room=room)
        try:
            self.answer = await self.ask("POST", self.target, self.offer_text(), Content_Type=SDP)
            if self.answer.status == 201:
                self.publisher.peer.accept_answer(self.answer.body)
            self.tell()
        except* (OSError, trio.BrokenResourceError):
            self._over()
        except* (IndexError, ValueError):  # the server has gone before it answered
            self._over()

    async def trickle(self, *candidates: str) -> Answer:
        """Tell of candidates."""
        assert self.answer is not None
        body = self.fragment(*candidates)
        return await self.ask("PATCH", "", body, Content_Type=FRAGMENT, If_Match=self.answer.headers["etag"])

    def fragment(self, *candidates: str) -> str:
        """What this client says of its ICE session."""
        local = self.publisher.peer.negotiation.local
        lines = [f"a=ice-ufrag:{local.ufrag}", f"a=ice-pwd:{local.pwd}", "m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0"]
        return "\r\n".join([*lines, *(f"a={one}" for one in candidates), ""])

    async def restart(self) -> Answer:
        """Begin a new ICE session."""
        peer = self.publisher.peer
        peer._restart_ice(trio.current_time())
        answer = await self.ask("PATCH", "", self.fragment(*peer.local_candidates), Content_Type=FRAGMENT, If_Match="*")
        if answer.status == 200:
            said = dict(line[2:].partition(":")[::2] for line in answer.body.split("\r\n"))
            peer.negotiation.restart_ice(said["ice-ufrag"], said["ice-pwd"])
            peer._apply(Changes(), trio.current_time())
            for line in answer.body.split("\r\n"):
                if line.startswith("a=candidate:"):
                    peer.add_remote_candidate(line[2:])
        return answer


@asynccontextmanager
async def whip(
    server: Server,
    identity: str,
    *,
    room: str = "room",
    watches: bool = False,
    query: str = "",
    settings: PeerSettings | None = None,
) -> AsyncIterator[WhipClient]:
    """A client that is joining; at the end of the block it vanishes, with a DTLS goodbye and nothing else."""
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        side = Side(f"{identity}'s pc", mux, offerer=True, settings=settings)
        client = WhipClient(identity, side, watches=watches, query=query)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.publisher.peer.run, name=f"client {identity}'s pc")
            nursery.start_soon(client.converse, server, room, name=f"client {identity}")
            yield client
            nursery.cancel_scope.cancel()

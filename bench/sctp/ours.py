"""A triosfu peer: `python -m bench.sctp.ours send|receive SECONDS MESSAGE_SIZE`; see `wire.py` for what it says."""

from __future__ import annotations

import os
import sys
import time
from random import SystemRandom
from typing import TYPE_CHECKING

import trio

from bench.sctp.wire import Tally, hear, tell
from triosfu.dtls.certificate import Certificate
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection, PeerState
from triosfu.sdp.policy import MediaPolicy

if TYPE_CHECKING:
    from triosfu.peer import DataChannel
    from triosfu.sdp.sections import Section


class Peer:
    """The owner of one peer connection."""

    def __init__(self, mux: UdpMux, *, offerer: bool) -> None:
        self.tally = Tally()
        self.opened = trio.Event()
        self.connection = PeerConnection(
            name="bench",
            mux=mux,
            certificate=Certificate.generate(),
            handler=self,
            policy=MediaPolicy(),
            single=False,
            offerer=offerer,
            rng=SystemRandom(),
        )

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        if state is PeerState.FAILED:
            sys.exit(reason)

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None: ...

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None: ...

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        self.opened.set()

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None: ...

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:
        self.tally.count(len(data))


async def send(peer: Peer, seconds: float, size: int) -> None:
    """Offer, and send for so long."""
    connection = peer.connection
    connection.negotiation.enable_data()
    channel = connection.open_channel("bench")
    tell(sdp=connection.create_offer())
    connection.accept_answer(hear()["sdp"])
    await peer.opened.wait()
    message = bytes(size)
    before, until = time.process_time(), trio.current_time() + seconds
    while trio.current_time() < until:
        await channel.send(message)
    tell(cpu=time.process_time() - before)


async def receive(peer: Peer) -> None:
    """Answer, and count until told to stop."""
    connection = peer.connection
    connection.accept_offer(hear()["sdp"])
    tell(sdp=connection.create_answer())
    async with trio.lowlevel.FdStream(os.dup(0)) as end:
        await end.receive_some()
    peer.tally.tell()


async def main(role: str, seconds: float, size: int) -> None:
    """Play one of the two."""
    async with UdpMux.open(["127.0.0.1"], 0) as mux, trio.open_nursery() as nursery:
        peer = Peer(mux, offerer=role == "send")
        nursery.start_soon(peer.connection.run)
        await (send(peer, seconds, size) if role == "send" else receive(peer))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))

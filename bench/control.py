"""What a connection costs while no media flows: `python -m bench.control`; `--help` says what it can be asked for.

A server's mux with `--connections` peer connections, each with one sound that it sends, in this process; the clients
are sockets on loopback that say what they would say, prepared beforehand. Time is virtual, in steps of 10 ms: what is
due in a step leaves the clients, and then the server's tasks run until nothing is left to do. Only that is counted, as
CPU time of this thread, the kernel's part included; what as many turns of the loop take in which nothing is to be done,
measured right before, is taken off.

What is said by each client, and how often (`tests/clients` shows what real ones do, docs/interop.md):

    check     an ICE check, each 2.5 s, as libwebrtc does on a pair that works
    answer    the answer to our own check, within the same step, whenever there is one
    report    a receiver report for the one stream, each second (libwebrtc: each second for video, each five for sound)
    remb      a receiver report and REMB in one compound, each second
    feedback  transport-wide feedback on the 24 packets of a picture of 2 Mbit/s, each 100 ms
    nack      a NACK for one packet that is not kept any more, each second

Each line is a run of its own with one of them, checks and answers included, and says what one such event costs: the
difference to the run with checks alone. Our own checks and sender reports (each 3 s) are always there; `quiet` is the
run in which the clients only answer. Of several rounds the least counts: the machine can only add to it.
"""

from __future__ import annotations

import argparse
import math
import socket
import subprocess
import sys
import time
from random import Random
from typing import TYPE_CHECKING

import trio
import trio.lowlevel
import trio.testing

from triosfu.dtls.certificate import Certificate
from triosfu.ice import binding
from triosfu.media.down_track import DownTrack
from triosfu.media.ingress import Ingress
from triosfu.media.receiver import TrackReceiver
from triosfu.net.udp import UdpMux
from triosfu.peer import PeerConnection, PeerSettings, PeerState
from triosfu.rtp.rtcp import Nack, ReceiverReport, Remb, ReportBlock, SenderReport, TransportFeedback
from triosfu.rtp.twcc import REFERENCE
from triosfu.rtp.wire import build_rtp
from triosfu.sdp.policy import MediaPolicy
from triosfu.sdp.sections import Sender
from triosfu.stun.wire import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triosfu.peer import DataChannel
    from triosfu.sdp.sections import Section

STEP = 0.01  # seconds
SSRC = 99
TURNS = 4  # of the loop, after which a step is over: receive, act, flush
PERIODS = {"check": 2.5, "report": 1.0, "remb": 1.0, "feedback": 0.1, "nack": 1.0}
COVERED = 24  # packets in one piece of feedback
HOST = "127.0.0.1"
SETTINGS = PeerSettings(disconnected_after=60, failed_after=60)  # who is connected is silent until all others are


class Handler:
    """Whom a peer connection tells; nobody cares."""

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        """Fail if it is over: then nothing is measured."""
        assert state not in {PeerState.FAILED, PeerState.CLOSED, PeerState.DISCONNECTED} or peer.name == "over", reason

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        """Nothing."""

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        """Nothing."""

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        """Nothing."""

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        """Nothing."""

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:
        """Nothing."""


class Client:
    """The other end of one connection: real until it is connected, then only a socket and some keys."""

    def __init__(self, number: int, server: UdpMux, certificate: Certificate, publisher: Publisher) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.bind((HOST, 0))
        self._rng = Random(number)
        self._address = server.local_addresses[0]
        self.mux = UdpMux([self._sock], batched=False)
        self.near, self.far = (
            PeerConnection(
                name=name, mux=mux, certificate=certificate, handler=Handler(), policy=MediaPolicy(), single=False,
                offerer=name == "server", rng=self._rng, settings=SETTINGS,
            )
            for name, mux in (("client", self.mux), ("server", server))
        )  # fmt: skip
        self._sender = Sender(kind="audio", track_id="TR_x", stream_id="PA_x", ssrc=SSRC, codecs=["audio/opus"])
        self.far.negotiation.add_sender(self._sender)
        self._publisher = publisher
        self._feedback = 0
        self._tie_breaker = self._rng.getrandbits(64)
        self.due: dict[str, float] = {}

    async def connect(self, server_nursery: trio.Nursery) -> None:
        """Bring both ends up, then leave the near one as it is."""
        transport = self.near._transport  # noqa: SLF001  whose secrets the client goes on with
        async with self.mux.served(), trio.open_nursery() as nursery:
            nursery.start_soon(self.near.run)
            server_nursery.start_soon(self.far.run)
            self.near.accept_offer(self.far.create_offer())
            self.far.accept_answer(self.near.create_answer())
            with trio.fail_after(60):
                while {self.near.state, self.far.state} != {PeerState.CONNECTED}:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await trio.sleep(0.5)  # nominations
            self.near.hand_over()
        self._ice = transport.ice
        assert transport.outbound is not None
        self._protect = transport.outbound.protect_rtcp
        down = DownTrack(
            receiver=self._publisher.receiver, sink=self.far.sink, ssrc=SSRC, rtx_ssrc=None, rng=self._rng,
            now=trio.current_time(), cname="PA_x", mid=self._sender.mid or "",
        )  # fmt: skip
        down.bind(
            payload_types={codec.mime: codec.payload_type for codec in self._sender.negotiated},
            rtx_payload_types={}, extension_ids=self._sender.extensions, now=trio.current_time(),
        )  # fmt: skip
        self.far.sender.add(down)
        self.far.drain_soon()

    def say_what_is_due(self, now: float) -> None:
        """Send it."""
        for kind, at in self.due.items():
            if now >= at:
                self.due[kind] = at + PERIODS[kind]
                self._sock.sendto(getattr(self, kind)(), self._address)

    def answer(self) -> int:
        """Answer what the server has asked; how much that was."""
        answers = 0
        while True:
            try:
                data = self._sock.recv(2048)
            except BlockingIOError:
                return answers
            if data[0] == 0 and data[1] == 1:
                message = Message.parse(data)
                reply = binding.success(message, self._address, self._ice.local.key)
                self._sock.sendto(reply, self._address)
                answers += 1

    def check(self) -> bytes:
        """A check like those that the ICE core sends."""
        ice = self._ice
        assert ice.remote is not None
        return binding.request(
            self._rng.randbytes(12), local=ice.local, remote=ice.remote, priority=1845501695,
            controlling=ice.controlling, tie_breaker=self._tie_breaker, nominating=False,
        )  # fmt: skip

    def report(self) -> bytes:
        """A receiver report."""
        return self._protect(self._report())

    def remb(self) -> bytes:
        """A receiver report with REMB."""
        return self._protect(self._report() + Remb(1, 1_000_000, (SSRC,)).serialize())

    def nack(self) -> bytes:
        """A NACK."""
        return self._protect(Nack(1, SSRC, (30000,)).serialize())

    def feedback(self) -> bytes:
        """Transport-wide feedback."""
        self._feedback += 1
        now = trio.current_time()
        base, *_ = (self.far.sender.sent_log.sent(1000, now) for _ in range(COVERED))
        received = tuple((number, 16) for number in range(COVERED))
        reference = round(now / REFERENCE)
        return self._protect(
            TransportFeedback(1, SSRC, base, COVERED, reference, self._feedback & 0xFF, received).serialize()
        )

    def _report(self) -> bytes:
        return ReceiverReport(1, (ReportBlock(SSRC, 0, 0, self._publisher.sequence, 20, 0, 0),)).serialize()

    def close(self) -> None:
        """Give the socket back."""
        self._sock.close()


class Publisher:
    """One who speaks once, so that there is something to report of."""

    def __init__(self) -> None:
        now = trio.current_time()
        self.ingress = Ingress(rng=Random(1), now=now)
        self.receiver = TrackReceiver(kind="audio", mime="audio/opus", clock_rate=48000, now=now)
        self.ingress.add_track(
            self.receiver, mid=None, ssrcs=(5,), payload_types={111: "audio/opus"}, extension_ids={}
        )  # fmt: skip
        self.sequence = 0

    def speak(self, now: float) -> None:
        """One packet, and a sender report."""
        self.sequence += 1
        packet = build_rtp(
            ssrc=5, payload_type=111, sequence=self.sequence, timestamp=960 * self.sequence, payload=bytes(80)
        )
        self.ingress.receive_rtp(packet, now)
        self.ingress.forward(now)
        self.ingress.receive_rtcp([SenderReport(5, int(now * 2**32), 960 * self.sequence, self.sequence, 80)], now)


class Bench:
    """All of it."""

    def __init__(self, clock: trio.testing.MockClock, server: UdpMux, clients: Sequence[Client]) -> None:
        self._clock, self._server, self._clients = clock, server, clients

    async def run(self, kinds: Sequence[str], seconds: float) -> tuple[float, int]:
        """CPU seconds, and how often the server has asked, in that time."""
        rng = Random(7)
        now = trio.current_time()
        for client in self._clients:
            client.due = {kind: now + rng.random() * PERIODS[kind] for kind in kinds}
        spent, answers = 0.0, 0
        for _ in range(round(seconds / STEP)):
            spent -= await self._turn()
            self._clock.jump(STEP)
            now = trio.current_time()
            for client in self._clients:
                client.say_what_is_due(now)
            spent += await self._turn()
            if told := sum(client.answer() for client in self._clients):
                answers += told
                spent += await self._turn() - await self._turn()
        return spent, answers

    async def _turn(self) -> float:
        began = time.thread_time()
        for _ in range(TURNS):
            await trio.lowlevel.checkpoint()
        return time.thread_time() - began


async def measure(options: argparse.Namespace, clock: trio.testing.MockClock) -> None:
    """Connect, and print a line for each kind."""
    connections, seconds = options.connections, options.seconds
    certificate = Certificate.generate()
    async with UdpMux.open([HOST], 0) as server, trio.open_nursery() as nursery:
        publisher = Publisher()
        clients = [Client(number, server, certificate, publisher) for number in range(connections)]
        for at in range(0, connections, 25):
            async with trio.open_nursery() as connecting:
                for client in clients[at : at + 25]:
                    connecting.start_soon(client.connect, nursery)
        clock.rate = 0
        publisher.speak(trio.current_time())
        bench = Bench(clock, server, clients)
        await bench.run((), 4.0)
        wanted = {"quiet": (), "check": ("check",)}
        wanted |= {kind: ("check", kind) for kind in options.kinds.split(",")}
        spent: dict[str, float] = {}
        asks: dict[str, float] = {}
        for _ in range(options.rounds):
            for kind, said in wanted.items():
                cpu, asked = await bench.run(said, seconds)
                spent[kind] = min(spent.get(kind, math.inf), cpu * 1e6 / connections / seconds)
                asks[kind] = asked / connections / seconds
        for kind, cpu in spent.items():
            line = f"{kind:10} {cpu:7.1f} µs a second and connection, with {asks[kind]:.2f} checks of ours"
            if kind in PERIODS:
                without = spent["quiet" if kind == "check" else "check"]
                line += f"; {(cpu - without) * PERIODS[kind]:6.1f} µs each"
            print(line)
        for client in clients:
            client.far.name = client.near.name = "over"
            client.close()
        nursery.cancel_scope.cancel()


def main() -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=12.0, help="of virtual time for each line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(PERIODS))
    options = parser.parse_args()
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    print(f"commit {told.stdout.strip()}, Python {sys.version.split()[0]}, {options.connections} connections")
    clock = trio.testing.MockClock(rate=1.0)
    trio.run(measure, options, clock, clock=clock)
    return 0


if __name__ == "__main__":
    sys.exit(main())

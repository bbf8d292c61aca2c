"""One end of a peer connection as the benchmark's clients have them: real, and with as little around it as can be."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import trio

from triosfu.dtls.certificate import Certificate
from triosfu.errors import MalformedPacket
from triosfu.peer import PeerConnection, PeerSettings, PeerState
from triosfu.rtp.rtcp import Fir, Pli, SenderReport, parse_compound
from triosfu.sdp.policy import MediaPolicy
from triosfu.sdp.transport import DEFAULT_MAX_PACKET_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from triosfu.net.udp import UdpMux
    from triosfu.peer import DataChannel
    from triosfu.peer.transport import Transport
    from triosfu.sdp.sections import Section

PATIENCE = 60.0  # seconds for whatever is waited for: many that join at once share two cores with the server
SETTINGS = PeerSettings(disconnected_after=PATIENCE / 2, failed_after=PATIENCE, connect_timeout=PATIENCE)

certificate = cache(Certificate.generate)


class Ended(Exception):
    """The run cannot go on; the text says who was stopped by what."""


def first_of(group: BaseException) -> BaseException:
    """The error in a group, and in groups in it, that is not only a consequence of another: who was not cancelled."""
    errors = list(_leaves(group))
    return next((error for error in errors if "closed: cancelled" not in str(error)), errors[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class Connection(PeerConnection):
    """A peer connection that remembers when sender reports came, for our own reports, and who wants a keyframe."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  those of `PeerConnection`
        super().__init__(**options)
        self.heard: dict[int, tuple[int, float]] = {}  # by SSRC: middle of the NTP time, and when it came
        self.wanted: set[int] = set()  # SSRCs of which a keyframe is wanted

    @property
    def transport(self) -> Transport:
        """Its path: only a benchmark looks at single packets."""
        return self._transport

    def transport_rtcp(self, packet: bytes, now: float) -> bool:
        """Take a decrypted compound."""
        try:
            reports = parse_compound(packet)
        except MalformedPacket:
            return False
        for report in reports:
            if isinstance(report, SenderReport):
                self.heard[report.ssrc] = report.ntp >> 16 & 0xFFFFFFFF, now
            elif isinstance(report, Pli):
                self.wanted.add(report.media_ssrc)
            elif isinstance(report, Fir):
                self.wanted.update(ssrc for ssrc, _ in report.entries)
        self.ingress.receive_rtcp(reports, now)
        self.sender.receive_rtcp(reports, now)
        return True


class Waiting:
    """Somebody whom news wakes up, until it is over for them."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._news = trio.Event()
        self._why = ""

    def tell(self) -> None:
        """Have all that wait look again."""
        self._news.set()
        self._news = trio.Event()

    def over(self, why: str) -> None:
        """End the whole run, of which this one was a part."""
        self._why = self._why or why
        self.tell()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition` holds.

        Raises:
            Ended: It is over, or took too long.
        """
        with trio.move_on_after(PATIENCE):
            while not self._why and not condition():
                await self._news.wait()
        if self._why:
            raise Ended(f"{self.identity}: {self._why}")
        if not condition():
            raise Ended(f"{self.identity}: {what} has not happened within {PATIENCE:.0f} s")

    async def watch_over(self) -> None:
        """Raise `Ended` when it is over."""
        while not self._why:
            await self._news.wait()
        await trio.lowlevel.checkpoint_if_cancelled()  # if it was: that everything has closed is no news
        raise Ended(f"{self.identity}: {self._why}")


class End:
    """A peer connection and who is behind it (a `PeerHandler`); `owner` hears of whatever has changed."""

    def __init__(
        self,
        name: str,
        mux: UdpMux,
        *,
        offerer: bool,
        owner: Waiting,
        message: Callable[[bytes], None] | None = None,
    ) -> None:
        self.name, self.mux = name, mux
        self.sections: set[str] = set()  # the mids in which something comes
        self.channels: dict[str, DataChannel] = {}  # that are open
        self._owner, self._message = owner, message
        # With the extensions and the feedback of a connection for both ways, this answers as browsers do.
        self.peer = Connection(
            name=name, mux=mux, certificate=certificate(), handler=self, policy=MediaPolicy(transport_cc=offerer),
            single=not offerer, offerer=offerer, rng=SystemRandom(), settings=SETTINGS,
        )  # fmt: skip
        # Only triosfu takes large packets; the server should see what it sees of others.
        self.peer.negotiation.local = replace(self.peer.negotiation.local, max_packet_size=DEFAULT_MAX_PACKET_SIZE)

    @property
    def connected(self) -> bool:
        """Whether media and data can travel."""
        return self.peer.state is PeerState.CONNECTED

    def send_rtcp(self, *compounds: bytes) -> None:
        """Protect and send these at once."""
        egress = self.mux.egress
        egress.held = True
        for compound in compounds:
            self.peer.transport.send_rtcp(compound)
        egress.held = False
        egress.flush()

    async def run(self) -> None:
        """Keep it going until cancelled."""
        await self.peer.run()

    # --- what the peer connection tells ----------------------------------------------------------------------------

    def peer_state_changed(self, peer: PeerConnection, state: PeerState, reason: str) -> None:
        if state in {PeerState.FAILED, PeerState.CLOSED}:
            self._owner.over(f"the peer connection {self.name!r} {state.value}: {reason}")
        self._owner.tell()

    def peer_incoming_track(self, peer: PeerConnection, section: Section) -> None:
        self.sections.add(section.mid)
        self._owner.tell()

    def peer_incoming_ended(self, peer: PeerConnection, section: Section) -> None:
        self.sections.discard(section.mid)
        self._owner.tell()

    def peer_channel_opened(self, peer: PeerConnection, channel: DataChannel) -> None:
        self.channels[channel.label] = channel
        self._owner.tell()

    def peer_channel_closed(self, peer: PeerConnection, channel: DataChannel, reason: str) -> None:
        self.channels.pop(channel.label, None)
        self._owner.tell()

    def peer_message(self, peer: PeerConnection, channel: DataChannel, data: bytes, binary: bool) -> None:
        if self._message is not None:
            self._message(data)

"""The two shapes of a session: which peer connection carries what, and who offers.

Nothing else in rooms asks whether a session has one peer connection or two (protocol reference, section 0), or whether
there will ever be a second description.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from livekit.protocol import rtc

from triosfu.errors import UsageError
from triosfu.peer import PeerConnection, PeerState
from triosfu.sdp.directions import Direction
from triosfu.sdp.sections import Sender

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from triosfu.media.handover import LeftOff
    from triosfu.peer import PeerHandler

PUBLISHER, SUBSCRIBER = rtc.SignalTarget.PUBLISHER, rtc.SignalTarget.SUBSCRIBER
RED = "audio/red"
RELIABLE, LOSSY, DATA_TRACK = "_reliable", "_lossy", "_data_track"


class PeerFactory(Protocol):
    """Makes the peer connections of this server, with its mux, certificate and policy."""

    def __call__(
        self, *, name: str, handler: PeerHandler, single: bool, offerer: bool, tcp_only: bool = False
    ) -> PeerConnection:
        """Return a new peer connection that nobody runs yet."""


class SessionShape(Protocol):
    """Where things go in one session."""

    single: bool
    fixed: bool  # the sections are those of the first offer, for ever
    publisher: PeerConnection  # what the client sends arrives here
    subscriber: PeerConnection  # what the client receives leaves here

    @property
    def primary(self) -> PeerConnection:
        """The peer connection whose coming up makes the participant active; data to the client goes here."""

    @property
    def subscriber_primary(self) -> bool:
        """The flag of the join response."""

    @property
    def subscriber_connected(self) -> bool:
        """Whether media to the client can flow."""

    @property
    def peers(self) -> tuple[PeerConnection, ...]:
        """Every peer connection, once."""

    @property
    def expects_data(self) -> bool:
        """Whether data channels to the client will ever open."""

    def peer(self, target: rtc.SignalTarget) -> PeerConnection | None:
        """Return the peer connection that a client means by `target`."""

    def target(self, peer: PeerConnection) -> rtc.SignalTarget:
        """Return the name that clients have for `peer`."""

    def prepare_data(self) -> None:
        """Give the first offer a section for data, if the server makes the first offer."""

    def open_channels(self) -> bool:
        """Open the data channels that are the server's to open, the primary side being up; False without any."""

    def prepare_answer(self) -> None:
        """An offer of the client has been read: decide what else its answer is to say."""

    def has_place(self, kind: str, mimes: Collection[str]) -> bool:
        """Whether one more track of this kind, that comes in these codecs, may be sent to the client."""

    def send(self, sender: Sender) -> Sender:
        """Send one more track, for which there is a place; returns the sender that carries it, which may be another."""

    def withdraw(self, sender: Sender, left_off: LeftOff | None) -> None:
        """Send in place of that track nothing; its stream, if it had begun, stands where `left_off` says."""

    def left_off(self, sender: Sender) -> LeftOff | None:
        """Where a sender's stream stands, if another track has gone before on its SSRCs."""


class _Renegotiated:
    """How tracks come to a client that can be given new descriptions: a sender for each, negotiated in its turn."""

    fixed = False
    subscriber: PeerConnection

    def prepare_answer(self) -> None:
        """Decide nothing: what has a place is in the answer, and more comes with later ones."""

    def has_place(self, kind: str, mimes: Collection[str]) -> bool:  # noqa: ARG002  one answer for all
        """There is one, or the client is asked for it."""
        return True

    def send(self, sender: Sender) -> Sender:
        """Give it a section."""
        self.subscriber.negotiation.add_sender(sender)
        return sender

    def withdraw(self, sender: Sender, left_off: LeftOff | None) -> None:  # noqa: ARG002  the next track has other SSRCs
        """Free its section."""
        self.subscriber.negotiation.remove_sender(sender)

    def left_off(self, sender: Sender) -> LeftOff | None:  # noqa: ARG002  one answer for all
        """Every sender carries one track."""
        return None


class DualShape(_Renegotiated):
    """Two peer connections: the client offers on the first, the server on the second."""

    single = False

    def __init__(self, peers: PeerFactory, handler: PeerHandler, name: str, *, subscriber_primary: bool) -> None:
        self.publisher = peers(name=f"{name}/pub", handler=handler, single=False, offerer=False)
        self.subscriber = peers(name=f"{name}/sub", handler=handler, single=False, offerer=True)
        self.subscriber_primary = subscriber_primary

    @property
    def primary(self) -> PeerConnection:
        """The subscriber side, unless the client said at the start that it will not receive."""
        return self.subscriber if self.subscriber_primary else self.publisher

    @property
    def subscriber_connected(self) -> bool:
        """Whether media to the client can flow."""
        return self.subscriber.state is PeerState.CONNECTED

    @property
    def peers(self) -> tuple[PeerConnection, ...]:
        """Publisher and subscriber."""
        return self.publisher, self.subscriber

    @property
    def expects_data(self) -> bool:
        """The server opens them itself where it is the primary side."""
        return self.subscriber_primary or self.publisher.negotiation.has_data

    def peer(self, target: rtc.SignalTarget) -> PeerConnection | None:
        """Return the one of the two that is meant."""
        return self.subscriber if target == SUBSCRIBER else self.publisher

    def target(self, peer: PeerConnection) -> rtc.SignalTarget:
        """Return the name that clients have for `peer`."""
        return SUBSCRIBER if peer is self.subscriber else PUBLISHER

    def prepare_data(self) -> None:
        """Put the data section first, where the reference has it."""
        if self.subscriber_primary:
            self.subscriber.negotiation.enable_data()

    def open_channels(self) -> bool:
        """Open the three channels towards the client, in the reference's order (section 6.1).

        Not before the transport is up: an open has a deadline, and a client may take longer to get there.
        """
        if not self.subscriber_primary or not self.subscriber.negotiation.has_data:
            return False
        self.subscriber.open_channel(RELIABLE)
        self.subscriber.open_channel(LOSSY, ordered=False, max_retransmits=0)
        self.subscriber.open_channel(DATA_TRACK, ordered=False, max_retransmits=0)
        return True


class SingleShape(_Renegotiated):
    """One peer connection for everything; only the client ever offers, and the server asks it to (traps 11, 12)."""

    single = True
    subscriber_primary = False

    def __init__(self, peers: PeerFactory, handler: PeerHandler, name: str) -> None:
        self.publisher = self.subscriber = self.primary = peers(
            name=f"{name}/pc", handler=handler, single=True, offerer=False
        )

    @property
    def subscriber_connected(self) -> bool:
        """Whether media to the client can flow."""
        return self.primary.state is PeerState.CONNECTED

    @property
    def peers(self) -> tuple[PeerConnection, ...]:
        """The one."""
        return (self.primary,)

    @property
    def expects_data(self) -> bool:
        """The client opens the channels, if its offer has a section for them."""
        return self.primary.negotiation.has_data

    def peer(self, target: rtc.SignalTarget) -> PeerConnection | None:
        """Return the one peer connection; there is no subscriber side to mean."""
        return self.primary if target == PUBLISHER else None

    def target(self, peer: PeerConnection) -> rtc.SignalTarget:  # noqa: ARG002  one answer for all
        """Return the name that clients have for the one."""
        return PUBLISHER

    def prepare_data(self) -> None:
        """Prepare nothing: the client's offer has the section."""

    def open_channels(self) -> bool:
        """Open none: the client's are used both ways (trap 33)."""
        return False


@dataclass(slots=True)
class _Place:
    """A section in which a client that makes no second offer receives, and its stream."""

    sender: Sender
    taken: bool = False
    left_off: LeftOff | None = None


class FixedShape(SingleShape):
    """One peer connection whose sections are those of the client's first and only offer (RFC 9725, section 3).

    Each section in which the client receives is a place. It has its SSRCs from the answer on, whether there is a track
    for it or not; tracks come and go there, one after the other, as one stream.
    """

    fixed = True

    def __init__(self, peers: PeerFactory, handler: PeerHandler, name: str, *, rng: Random, receives: bool) -> None:
        """Start without places. `receives`: the client may send, too."""
        super().__init__(peers, handler, name)
        self._name = name
        self._rng = rng
        self._places: list[_Place] = []
        if not receives:
            self.primary.negotiation.policy = replace(self.primary.negotiation.policy, receive=())

    def prepare_answer(self) -> None:
        """Make the places: a sender, for whatever will come, in every section that wants one."""
        negotiation = self.primary.negotiation
        wanting = [
            section
            for section in negotiation.sections
            if section.is_vacant and section.remote_direction is Direction.RECVONLY
        ]
        ssrcs = self._rng.sample(range(1, 1 << 32), 2 * len(wanting))
        for section, ssrc, rtx_ssrc in zip(wanting, ssrcs[::2], ssrcs[1::2], strict=True):
            sender = Sender(
                kind=section.kind,
                track_id=f"{section.kind}-{section.mid}",
                stream_id=self._name,
                ssrc=ssrc,
                rtx_ssrc=rtx_ssrc if section.kind == "video" else None,
                # Redundant audio is taken apart for it: then what is lost can be asked for, whoever is heard there.
                codecs=[mime for mime in negotiation.policy.send if mime != RED],
            )
            if negotiation.add_sender(sender) is None:
                negotiation.remove_sender(sender)
            else:
                self._places.append(_Place(sender))

    def has_place(self, kind: str, mimes: Collection[str]) -> bool:
        """Whether a place is free that one of the codecs fits."""
        return self._free(kind, mimes) is not None

    def send(self, sender: Sender) -> Sender:
        """Take a place for the track."""
        place = self._free(sender.kind, sender.codecs)
        if place is None:
            raise UsageError("session: no place for this track")
        place.taken = True
        return place.sender

    def withdraw(self, sender: Sender, left_off: LeftOff | None) -> None:
        """Free the place; the client sees a stream that pauses."""
        place = self._of(sender)
        place.taken = False
        place.left_off = left_off or place.left_off

    def left_off(self, sender: Sender) -> LeftOff | None:
        """Where the place's stream stands."""
        return self._of(sender).left_off

    def _free(self, kind: str, mimes: Collection[str]) -> _Place | None:
        wanted = {mime.lower() for mime in mimes}
        for place in self._places:
            codecs = place.sender.negotiated
            if not place.taken and place.sender.kind == kind and any(each.mime.lower() in wanted for each in codecs):
                return place
        return None

    def _of(self, sender: Sender) -> _Place:
        return next(place for place in self._places if place.sender is sender)

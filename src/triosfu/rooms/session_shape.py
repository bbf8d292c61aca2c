"""The two shapes of a session: which peer connection carries what, and who offers.

Nothing else in rooms asks whether a session has one peer connection or two (protocol reference, section 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from livekit.protocol import rtc

from triosfu.peer import PeerConnection, PeerState

if TYPE_CHECKING:
    from triosfu.peer import PeerHandler

RELIABLE, LOSSY, DATA_TRACK = "_reliable", "_lossy", "_data_track"


class PeerFactory(Protocol):
    """Makes the peer connections of this server, with its mux, certificate and policy."""

    def __call__(self, *, name: str, handler: PeerHandler, single: bool, offerer: bool) -> PeerConnection:
        """Return a new peer connection that nobody runs yet."""


class SessionShape(Protocol):
    """Where things go in one session."""

    single: bool
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


class DualShape:
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
        return self.subscriber if target == rtc.SignalTarget.SUBSCRIBER else self.publisher

    def target(self, peer: PeerConnection) -> rtc.SignalTarget:
        """Return the name that clients have for `peer`."""
        return rtc.SignalTarget.SUBSCRIBER if peer is self.subscriber else rtc.SignalTarget.PUBLISHER

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


class SingleShape:
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
        return self.primary if target == rtc.SignalTarget.PUBLISHER else None

    def target(self, peer: PeerConnection) -> rtc.SignalTarget:  # noqa: ARG002  one answer for all
        """Return the name that clients have for the one."""
        return rtc.SignalTarget.PUBLISHER

    def prepare_data(self) -> None:
        """Prepare nothing: the client's offer has the section."""

    def open_channels(self) -> bool:
        """Open none: the client's are used both ways (trap 33)."""
        return False

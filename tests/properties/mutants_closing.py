"""Connections that close badly: mutants of the driver, for the properties of closing (P10, P13, P14, P22 to P24)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.properties.mutants import Mutant, never
from triosfu.ice.consent import Consent
from triosfu.net.address import unpack
from triosfu.net.udp import UdpMux
from triosfu.peer.connection import PeerConnection
from triosfu.peer.state import PeerState
from triosfu.peer.transport import Transport
from triosfu.stun.wire import Message

if TYPE_CHECKING:
    from triosfu.net.udp import Route, _Port

_close = PeerConnection.close
_transport_close = Transport.close
_dispatch = UdpMux._dispatch
_remove = UdpMux.remove
_move = PeerConnection._move
_kept: list[object] = []  # what a mutant does not let go of


def _close_once_more(self: PeerConnection, reason: str) -> None:
    """A close that does not know that it is one too many."""
    if self.state is PeerState.CLOSED:
        self.state = PeerState.DISCONNECTED
    _close(self, reason)


def _close_after_the_handshake(self: PeerConnection, reason: str) -> None:
    if self.state is not PeerState.CONNECTING or self._transport._dtls is None:
        _close(self, reason)


def _close_when_acknowledged(self: PeerConnection, reason: str) -> None:
    """What was promised to be sent is sent first."""
    if not self._data.total_buffered:
        _close(self, reason)


def _close_when_channels_are_over(self: PeerConnection, reason: str) -> None:
    """Every channel is closed in good order first."""
    channels = list(self._channels.values())
    for channel in channels:
        channel.close()
    if not self._channels:
        _close(self, reason)


def _close_without_a_word(self: Transport, reason: str) -> None:
    self._dtls = None
    _transport_close(self, reason)


def _remove_but_not_the_tuples(self: UdpMux, route: Route) -> None:
    holdings = self._routes.get(route)
    if holdings is not None:
        holdings.tuples.clear()
    _remove(self, route)


def _close_and_remember(self: PeerConnection, reason: str) -> None:
    _kept.append(self)
    _close(self, reason)


def _close_and_keep_the_last_words(self: PeerConnection, reason: str) -> None:
    """A list of reasons that nobody ever empties."""
    _kept.append(bytes(10_000))
    _close(self, reason)


def _bind_whoever_comes(self: UdpMux, port: _Port, slot: int, now: float) -> None:
    """A datagram of an address that is not known is for the only peer there is."""
    source = port.inbox.sources[slot]
    if source not in self._by_tuple and len(self._routes) == 1:
        self.bind(unpack(source), next(iter(self._routes)), proven=False)
    _dispatch(self, port, slot, now)


def _any_signature(self: Message, key: bytes) -> bool:
    return bool(key) and self is not None


def _look_only_for_questions(self: Consent) -> float:
    return self._ask_at


def _not_when_silent(self: PeerConnection, state: PeerState, reason: str) -> None:
    """There may be an answer yet."""
    if state is not PeerState.FAILED:
        _move(self, state, reason)


P10 = "test_p10_no_leak::test_p10_"
P13 = "test_p13_close_in_each_state::test_p13_"
P14 = "test_p14_the_peer_learns::test_p14_"
P22 = "test_p22_dtls_gate::test_p22_"
P23 = "test_p23_consent::test_p23_"
P24 = "test_p24_order_of_teardown::test_p24_"

MUTANTS = [
    Mutant(
        "the mux keeps addresses of a connection that is over",
        P10 + "nothing_is_left_of_a_connection",
        UdpMux,
        "remove",
        _remove_but_not_the_tuples,
    ),
    Mutant(
        "a connection that is over stays in a list",
        P10 + "nothing_is_left_of_a_connection",
        PeerConnection,
        "close",
        _close_and_remember,
    ),
    Mutant(
        "each close leaves ten kilobytes",
        P10 + "a_thousand_connections_leave_the_memory_as_it_was",
        PeerConnection,
        "close",
        _close_and_keep_the_last_words,
    ),
    Mutant("close is told twice", P13 + "close_at_any_moment", PeerConnection, "close", _close_once_more),
    Mutant(
        "during the handshake close has no effect",
        P13 + "close_at_any_moment",
        PeerConnection,
        "close",
        _close_after_the_handshake,
    ),
    Mutant(
        "goodbyes are not sent",
        P14 + "the_peer_knows_within_a_round_trip",
        Transport,
        "close",
        _close_without_a_word,
    ),
    Mutant(
        "an address is bound by any datagram",
        P22 + "a_stranger_is_not_heard_and_gets_no_answer",
        UdpMux,
        "_dispatch",
        _bind_whoever_comes,
    ),
    Mutant(
        "the signature of a check is not looked at",
        P22 + "a_stranger_is_not_heard_and_gets_no_answer",
        Message,
        "signed_with",
        _any_signature,
    ),
    Mutant(
        "consent never runs out",
        P23 + "a_black_hole_ends_a_connection_with_or_without_data",
        Consent,
        "lost",
        never,
        also=((Consent, "next_timeout", _look_only_for_questions),),
    ),
    Mutant(
        "a connection that does not come up is waited for",
        P23 + "a_black_hole_while_connecting_ends_it_too",
        PeerConnection,
        "_move",
        _not_when_silent,
    ),
    Mutant(
        "close waits until what was sent is acknowledged",
        P24 + "close_while_several_queues_are_full",
        PeerConnection,
        "close",
        _close_when_acknowledged,
    ),
    Mutant(
        "close waits for every channel's own close",
        P24 + "close_while_several_queues_are_full",
        PeerConnection,
        "close",
        _close_when_channels_are_over,
    ),
]

"""Broken drivers: a peer connection, its channels and its waiting place with something wrong in them.

Among them are the conditions of the wedge that live in a driver: an OPEN that is waited for inside a description, a
gate that all channels share, and one that tells of an edge instead of a level, wakes one writer of many, or does not
tell of the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tests.properties.mutants import Mutant, never, nothing
from triosfu.datachannel.core import DataChannels
from triosfu.errors import PeerGone
from triosfu.peer.channel import OVER, ChannelState, DataChannel
from triosfu.peer.connection import PeerConnection
from triosfu.peer.waiting import WaitingPlace
from triosfu.sctp.liveness import Liveness

if TYPE_CHECKING:
    from triosfu.sdp.negotiation import Changes

_accept_answer = PeerConnection.accept_answer
_drain = PeerConnection._drain
_collect = DataChannels._collect


async def _open_inline(self: PeerConnection, sdp: str) -> Changes:
    """The answer is applied once every channel is open."""
    changes = _accept_answer(self, sdp)
    for channel in list(self._channels.values()):
        while channel.state is ChannelState.CONNECTING:
            await self.waiting.wait_until(lambda channel=channel: channel.state is not ChannelState.CONNECTING)  # type: ignore[misc]
    return changes


def _one_gate(self: DataChannel) -> bool:
    if self.state is ChannelState.OPEN:
        return self._peer._data.total_buffered < self._peer.settings.high_water
    return self.state in OVER


def _tell_when_drained(self: PeerConnection, now: float) -> None:
    """Writers are told when sending has emptied the queue, and at no other time."""
    queue = self._data._association._connection.outbound.queue
    was_empty = queue.empty
    self.waiting.notify = nothing  # type: ignore[method-assign]
    try:
        _drain(self, now)
    finally:
        del self.waiting.notify
    if queue.empty and not was_empty:
        self.waiting.notify()


def _wake_one(self: WaitingPlace) -> None:
    self._parked.unpark()


def _wake_nobody(self: WaitingPlace, reason: str) -> None:
    self._ended = self._ended or reason


def _leave_the_line(self: DataChannel, state: ChannelState) -> None:
    """The writer whose turn it is learns of it; those behind it, one after the other."""
    self.state = state


def _leave_the_closing(self: DataChannel, state: ChannelState) -> None:
    """Writers of a channel that is closing, but not closed, are left where they are."""
    self.state = state
    if state is ChannelState.CLOSED:
        self._line.unpark_all()


def _settled_when_closed(self: DataChannel) -> bool:
    if self.state is ChannelState.OPEN:
        return self.buffered < self._peer.settings.high_water
    return self.state is ChannelState.CLOSED


async def _look_at_the_gate_alone(self: DataChannel, data: bytes, *, binary: bool = True) -> None:
    """Who is woken asks whether there is room, and not whether there is anything left to send on."""
    while self.state is not ChannelState.OPEN or self.buffered >= self._peer.settings.high_water:
        await self._peer.waiting._parked.park()
    self._peer.send_message(self, data, binary=binary)
    await trio.lowlevel.checkpoint()


async def _keep_the_turn(self: DataChannel, data: bytes, *, binary: bool = True) -> None:
    """A writer that is cancelled does not hand its turn on."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if self._taken and self.state not in OVER:
        await self._line.park()
    self._taken = True
    await self._peer.waiting.wait_until(self._settled)
    gone = self.state in OVER or not self._peer.send_message(self, data, binary=binary)
    self._taken = bool(self._line)
    self._line.unpark()
    if gone:
        raise PeerGone("the data channel is closed")


async def _queue_first(self: DataChannel, data: bytes, *, binary: bool = True) -> None:
    """The message is queued, and then room is waited for."""
    await self._peer.waiting.wait_until(lambda: self.state is not ChannelState.CONNECTING)
    if self.state in OVER or not self._peer.send_message(self, data, binary=binary):
        raise PeerGone("the data channel is closed")
    await self._peer.waiting.wait_until(self._settled)


async def _half_and_half(self: DataChannel, data: bytes, *, binary: bool = True) -> None:
    """Half of it goes, and the other half when there is room again."""
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        await self._peer.waiting.wait_until(self._settled)
        if self.state in OVER or not self._peer.send_message(self, part, binary=binary):
            raise PeerGone("the data channel is closed")


def _read_in_turn(self: DataChannels, now: float) -> None:
    """While anything is missing nothing is read, on whatever stream."""
    inbound = self._association._connection.inbound
    if inbound is None or not inbound.has_gaps:
        _collect(self, now)


P1 = "test_p01_descriptions::test_p1_a_description_is_applied_at_once_with_any_number_of_channels_before_it"
P3 = "test_p03_close::test_p3_no_writer_outlives_its_connection_however_and_whenever_that_is_ended"
P3_CHANNEL = "test_p03_close::test_p3_closing_a_channel_releases_its_writers_and_no_others"
P4 = "test_p04_association_death::test_p4_no_writer_outlives_the_association"
P7 = "test_p07_gate::GateMachine"
P8 = "test_p08_independent_streams::test_p8_a_writer_with_room_on_its_own_channel_is_never_parked"
P8_HALF = "test_p08_independent_streams::test_p8_half_an_open_keeps_no_other_channel_from_opening"
P9 = "test_p09_cancel::CancelMachine"

MUTANTS = [
    Mutant("applying an answer waits for every OPEN", P1, PeerConnection, "accept_answer", _open_inline, wedge=1),
    Mutant("one gate for all channels", P8, DataChannel, "_settled", _one_gate, wedge=3),
    Mutant(
        "writers are told when everything is sent, not when there is room",
        P7,
        PeerConnection,
        "_drain",
        _tell_when_drained,
        number=7,
        wedge=4,
    ),
    Mutant("one writer is woken for each notice", P7, WaitingPlace, "notify", _wake_one, number=7, wedge=4),
    Mutant("the end wakes nobody", P3, WaitingPlace, "end", _wake_nobody, wedge=4),
    Mutant("who is woken looks at the gate alone", P3, DataChannel, "send", _look_at_the_gate_alone, wedge=4),
    Mutant("the end is told to the first writer of a channel alone", P3, DataChannel, "over", _leave_the_line),
    Mutant(
        "writers on a closing channel wait until it is closed",
        P3_CHANNEL,
        DataChannel,
        "_settled",
        _settled_when_closed,
        also=((DataChannel, "over", _leave_the_closing),),
    ),
    Mutant(
        "nobody minds that the peer shuts down",
        P4,
        DataChannel,
        "_settled",
        _settled_when_closed,
        also=((DataChannel, "over", _leave_the_closing),),
    ),
    Mutant("the end of the association closes no channel", P4, DataChannels, "_close_all", nothing),
    Mutant("the end of the transport goes unheard", P4, PeerConnection, "transport_ended", nothing),
    Mutant("writers wait for an association that never gives up", P4, Liveness, "failed", never, wedge=5),
    Mutant("a cancelled writer keeps its turn", P7, DataChannel, "send", _keep_the_turn, number=7),
    Mutant("what is missing on one stream stops the reading of all", P8_HALF, DataChannels, "_collect", _read_in_turn),
    Mutant("a message is queued before there is room", P9, DataChannel, "send", _queue_first, number=9),
    Mutant("a message goes in two halves", P9, DataChannel, "send", _half_and_half, number=9),
]

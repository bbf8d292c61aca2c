"""Broken cores, one or more for each property: what a property does not catch in these it does not show in ours.

A mutant is a list of patches, each a class, the name of a method and what replaces it. Among them are the conditions of
the wedge that live in a core: opens without a deadline, and a T3 that never gives up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from triosfu.datachannel.channel import ChannelClosed
from triosfu.datachannel.core import DataChannels
from triosfu.sctp import inbound, opening, receiving
from triosfu.sctp.congestion import CongestionWindow
from triosfu.sctp.connection import Connection
from triosfu.sctp.events import Ended
from triosfu.sctp.handshake import Handshake
from triosfu.sctp.inbound import Inbound
from triosfu.sctp.liveness import Liveness
from triosfu.sctp.outbound import Outbound
from triosfu.sctp.state import OPENING, State
from triosfu.sctp.timers import Timer, Timers
from triosfu.sctp.transmission import Transmission
from triosfu.sctp.wire import CookieAck

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from triosfu.datachannel.channel import Channel
    from triosfu.sctp.capabilities import Peer
    from triosfu.sctp.cookie import Cookie
    from triosfu.sctp.inbound import _Run
    from triosfu.sctp.state import On
    from triosfu.sctp.wire import Chunk, ForwardTsn, Init, Sack


@dataclass(frozen=True)
class Mutant:
    """`name` says what is wrong with it, `test` is the property that has to notice.

    The number of the property is in the name of the test; `number` says it where that is a machine, or checks several.
    """

    name: str
    test: str  # "module::name" in this folder
    owner: type | ModuleType
    method: str
    replacement: Any
    number: int | None = None
    wedge: int | None = None  # which of the wedge's five conditions this puts back, if it does
    also: tuple[tuple[type | ModuleType, str, Callable[..., Any]], ...] = ()  # more patches: owner, method, replacement

    @property
    def patches(self) -> tuple[tuple[type | ModuleType, str, Callable[..., Any]], ...]:
        """All that is replaced."""
        return (self.owner, self.method, self.replacement), *self.also


def nothing(*_arguments: object, **_keywords: object) -> None:
    """Do not do it."""


def never(*_arguments: object) -> bool:
    return False


def always(*_arguments: object) -> bool:
    return True


_apply_sack = Outbound.receive_sack
_report = DataChannels._report
_finish = Connection.finish
_answer = Handshake.answer
_pop_expired = Timers.pop_expired
_forward = Inbound.receive_forward
_sack = Inbound.sack
_established = opening._established
_forget = Inbound._forget
_run_t3 = Transmission._run_t3
_other_tag = receiving.receive_with_other_tag


def _window_first(self: Outbound, sack: Sack, now: float) -> object:
    self.a_rwnd = sack.a_rwnd
    return _apply_sack(self, sack, now)


def _any_forward(self: Inbound, forward: ForwardTsn) -> None:
    for stream_id, *_, ssn in forward.streams:
        self._next_ssn[stream_id] = ssn
    _forward(self, forward)


def _walk_the_gap(self: Inbound, forward: ForwardTsn) -> None:
    for _tsn in range(self.cumulative, self.cumulative + min(forward.cumulative_tsn, 1_000_000)):
        pass
    _forward(self, forward)


def _report_twice(self: DataChannels, channel: Channel, reason: str) -> None:
    _report(self, channel, reason)
    self._events.append(ChannelClosed(channel.id, reason))


def _end_twice(self: Connection, on: On, reason: str) -> None:
    _finish(self, on, reason)
    self.events.append(Ended(reason))


def _answer_with_another_tag(self: Handshake, init: Init, peer: Peer, now: float, *, opening: bool) -> None:
    _answer(self, init, peer, now, opening=opening and self.peer is not None)


def _any_tag(connection: Connection, chunk: Chunk, tag: int, *, alone: bool) -> None:
    if connection.state in OPENING:
        _other_tag(connection, chunk, tag, alone=alone)
    else:
        receiving.receive_chunks(connection, [chunk])


def _established_for_sure(connection: Connection) -> None:
    connection.liveness.proven()
    _established(connection)


def _leave_armed(self: Timers, now: float) -> list[Timer]:
    due = _pop_expired(self, now)
    self.update(dict.fromkeys(due, now))
    return due


def _no_t3(self: Transmission, now: float) -> None:
    _run_t3(self, now)
    self._timers.pop(Timer.T3_RTX, None)


def _no_heartbeat(self: Connection) -> None:
    self.timers.pop(Timer.HEARTBEAT, None)


def _keep_the_window(self: CongestionWindow) -> None:
    self._halve()


def _flood(self: Transmission) -> None:
    self._burst += self._settings.max_burst


def _forget_half(self: Inbound, run: _Run) -> None:
    """The room of fragments that are let go of stays taken."""
    held = self.held
    _forget(self, run)
    self.held = held


def _open_window(self: Inbound) -> Sack:
    return replace(_sack(self), a_rwnd=self._buffer)


def _survive_restart(connection: Connection, cookie: Cookie) -> bool:
    """The peer's new association takes the place of the old one, and nobody is told."""
    if connection.state is State.ESTABLISHED:
        connection.handshake.restart(cookie)
        connection.adopt(cookie.peer)
    return True


MUTANTS = [
    Mutant(
        "opens have no deadline",
        "test_p02_p12_channels::test_p2_an_open_is_settled_in_time_behind_any_black_hole_and_any_queue",
        DataChannels,
        "_arm",
        nothing,
        wedge=2,
    ),
    Mutant(
        "T3 never gives up",
        "test_p05_silence::test_p5_nothing_that_is_under_way_outlives_silence",
        Liveness,
        "failed",
        never,
        wedge=5,
    ),
    Mutant(
        "no timer waits for the answer to DATA",
        "test_p05_silence::test_p5_nothing_that_is_under_way_outlives_silence",
        Transmission,
        "_run_t3",
        _no_t3,
    ),
    Mutant(
        "no answer proves life",
        "test_p06_no_false_abort::test_p6_a_path_that_answers_once_in_ten_seconds_is_kept",
        Liveness,
        "proven",
        nothing,
    ),
    Mutant(
        "channels live on in the next association",
        "test_p11_restart::test_p11_a_restart_of_the_peer_closes_every_channel_once",
        DataChannels,
        "_close_all",
        nothing,
    ),
    Mutant(
        "a restart goes unreported",
        "test_p11_restart::test_p11_a_restart_at_any_moment_drops_all_that_was_under_way",
        opening,
        "restart",
        _survive_restart,
    ),
    Mutant(
        "a channel ends twice",
        "test_p02_p12_channels::ChannelMachine",
        DataChannels,
        "_report",
        _report_twice,
        number=12,
    ),
    Mutant(
        "an association ends twice",
        "test_p12_p19_association::AssociationMachine",
        Connection,
        "finish",
        _end_twice,
        number=12,
    ),
    Mutant(
        "duplicates are taken",
        "test_p15_delivery::test_p15_every_reliable_message_arrives_once_and_in_order",
        Inbound,
        "_accept",
        always,
    ),
    Mutant(
        "abandoned messages are waited for",
        "test_p15_delivery::test_p15_partial_reliability_never_blocks",
        Inbound,
        "_skip",
        nothing,
    ),
    Mutant(
        "an end that came up by COOKIE ECHO has no doubts",
        "test_p16_simultaneous_open::test_p16_no_end_stays_up_alone_behind_a_black_hole",
        Connection,
        "doubt",
        nothing,
        also=((opening, "_established", _established_for_sure),),
    ),
    Mutant(
        "only a COOKIE ACK shows that the peer took the cookie",
        "test_p16_simultaneous_open::test_p16_lost_cookie_acks_do_not_matter_if_anything_else_arrives",
        receiving,
        "_FROM_ABOVE",
        frozenset({CookieAck}),
    ),
    Mutant(
        "while opening, an INIT is answered with another tag",
        "test_p16_simultaneous_open::test_p16_one_lost_packet_of_the_handshake_costs_nothing_but_time",
        Handshake,
        "answer",
        _answer_with_another_tag,
    ),
    Mutant(
        "the verification tag is not looked at",
        "test_p17_hostile_packet::test_p17_a_wrong_tag_changes_nothing",
        receiving,
        "receive_with_other_tag",
        _any_tag,
    ),
    Mutant(
        "the window is taken from a SACK before it is checked",
        "test_p18_hostile_control::test_p18_any_sack_is_applied_whole_or_not_at_all",
        Outbound,
        "receive_sack",
        _window_first,
    ),
    Mutant(
        "streams are skipped before a FORWARD-TSN is checked",
        "test_p18_hostile_control::test_p18_what_cannot_be_changes_neither_half",
        Inbound,
        "receive_forward",
        _any_forward,
    ),
    Mutant(
        "a FORWARD-TSN is walked through TSN by TSN",
        "test_p18_hostile_control::test_p18_what_cannot_be_changes_neither_half",
        Inbound,
        "receive_forward",
        _walk_the_gap,
    ),
    Mutant(
        "a timer that is due stays armed",
        "test_p12_p19_association::AssociationMachine",
        Timers,
        "pop_expired",
        _leave_armed,
        number=19,
    ),
    Mutant(
        "an idle association waits for ever",
        "test_p12_p19_association::AssociationMachine",
        Connection,
        "arm_heartbeat",
        _no_heartbeat,
        number=19,
    ),
    Mutant(
        "a time-out leaves the window as it is",
        "test_p20_congestion::CongestionMachine",
        CongestionWindow,
        "timed_out",
        _keep_the_window,
        number=20,
    ),
    Mutant(
        "bursts add up",
        "test_p20_congestion::test_p20_one_event_lets_out_four_packets_of_data_at_most",
        Transmission,
        "event",
        _flood,
    ),
    Mutant(
        "the window is advertised and not kept",
        "test_p21_slow_reader::test_p21_messages_that_wait_for_one_that_never_comes_hit_the_window",
        Inbound,
        "_check_memory",
        nothing,
    ),
    Mutant(
        "what is let go of still counts as held",
        "test_p21_slow_reader::test_p21_no_order_of_chunks_makes_us_hold_more_than_the_window_and_a_message",
        Inbound,
        "_forget",
        _forget_half,
    ),
    Mutant(
        "only the bytes of a message that waits count",
        "test_p21_slow_reader::test_p21_what_is_held_takes_no_more_memory_than_the_window_says",
        inbound,
        "WAITING_COST",
        0,
    ),
    Mutant(
        "only the bytes of fragments count",
        "test_p21_slow_reader::test_p21_what_is_held_takes_no_more_memory_than_the_window_says",
        inbound,
        "RUN_COST",
        0,
    ),
    Mutant(
        "the window that is told leaves out what is held",
        "test_p21_slow_reader::test_p21_no_order_of_chunks_makes_us_hold_more_than_the_window_and_a_message",
        Inbound,
        "sack",
        _open_window,
    ),
]

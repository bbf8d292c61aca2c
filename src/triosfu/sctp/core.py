"""One SCTP association, as WebRTC uses it over DTLS (RFC 9260, RFC 8261), without I/O.

Give it datagrams and time; after every call drain `events` and `datagrams_to_send` and sleep until `next_timeout`.
No call blocks, and no wait is without an end: silence ends the association after `max_retransmits` + 1 expiries.

This module is what a user sees. What a packet does is in `receiving`, what a timer does in `expiry`, the ways up and
down in `opening` and `closing`; all of them act on one `Connection`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket, UsageError
from triosfu.sctp import closing, opening
from triosfu.sctp.connection import Connection
from triosfu.sctp.events import Ended, Established, Event, Message, ResetDone, Restarted, StreamReset
from triosfu.sctp.expiry import expired
from triosfu.sctp.parameters import CauseCode, cause
from triosfu.sctp.receiving import receive_packet
from triosfu.sctp.sendqueue import OutMessage
from triosfu.sctp.settings import Settings
from triosfu.sctp.state import MAY_SEND_DATA, OPENING, State
from triosfu.sctp.violation import Violation

if TYPE_CHECKING:
    from collections import Counter
    from random import Random

__all__ = [
    "Association",
    "Ended",
    "Established",
    "Event",
    "Message",
    "ResetDone",
    "Restarted",
    "Settings",
    "State",
    "StreamReset",
]


class Association:
    """An association with one peer, from `connect` to `Ended`.

    Both ends may `connect`; a peer that does is answered in any case. `send` queues and never blocks; who sends much
    looks at `buffered`. Datagrams that are no valid SCTP are dropped and counted in `dropped`, by reason. Only what
    runs `over_dtls` may do without checksums (RFC 9653).
    """

    def __init__(
        self,
        *,
        now: float,
        rng: Random,
        local_port: int = 5000,
        remote_port: int = 5000,
        max_message_size: int = 262_144,
        over_dtls: bool = False,
        settings: Settings | None = None,
        initial_tsn: int | None = None,
    ) -> None:
        self._connection = Connection(
            now=now,
            rng=rng,
            ports=(local_port, remote_port),
            max_message_size=max_message_size,
            over_dtls=over_dtls,
            settings=settings or Settings(),
            initial_tsn=initial_tsn,
        )

    # What the user does

    @property
    def state(self) -> State:
        """Where the association is."""
        return self._connection.state

    @property
    def outbound_streams(self) -> int:
        """How many streams we may send on; final once established."""
        return self._connection.outbound_streams

    @property
    def partial_reliability(self) -> bool:
        """Can messages be given up? If not, all are reliable; final once established."""
        return self._connection.outbound.partial_reliability

    @property
    def interleaving(self) -> bool:
        """Do large messages on different streams share the way (RFC 8260)? Final once established."""
        return self._connection.outbound.interleaving

    @property
    def round_trip_time(self) -> float | None:
        """The smoothed round trip time in seconds, None before the first measurement."""
        return self._connection.rto.srtt

    @property
    def path_mtu(self) -> int:
        """The largest packet in bytes that is known to arrive."""
        return self._connection.path.size

    @property
    def dropped(self) -> Counter[str]:
        """How many packets and chunks were dropped, by reason."""
        return self._connection.dropped

    @property
    def total_buffered(self) -> int:
        """The sum of `buffered` over all streams."""
        return self._connection.outbound.queue.buffered

    def buffered(self, stream_id: int) -> int:
        """User bytes accepted on the stream and neither acknowledged nor given up. Urgent messages do not count."""
        return self._connection.outbound.queue.buffered_on(stream_id)

    def connect(self, now: float) -> None:
        """Start the handshake; nothing happens if the peer has started it already."""
        self._connection.advance(now)
        opening.connect(self._connection)

    def send(
        self,
        stream_id: int,
        data: bytes,
        *,
        ppid: int,
        now: float,
        ordered: bool = True,
        max_retransmits: int | None = None,
        lifetime: float | None = None,
        urgent: bool = False,
    ) -> None:
        """Queue a message; it goes out when the association is up and the windows let it.

        Args:
            stream_id: The stream, below `outbound_streams`.
            data: At least one byte.
            ppid: What `data` is, for the peer's user.
            now: The time.
            ordered: Deliver it after those before it on this stream.
            max_retransmits: Give the message up after so many retransmissions of any of its fragments.
            lifetime: Give the message up after so many seconds.
            urgent: Go ahead of all messages that are not; for a few small control messages.

        Raises:
            UsageError: The association is over or ending, the stream is being reset or does not exist, or `data` is
                empty. Nothing was queued.
        """
        connection = self._connection
        if connection.state is not State.ESTABLISHED and connection.state not in OPENING:
            raise UsageError(f"sctp: send in {connection.state.name}")
        if not data:
            raise UsageError("sctp: a message has at least one byte")
        if not 0 <= stream_id < connection.outbound_streams:
            raise UsageError(f"sctp: stream {stream_id} of {connection.outbound_streams}")
        if connection.reconfig.is_resetting(stream_id):
            raise UsageError(f"sctp: stream {stream_id} is being reset")
        connection.advance(now)
        queue = connection.outbound.queue
        queue.append(
            OutMessage(
                queue.stream(stream_id),
                data,
                ppid=ppid,
                unordered=not ordered,
                max_retransmits=max_retransmits,
                expires_at=math.inf if lifetime is None else now + lifetime,
                urgent=urgent,
            )
        )

    def reset_stream(self, stream_id: int, now: float) -> None:
        """End our side of the stream once what is queued on it is sent; `ResetDone` tells how it went."""
        connection = self._connection
        connection.advance(now)
        if connection.state is not State.ENDED and not connection.reconfig.is_resetting(stream_id):
            connection.reconfig.reset(stream_id)

    def is_resetting(self, stream_id: int) -> bool:
        """Has a reset of our side of the stream been asked for, and not been answered?"""
        return self._connection.reconfig.is_resetting(stream_id)

    def drop_unsent(self, stream_id: int) -> None:
        """Forget the messages of the stream of which nothing has been sent."""
        self._connection.outbound.queue.drop_unsent(stream_id)

    def withhold(self, size: int, now: float) -> None:
        """Tell the peer of a window that is smaller by `size` bytes: so much was delivered and is not taken yet."""
        connection = self._connection
        inbound = connection.inbound
        if inbound is None or connection.state is State.ENDED:
            return
        connection.advance(now)
        connection.transmission.sack_due |= size < inbound.untaken  # who waits for room is told of it
        inbound.untaken = size

    def abort(self, reason: str, now: float) -> None:
        """End the association now; the peer is told if it is known."""
        self._connection.advance(now)
        self._connection.abort(reason, cause(CauseCode.USER_ABORT, reason[:200]))

    def shutdown(self, now: float) -> None:
        """End the association when everything queued is acknowledged, or after a bounded time."""
        self._connection.advance(now)
        closing.shut_down(self._connection)

    # The core's vocabulary

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Take one packet from the peer. Never raises for what is in it: bad packets are dropped and counted."""
        connection = self._connection
        if connection.state is State.ENDED:
            return
        connection.now = now
        try:
            receive_packet(connection, data)
        except MalformedPacket:
            connection.dropped["malformed"] += 1
        except Violation as violation:
            connection.abort(str(violation), cause(violation.cause, str(violation)))
        connection.transmission.event()
        # At once, however many packets come together: each may cause a SACK and a burst of its own. But what our user
        # does about the events may go along with an answer.
        if not connection.packer.replies and (connection.transmission.sack_due or not connection.outbound.idle):
            self._transmit()

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing if called early."""
        connection = self._connection
        due = connection.timers.pop_expired(now)
        if not due:
            return
        connection.advance(now)
        for timer in due:
            if connection.state is not State.ENDED:
                expired(connection, timer)
        self._transmit()

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called, `math.inf` for never."""
        self._transmit()
        return self._connection.timers.next()

    def datagrams_to_send(self) -> list[bytes]:
        """The packets to send now, drained."""
        self._transmit()
        return self._connection.packer.drain()

    def probes_to_send(self) -> list[bytes]:
        """The packet, if there is one, that is to go now and must not be fragmented on its way, drained.

        It asks whether the path carries more than it is known to. Who cannot send such a thing drops it, and packets
        stay as they are.
        """
        return self._connection.packer.drain_probe()

    def limit_packets(self, size: int) -> None:
        """Try no packets of more than `size` bytes: the peer has no room for them."""
        self._connection.packet_limit = self._connection.path.limit = size

    def path_changed(self, now: float) -> None:
        """Packets take another way from now on: it is searched anew for the largest size."""
        self._connection.advance(now)
        self._connection.narrow_path(after=0.0)

    def events(self) -> list[Event]:
        """What has happened since the last call, drained."""
        events = self._connection.events
        if not events:
            return []
        drained = events[:]
        events.clear()
        return drained

    def _transmit(self) -> None:
        """Make packets of all that may go out at this time; again without a new input it makes none."""
        connection = self._connection
        state = connection.state
        if state is State.ESTABLISHED:
            connection.transmission.send(connection.inbound, connection.now, may_send_data=True)
            return
        if state is State.COOKIE_ECHOED:
            cookie_echo = connection.handshake.take_cookie_echo()
            if cookie_echo is not None:
                connection.transmission.send_behind_cookie(cookie_echo, connection.now)
        if state in OPENING or state is State.ENDED:
            if connection.packer.replies:
                connection.packer.flush_replies()
            return
        closing.drained(connection)
        may_send_data = connection.state in MAY_SEND_DATA
        connection.transmission.send(connection.inbound, connection.now, may_send_data=may_send_data)

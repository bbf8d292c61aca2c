"""Data channels on one SCTP association (RFC 8831, RFC 8832), without I/O.

`open` never waits for the network: it arms a deadline, and then exactly one `ChannelClosed` ends each channel, whether
the peer acknowledges, resets, falls silent, restarts or goes away.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from triosfu.datachannel.channel import (
    Channel,
    ChannelClosed,
    ChannelInfo,
    ChannelMessage,
    ChannelOpened,
    ChannelState,
)
from triosfu.datachannel.wire import BINARY_PPIDS, EMPTY_PPIDS, TEXT_PPIDS, Ack, Open, Ppid, parse_dcep
from triosfu.errors import MalformedPacket, UsageError
from triosfu.sctp.events import Ended, Established, Message, ResetDone, Restarted, StreamReset
from triosfu.sctp.state import OPENING, State

if TYPE_CHECKING:
    from triosfu.sctp.core import Association

__all__ = [
    "ChannelClosed",
    "ChannelInfo",
    "ChannelMessage",
    "ChannelOpened",
    "ChannelState",
    "DataChannels",
    "Ended",
    "Event",
]

Event = ChannelOpened | ChannelMessage | ChannelClosed | Ended

DEFAULT_REMOTE_MAX_MESSAGE_SIZE = 65_536  # RFC 8841, section 6.1
_HIGHEST_STREAM = 65_534  # 65535 is no valid id (RFC 8832, section 6)
_STRAYS_UNTIL_RESET = 8  # unordered data may overtake its OPEN; this much of it is forgiven
_MAX_STRAY_STREAMS = 64
_MAX_REFUSED = 256
_MAX_HELD = 32
_LARGEST_MESSAGE = 1 << 26  # also for a peer that sets no limit


class DataChannels:
    """The channels of one association.

    Channel ids are handles of our own, never reused; the SCTP stream behind one is in `info`. Streams are even for the
    DTLS client, odd for the server; channels opened before the role is known get theirs from `set_role`.
    """

    def __init__(
        self,
        association: Association,
        *,
        dtls_client: bool | None,
        open_timeout: float = 10.0,
        close_timeout: float = 10.0,
        max_channels_by_peer: int = 256,
    ) -> None:
        self._association = association
        self._dtls_client = dtls_client
        self._open_timeout, self._close_timeout = open_timeout, close_timeout
        self._max_channels_by_peer = max_channels_by_peer
        self.remote_max_message_size = DEFAULT_REMOTE_MAX_MESSAGE_SIZE  # as in the peer's SDP; 0 is "no limit"
        self._next_id = 0
        self._channels: dict[int, Channel] = {}
        self._by_stream: dict[int, Channel] = {}  # also channels that are over whose stream is not free yet
        self._deadlines: list[tuple[float, int]] = []  # heap of (when, channel id): opening or closing takes too long
        self._strays: dict[int, int] = {}  # messages on streams without a channel
        self._refused: set[int] = set()  # streams for us to open that the peer has used, and not reset yet
        self._events: list[Event] = []

    # What the user does

    def set_role(self, *, dtls_client: bool, now: float) -> None:
        """Learn the DTLS role: channels that were opened before get their streams."""
        if self._dtls_client is None:
            self._dtls_client = dtls_client
            for channel in list(self._channels.values()):
                self._start(channel, now)
            self._collect(now)

    def connect(self, now: float) -> None:
        """Start the association; DTLS is up."""
        self._association.connect(now)
        self._collect(now)

    def open(
        self,
        label: str,
        *,
        protocol: str = "",
        ordered: bool = True,
        max_retransmits: int | None = None,
        lifetime: float | None = None,
        negotiated: int | None = None,
        now: float,
    ) -> int:
        """Open a channel and return its id at once.

        Within `open_timeout` seconds from now it has been reported as opened or as closed. Messages may be sent on it
        right away; they follow the OPEN. With `negotiated`, the stream that the peer's user has agreed to, there is no
        OPEN: the channel is open as soon as the association is up.

        Raises:
            UsageError: The association is over or ending, or label or protocol are longer than 65535 bytes, or both
                `max_retransmits` and `lifetime` are given, or the `negotiated` stream is in use or cannot be.
        """
        if max_retransmits is not None and lifetime is not None:
            raise UsageError("datachannel: max_retransmits and lifetime exclude each other")
        if max(len(label.encode()), len(protocol.encode())) > 0xFFFF:
            raise UsageError("datachannel: label and protocol have at most 65535 bytes")
        if self.ending:
            raise UsageError(f"datachannel: open in {self._association.state.name}")
        if negotiated is not None and not self._is_free(negotiated):
            raise UsageError(f"datachannel: stream {negotiated} is in use, or is none")
        request = Open.for_channel(label, protocol, ordered=ordered, max_retransmits=max_retransmits, lifetime=lifetime)
        channel = self._new(None, request, by_peer=False)
        self._arm(channel, now + self._open_timeout)
        if negotiated is None:
            self._start(channel, now)
        else:
            channel.negotiated, channel.stream_id = True, negotiated
            self._by_stream[negotiated] = channel
            self._strays.pop(negotiated, None)
            if self.established:
                self._opened(channel)
        self._collect(now)
        return channel.id

    def send(self, channel_id: int, data: bytes, *, binary: bool = True, now: float) -> None:
        """Queue a message. Never blocks; who sends much looks at `buffered`.

        Raises:
            UsageError: The channel is closing or closed, or the message is larger than the peer accepts. Nothing was
                queued.
        """
        channel = self._channels.get(channel_id)
        if channel is None or channel.state is ChannelState.CLOSING:
            raise UsageError(f"datachannel: channel {channel_id} is closed")
        most = self.remote_max_message_size or _LARGEST_MESSAGE
        if len(data) > most:
            raise UsageError(f"datachannel: a message of {len(data)} bytes; the peer takes {most}")
        if data:
            ppid = Ppid.BINARY if binary else Ppid.TEXT
        else:
            ppid, data = Ppid.BINARY_EMPTY if binary else Ppid.TEXT_EMPTY, b"\0"
        if channel.stream_id is None:
            channel.pending.append((data, ppid))
            channel.pending_size += len(data)
        else:
            self._send(channel, channel.stream_id, data, ppid, now)

    def close(self, channel_id: int, now: float) -> None:
        """Close a channel after what is queued on it; `ChannelClosed` follows within `close_timeout` seconds.

        Closing a channel that is closing or closed does nothing.
        """
        channel = self._channels.get(channel_id)
        if channel is None or channel.state is ChannelState.CLOSING:
            return
        if channel.stream_id is None:
            self._forget(channel, "closed")
            return
        self._arm(channel, min(channel.deadline, now + self._close_timeout))  # an open that is closed keeps its bound
        self._reset(channel, now)
        self._collect(now)

    def abort(self, reason: str, now: float) -> None:
        """End the association and all channels now."""
        self._association.abort(reason, now)
        self._collect(now)

    def shutdown(self, now: float) -> None:
        """End the association and all channels after what is queued."""
        self._association.shutdown(now)
        self._collect(now)

    def withhold(self, size: int, now: float) -> None:
        """Make the peer's window smaller by `size` bytes, which were delivered and are not taken yet."""
        self._association.withhold(size, now)

    def buffered(self, channel_id: int) -> int:
        """User bytes accepted on the channel and neither acknowledged nor given up; 0 once it is closed."""
        channel = self._channels.get(channel_id)
        if channel is None:
            return 0
        if channel.stream_id is None:
            return channel.pending_size
        return self._association.buffered(channel.stream_id)

    @property
    def total_buffered(self) -> int:
        """The sum of `buffered` over all channels that have a stream."""
        return self._association.total_buffered

    @property
    def established(self) -> bool:
        """Is the association up?"""
        return self._association.state is State.ESTABLISHED

    @property
    def ending(self) -> bool:
        """Is the association shutting down, or over? Then nothing more is taken, on any channel."""
        state = self._association.state
        return state is not State.ESTABLISHED and state not in OPENING

    def info(self, channel_id: int) -> ChannelInfo:
        """What the channel is.

        Raises:
            UsageError: No such channel, or it is closed.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            raise UsageError(f"datachannel: there is no channel {channel_id}")
        return channel.info()

    def channels(self) -> list[ChannelInfo]:
        """All channels that are not closed."""
        return [channel.info() for channel in self._channels.values()]

    # The core's vocabulary

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Take one SCTP packet from the peer. Never raises for what is in it."""
        self._association.receive_datagram(data, now)
        self._collect(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing if called early."""
        self._association.handle_timeout(now)
        self._collect(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, channel_id = heapq.heappop(self._deadlines)
            channel = self._channels.get(channel_id)
            if channel is not None and channel.deadline == deadline:
                self._too_late(channel, now)
        self._collect(now)

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called, `math.inf` for never."""
        deadline = self._deadlines[0][0] if self._deadlines else math.inf
        return min(self._association.next_timeout(), deadline)

    def datagrams_to_send(self) -> list[bytes]:
        """The SCTP packets to send now, drained."""
        return self._association.datagrams_to_send()

    def probes_to_send(self) -> list[bytes]:
        """The SCTP packet, if there is one, that must not be fragmented on its way, drained."""
        return self._association.probes_to_send()

    def remote_max_packet_size(self, size: int) -> None:
        """Send no SCTP packets of more than `size` bytes, the smallest ones aside."""
        self._association.limit_packets(size)

    def path_changed(self, now: float) -> None:
        """Packets take another way from now on."""
        self._association.path_changed(now)

    def events(self) -> list[Event]:
        """What has happened since the last call, drained."""
        drained, self._events = self._events, []
        return drained

    # From the association

    def _collect(self, now: float) -> None:
        """Act on what the association reports, until that makes it report nothing more."""
        while events := self._association.events():
            for event in events:
                match event:
                    case Message():
                        self._receive(event, now)
                    case StreamReset(stream_id=stream_id):
                        self._peer_reset(stream_id, now)
                    case ResetDone(stream_id=stream_id, ok=ok):
                        self._reset_done(stream_id, now, ok=ok)
                    case Established():
                        self._check_streams()
                        self._open_negotiated()
                    case Restarted():
                        self._close_all("the peer restarted")
                    case Ended(reason=reason):
                        self._close_all(reason)
                        self._events.append(event)

    def _receive(self, message: Message, now: float) -> None:
        channel = self._by_stream.get(message.stream_id)
        if channel is not None and channel.peer_side_reset:
            # The peer knows that the stream is free before we do: its answer to our reset is still on the way.
            if len(channel.held) < _MAX_HELD:
                channel.held.append(message)
        elif message.ppid == Ppid.DCEP:
            self._receive_dcep(message, channel, now)
        elif channel is None:
            self._stray(message.stream_id, now)
        elif channel.state is not ChannelState.CLOSING:
            if channel.state is ChannelState.CONNECTING:
                self._opened(channel)  # who answers has read the OPEN
            if message.ppid in BINARY_PPIDS or message.ppid in TEXT_PPIDS:
                data = b"" if message.ppid in EMPTY_PPIDS else message.data
                self._events.append(ChannelMessage(channel.id, data, message.ppid in BINARY_PPIDS))

    def _receive_dcep(self, message: Message, channel: Channel | None, now: float) -> None:
        try:
            control = parse_dcep(message.data)
        except MalformedPacket as error:
            self._refuse(message.stream_id, channel, str(error), now)
            return
        if isinstance(control, Open):
            self._receive_open(message.stream_id, channel, control, now)
        elif channel is not None and channel.state is ChannelState.CONNECTING:
            self._opened(channel)

    def _receive_open(self, stream_id: int, channel: Channel | None, request: Open, now: float) -> None:
        if channel is not None and channel.negotiated:
            return  # nobody asked for it, and nothing depends on it
        if channel is not None:
            self._refuse(stream_id, channel, "the peer opened a stream that is in use", now)
            return
        wrong_parity = self._is_for_us(stream_id)
        unusable = stream_id > _HIGHEST_STREAM or stream_id >= self._association.outbound_streams
        unusable |= self._association.is_resetting(stream_id)
        too_many = sum(channel.by_peer for channel in self._by_stream.values()) >= self._max_channels_by_peer
        if wrong_parity or unusable or too_many or self._association.state is not State.ESTABLISHED:
            self._refuse(stream_id, None, "", now)
            return
        self._strays.pop(stream_id, None)
        channel = self._new(stream_id, request, by_peer=True)
        self._by_stream[stream_id] = channel
        self._association.send(stream_id, Ack().serialize(), ppid=Ppid.DCEP, now=now, urgent=True)
        self._events.append(ChannelOpened(channel.id, request.label, request.protocol, channel.ordered, True))

    def _refuse(self, stream_id: int, channel: Channel | None, reason: str, now: float) -> None:
        """Reset a stream on which the peer did what it may not; the association lives on."""
        if channel is None:
            if self._is_for_us(stream_id) and len(self._refused) < _MAX_REFUSED:
                self._refused.add(stream_id)  # the peer's reset is still to come, and means what was refused
            self._association.reset_stream(stream_id, now)
        elif channel.state is not ChannelState.CLOSING:
            self._report(channel, reason)
            self._association.drop_unsent(stream_id)
            self._reset(channel, now)

    def _stray(self, stream_id: int, now: float) -> None:
        strays = self._strays.get(stream_id, 0) + 1
        if strays < _STRAYS_UNTIL_RESET and (stream_id in self._strays or len(self._strays) < _MAX_STRAY_STREAMS):
            self._strays[stream_id] = strays
            return
        self._strays.pop(stream_id, None)
        self._refuse(stream_id, None, "", now)

    def _peer_reset(self, stream_id: int, now: float) -> None:
        self._strays.pop(stream_id, None)
        self._refused.discard(stream_id)
        channel = self._by_stream.get(stream_id)
        if channel is None:
            return
        if channel.peer_side_reset:
            # Of the next channel on the stream, whose OPEN is held: it was closed before the answer to our reset came.
            channel.held_reset = True
            return
        channel.peer_side_reset = True
        if channel.state is not ChannelState.CLOSING:
            # Nobody reads what we still have for it.
            self._association.drop_unsent(stream_id)
            self._report(channel, "closed by the peer")
            self._reset(channel, now)
        self._finish(channel, now)

    def _reset_done(self, stream_id: int, now: float, *, ok: bool) -> None:
        channel = self._by_stream.get(stream_id)
        if channel is None:
            return
        channel.side_reset = ok
        if ok:
            self._finish(channel, now)
        else:
            # The channel is over, but its stream cannot begin anew: it stays taken.
            self._report(channel, "closed")

    def _check_streams(self) -> None:
        """The peer may accept fewer streams than we have given to channels."""
        for channel in list(self._channels.values()):
            if channel.stream_id is not None and channel.stream_id >= self._association.outbound_streams:
                del self._by_stream[channel.stream_id]
                self._forget(channel, "the peer accepts no more streams")

    def _open_negotiated(self) -> None:
        for channel in list(self._channels.values()):
            if channel.negotiated and channel.state is ChannelState.CONNECTING:
                self._opened(channel)

    # Life of a channel

    def _new(self, stream_id: int | None, request: Open, *, by_peer: bool) -> Channel:
        channel = Channel(self._next_id, stream_id, request, by_peer=by_peer)
        self._next_id += 1
        self._channels[channel.id] = channel
        return channel

    def _start(self, channel: Channel, now: float) -> None:
        """Give the channel a stream and send its OPEN, if the role is known."""
        if self._dtls_client is None or channel.stream_id is not None:
            return
        stream_id = 0 if self._dtls_client else 1
        while self._is_taken(stream_id):
            stream_id += 2
        if not self._is_free(stream_id):
            self._forget(channel, "no stream is free")
            return
        channel.stream_id = stream_id
        self._by_stream[stream_id] = channel
        self._association.send(stream_id, channel.open.serialize(), ppid=Ppid.DCEP, now=now, urgent=True)
        for data, ppid in channel.pending:
            self._send(channel, stream_id, data, ppid, now)
        channel.pending.clear()

    def _is_free(self, stream_id: int) -> bool:
        exists = 0 <= stream_id <= _HIGHEST_STREAM and stream_id < self._association.outbound_streams
        return exists and not self._is_taken(stream_id)

    def _is_taken(self, stream_id: int) -> bool:
        in_use = stream_id in self._by_stream or stream_id in self._refused
        return in_use or self._association.is_resetting(stream_id)

    def _is_for_us(self, stream_id: int) -> bool:
        """Whether it is ours to open channels on, and not the peer's (RFC 8832, section 6)."""
        return self._dtls_client is not None and stream_id & 1 == (0 if self._dtls_client else 1)

    def _send(self, channel: Channel, stream_id: int, data: bytes, ppid: int, now: float) -> None:
        self._association.send(
            stream_id,
            data,
            ppid=ppid,
            now=now,
            # Until the peer has answered, nothing may overtake the OPEN (RFC 8832, section 6).
            ordered=channel.ordered or (channel.state is ChannelState.CONNECTING and not channel.negotiated),
            max_retransmits=channel.max_retransmits,
            lifetime=channel.lifetime,
        )

    def _opened(self, channel: Channel) -> None:
        channel.state = ChannelState.OPEN
        channel.deadline = math.inf
        request = channel.open
        self._events.append(ChannelOpened(channel.id, request.label, request.protocol, channel.ordered, False))

    def _reset(self, channel: Channel, now: float) -> None:
        """End our side of the channel."""
        channel.state = ChannelState.CLOSING
        if channel.stream_id is not None:
            self._association.reset_stream(channel.stream_id, now)

    def _finish(self, channel: Channel, now: float) -> None:
        """Free the stream when both sides are reset."""
        if not (channel.side_reset and channel.peer_side_reset):
            return
        self._report(channel, "closed")
        if channel.stream_id is not None:
            del self._by_stream[channel.stream_id]
            held, channel.held = channel.held, []
            for message in held:
                self._receive(message, now)
            if channel.held_reset:
                self._peer_reset(channel.stream_id, now)

    def _arm(self, channel: Channel, deadline: float) -> None:
        channel.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, channel.id))

    def _too_late(self, channel: Channel, now: float) -> None:
        """Give up waiting for the peer's answer to an OPEN or to a reset."""
        channel.deadline = math.inf
        if channel.state is ChannelState.CLOSING:
            self._report(channel, "closed, without an answer of the peer")
        elif channel.stream_id is None:
            self._forget(channel, "open timed out")
        else:
            self._report(channel, "open timed out")
            self._association.drop_unsent(channel.stream_id)
            self._reset(channel, now)

    def _report(self, channel: Channel, reason: str) -> None:
        """Say that the channel is over, once."""
        if not channel.reported:
            channel.reported = True
            del self._channels[channel.id]
            self._events.append(ChannelClosed(channel.id, reason))

    def _forget(self, channel: Channel, reason: str) -> None:
        """End a channel that the peer knows nothing of."""
        channel.state = ChannelState.CLOSING
        channel.pending.clear()
        self._report(channel, reason)

    def _close_all(self, reason: str) -> None:
        for channel in list(self._channels.values()):
            self._forget(channel, reason)
        self._by_stream.clear()
        self._strays.clear()
        self._refused.clear()
        self._deadlines.clear()

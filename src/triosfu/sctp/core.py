"""One SCTP association, as WebRTC uses it over DTLS (RFC 9260, RFC 8261), without I/O.

Give it datagrams and time; after every call drain `events` and `datagrams_to_send` and sleep until `next_timeout`.
No call blocks, and no wait is without an end: silence ends the association after `max_retransmits` + 1 expiries.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket, UsageError
from triosfu.sctp.capabilities import OURS, Capability, announced, unrecognized
from triosfu.sctp.cookie import Case, Cookie, CookieJar, judge
from triosfu.sctp.events import Ended, Established, Event, Message, ResetDone, Restarted, StreamReset
from triosfu.sctp.inbound import Inbound, Violation
from triosfu.sctp.outbound import Outbound
from triosfu.sctp.parameters import (
    CauseCode,
    OutgoingReset,
    ParameterType,
    ReconfigResponse,
    Tlv,
    cause,
    describe_causes,
    find,
    parse_reconfig,
)
from triosfu.sctp.reconfig import Reconfig
from triosfu.sctp.rto import RetransmissionTimeout
from triosfu.sctp.sendqueue import OutMessage
from triosfu.sctp.serial import TSN_MASK
from triosfu.sctp.state import MAY_RECEIVE_DATA, MAY_SEND_DATA, OPENING, TRANSITIONS, On, State
from triosfu.sctp.timers import Timer, Timers
from triosfu.sctp.wire import (
    COMMON_HEADER,
    PACKET_HEADER_SIZE,
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    Error,
    ForwardTsn,
    Heartbeat,
    IData,
    IForwardTsn,
    Init,
    PacketHeader,
    ReConfig,
    Sack,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Unknown,
    checksum_is_right,
    parse_chunks,
)

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Constants of an association; the defaults suit WebRTC."""

    mtu: int = 1191  # an SCTP packet in DTLS in TURN in UDP in IPv6, within 1280 bytes
    streams: int = 65535
    receive_buffer: int = 1 << 20
    # A peer delays its SACKs by 200 ms at most, so a lower minimum than RFC 9260's second is safe; the low maximum
    # makes eleven expiries take 33 s at most.
    rto_initial: float = 1.0
    rto_min: float = 0.4
    rto_max: float = 3.0
    max_init_retransmits: int = 8
    max_retransmits: int = 10
    max_burst: int = 4  # packets of DATA for each event
    delayed_sack: float = 0.2
    heartbeat_interval: float = 30.0
    cookie_life: float = 60.0


class Association:
    """An association with one peer, from `connect` to `Ended`.

    Both ends may `connect`; a peer that does is answered in any case. `send` queues and never blocks; who sends much
    looks at `buffered`. Datagrams that are no valid SCTP are dropped and counted in `dropped`, by reason.
    """

    def __init__(
        self,
        *,
        now: float,
        rng: Random,
        local_port: int = 5000,
        remote_port: int = 5000,
        max_message_size: int = 262_144,
        settings: Settings | None = None,
        initial_tsn: int | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._rng = rng
        self._now = now
        self._ports = (local_port, remote_port)
        self._max_message_size = max_message_size
        self._unit = (self._settings.mtu - PACKET_HEADER_SIZE) & ~3
        self._state = State.CLOSED
        self._tag = self._draw_tag()
        self._initial_tsn = rng.getrandbits(32) if initial_tsn is None else initial_tsn
        self._tie_tag = rng.getrandbits(64) | 1
        self._jar = CookieJar(life=self._settings.cookie_life)
        self._peer_tag = 0
        self._header = PacketHeader(local_port, remote_port, 0)
        self._rto = self._fresh_rto()
        self._outbound = self._fresh_outbound(self._initial_tsn)
        self._inbound: Inbound | None = None  # from the moment that the peer's initial TSN is known
        self._reconfig: Reconfig | None = None
        self._capabilities = Capability.NONE
        self._resets_wanted: dict[int, None] = {}  # streams to reset, asked for before the peer was known
        self._outbound_streams = self._settings.streams
        self._timers = Timers()
        self._attempts = 0  # of T1
        self._stale_cookies = 0
        self._errors = 0  # consecutive failures of the peer to answer
        self._init_sent_at = now
        self._cookie_echo = b""
        self._cookie_echo_due = False
        self._heartbeat_nonce: bytes | None = None
        self._replies: list[bytes] = []  # control chunks to bundle into the next packets
        self._reply_room = 0  # bytes of replies that the datagram at hand may still cause
        self._sack_due = False
        self._packets_unacknowledged = 0
        self._burst = 0
        self._outbox: list[bytes] = []
        self._events: list[Event] = []
        self.dropped: Counter[str] = Counter()

    # What the user does

    @property
    def state(self) -> State:
        """Where the association is."""
        return self._state

    @property
    def outbound_streams(self) -> int:
        """How many streams we may send on; final once established."""
        return self._outbound_streams

    @property
    def partial_reliability(self) -> bool:
        """Can messages be given up? If not, all are reliable; final once established."""
        return Capability.PARTIAL_RELIABILITY in self._capabilities

    @property
    def round_trip_time(self) -> float | None:
        """The smoothed round trip time in seconds, None before the first measurement."""
        return self._rto.srtt

    @property
    def total_buffered(self) -> int:
        """The sum of `buffered` over all streams."""
        return self._outbound.queue.buffered

    def buffered(self, stream_id: int) -> int:
        """User bytes accepted on the stream and neither acknowledged nor given up. Urgent messages do not count."""
        return self._outbound.queue.buffered_on(stream_id)

    def connect(self, now: float) -> None:
        """Start the handshake; nothing happens if the peer has started it already."""
        self._now = now
        if self._move(On.ASSOCIATE):
            self._send_init()

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
        if self._state not in OPENING and self._state is not State.ESTABLISHED:
            raise UsageError(f"sctp: send in {self._state.name}")
        if not data:
            raise UsageError("sctp: a message has at least one byte")
        if not 0 <= stream_id < self._outbound_streams:
            raise UsageError(f"sctp: stream {stream_id} of {self._outbound_streams}")
        if self.is_resetting(stream_id):
            raise UsageError(f"sctp: stream {stream_id} is being reset")
        self._now = now
        queue = self._outbound.queue
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
        self._now = now
        if self._state is State.ENDED or self.is_resetting(stream_id):
            return
        if self._reconfig is not None:
            self._start_reset(stream_id)
        else:
            self._resets_wanted[stream_id] = None

    def is_resetting(self, stream_id: int) -> bool:
        """Has a reset of our side of the stream been asked for, and not been answered?"""
        if self._reconfig is None:
            return stream_id in self._resets_wanted
        return self._reconfig.is_resetting(stream_id)

    def drop_unsent(self, stream_id: int) -> None:
        """Forget the messages of the stream of which nothing has been sent."""
        self._outbound.queue.drop_unsent(stream_id)

    def abort(self, reason: str, now: float) -> None:
        """End the association now; the peer is told if it is known."""
        self._now = now
        self._abort(reason, cause(CauseCode.USER_ABORT, reason[:200]))

    def shutdown(self, now: float) -> None:
        """End the association when everything queued is acknowledged, or after a bounded time."""
        self._now = now
        if self._move(On.SHUT_DOWN):
            self._timers[Timer.T5_GUARD] = now + 5 * self._settings.rto_max
        elif self._state in OPENING:
            self._end("shut down before it was up")

    # The core's vocabulary

    def receive_datagram(self, data: bytes, now: float) -> None:
        """Take one packet from the peer. Never raises for what is in it: bad packets are dropped and counted."""
        if self._state is State.ENDED:
            return
        self._now = now
        try:
            self._receive(data)
        except MalformedPacket:
            self.dropped["malformed"] += 1
        except Violation as violation:
            self._abort(str(violation), cause(violation.cause, str(violation)))

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing if called early."""
        due = self._timers.pop_expired(now)
        if not due:
            return
        self._now = now
        for timer in due:
            if self._state is not State.ENDED:
                self._expired(timer)
        self._transmit()

    def next_timeout(self) -> float:
        """When `handle_timeout` is to be called, `math.inf` for never."""
        self._transmit()
        return self._timers.next()

    def datagrams_to_send(self) -> list[bytes]:
        """The packets to send now, drained."""
        self._transmit()
        drained, self._outbox = self._outbox, []
        return drained

    def events(self) -> list[Event]:
        """What has happened since the last call, drained."""
        drained, self._events = self._events, []
        return drained

    # State

    def _move(self, on: On) -> bool:
        """Change the state if `on` may happen in it; False, and nothing has changed, if it may not."""
        after = TRANSITIONS.get((self._state, on))
        if after is None:
            return False
        self._state = after
        return True

    def _end(self, reason: str) -> None:
        """Be over: no timer, nothing queued, one last event."""
        if not self._move(On.END):
            return
        self._forget_all()
        self._events.append(Ended(reason))

    def _finish(self, on: On, reason: str) -> None:
        """The graceful end."""
        if self._move(on):
            self._transmit_replies()
            self._forget_all()
            self._events.append(Ended(reason))

    def _forget_all(self) -> None:
        self._timers.clear()
        self._replies.clear()
        self._cookie_echo_due = self._sack_due = False
        self._outbound = self._fresh_outbound(self._initial_tsn)
        self._inbound = None
        self._reconfig = None
        self._resets_wanted.clear()

    def _abort(self, reason: str, *causes: Tlv) -> None:
        """End the association and tell the peer why."""
        if self._state is State.ENDED:
            return
        header = self._header
        known = self._peer_tag != 0
        self._end(reason)
        if known:
            self._outbox.append(header.packet([Abort(False, causes).serialize()]))

    def _failed_once_more(self, what: str) -> None:
        """Count a sign of the peer's death; after too many in a row it is dead (RFC 9260, section 8.1)."""
        self._errors += 1
        self._rto.back_off()
        if self._errors > self._settings.max_retransmits:
            self._abort(f"{what} went unanswered too often", cause(CauseCode.USER_ABORT, "no answer"))

    def _peer_is_alive(self) -> None:
        self._errors = 0
        self._rto.recovered()

    def _draw_tag(self) -> int:
        return self._rng.randrange(1, 1 << 32)

    def _fresh_rto(self) -> RetransmissionTimeout:
        settings = self._settings
        return RetransmissionTimeout(initial=settings.rto_initial, minimum=settings.rto_min, maximum=settings.rto_max)

    def _fresh_outbound(self, initial_tsn: int) -> Outbound:
        return Outbound(initial_tsn=initial_tsn, unit=self._unit, rto=self._rto)

    # Handshake

    def _init(self, *, ack: bool, tag: int, tsn: int, parameters: tuple[Tlv, ...] = ()) -> Init:
        settings = self._settings
        return Init(ack, tag, settings.receive_buffer, settings.streams, settings.streams, tsn, (*parameters, *OURS))

    def _send_init(self) -> None:
        init = self._init(ack=False, tag=self._tag, tsn=self._initial_tsn)
        self._outbox.append(PacketHeader(*self._ports, 0).packet([init.serialize()]))
        self._init_sent_at = self._now
        self._timers[Timer.T1_INIT] = self._now + self._rto.value

    def _receive_init(self, init: Init) -> None:
        """Answer an INIT with a cookie; whatever our state, nothing in it changes before the cookie comes back."""
        if not init.tag or not init.outbound_streams or not init.inbound_streams or init.a_rwnd < 1500:
            self.dropped["init"] += 1
            return
        if self._state is State.SHUTDOWN_ACK_SENT:
            self._replies.append(ShutdownAck().serialize())
            return
        if self._state in OPENING:
            # The same values for every INIT: both ends may connect at once and must come to one association.
            tag, tsn, tie_tag = self._tag, self._initial_tsn, 0
        else:
            tag, tsn, tie_tag = self._draw_tag(), self._rng.getrandbits(32), self._tie_tag
        cookie = Cookie(
            made_at=self._now,
            local_tag=tag,
            peer_tag=init.tag,
            local_tsn=tsn,
            peer_tsn=init.tsn,
            peer_rwnd=init.a_rwnd,
            tie_tag=tie_tag,
            outbound_streams=init.outbound_streams,
            inbound_streams=init.inbound_streams,
            capabilities=announced(init),
        )
        sealed = Tlv(ParameterType.STATE_COOKIE, self._jar.seal(cookie))
        reply = self._init(ack=True, tag=tag, tsn=tsn, parameters=(sealed, *unrecognized(init)))
        self._outbox.append(PacketHeader(*self._ports, init.tag).packet([reply.serialize()]))

    def _receive_init_ack(self, init: Init) -> None:
        cookie = find(init.parameters, ParameterType.STATE_COOKIE)
        if not init.tag or not init.outbound_streams or not init.inbound_streams or init.a_rwnd < 1500 or not cookie:
            self.dropped["init ack"] += 1
            return
        if not self._move(On.INIT_ACK):
            return
        if self._attempts == 0:
            self._rto.measured(self._now - self._init_sent_at)
        self._adopt_peer(
            tag=init.tag,
            tsn=init.tsn,
            rwnd=init.a_rwnd,
            their_outbound=init.outbound_streams,
            their_inbound=init.inbound_streams,
            capabilities=announced(init),
        )
        self._timers.pop(Timer.T1_INIT, None)
        self._attempts = 0
        self._cookie_echo = CookieEcho(cookie).serialize()
        self._echo_cookie()

    def _echo_cookie(self) -> None:
        self._cookie_echo_due = True
        self._timers[Timer.T1_COOKIE] = self._now + self._rto.value

    def _adopt_peer(
        self, *, tag: int, tsn: int, rwnd: int, their_outbound: int, their_inbound: int, capabilities: Capability
    ) -> None:
        """Take over what the peer has announced, in INIT ACK or in the INIT behind a cookie."""
        settings = self._settings
        self._peer_tag = tag
        self._header = PacketHeader(*self._ports, tag)
        self._capabilities = capabilities
        self._outbound_streams = min(settings.streams, their_inbound)
        self._outbound.a_rwnd = rwnd
        self._outbound.partial_reliability = Capability.PARTIAL_RELIABILITY in capabilities
        self._inbound = Inbound(
            initial_tsn=tsn,
            buffer=settings.receive_buffer,
            max_message_size=self._max_message_size,
            streams=min(settings.streams, their_outbound),
            partial_reliability=self._outbound.partial_reliability,
        )
        self._reconfig = Reconfig(initial_tsn=self._initial_tsn, peer_initial_tsn=tsn)

    def _adopt_cookie(self, cookie: Cookie) -> None:
        self._adopt_peer(
            tag=cookie.peer_tag,
            tsn=cookie.peer_tsn,
            rwnd=cookie.peer_rwnd,
            their_outbound=cookie.outbound_streams,
            their_inbound=cookie.inbound_streams,
            capabilities=Capability(cookie.capabilities),
        )

    def _receive_cookie_echo(self, chunk: CookieEcho, tag: int) -> bool:
        """Act on a COOKIE ECHO; False if it is none of ours and the rest of its packet is void too."""
        cookie = self._jar.open(chunk.cookie)
        if cookie is None or cookie.local_tag != tag:
            self.dropped["cookie"] += 1
            return False
        case = Case.COLLISION
        if self._state is not State.CLOSED:
            case = judge(cookie, local_tag=self._tag, peer_tag=self._peer_tag, tie_tag=self._tie_tag)
        if case is not Case.DUPLICATE and self._jar.is_stale(cookie, self._now):
            staleness = min(int((self._now - cookie.made_at - self._settings.cookie_life) * 1e6), TSN_MASK)
            error = Error((cause(CauseCode.STALE_COOKIE, staleness.to_bytes(4, "big")),))
            self._outbox.append(PacketHeader(*self._ports, cookie.peer_tag).packet([error.serialize()]))
            return False
        match case:
            case Case.DUPLICATE:
                self._replies.append(CookieAck().serialize())
                if self._move(On.COOKIE_ECHO):
                    self._established()
                return True
            case Case.COLLISION if self._move(On.COOKIE_ECHO):
                self._adopt_cookie(cookie)
                self._replies.append(CookieAck().serialize())
                self._established()
                return True
            case Case.RESTART:
                return self._restart(cookie)
        self.dropped["cookie"] += 1
        return False

    def _restart(self, cookie: Cookie) -> bool:
        if self._state is State.SHUTDOWN_ACK_SENT:
            error = Error((cause(CauseCode.COOKIE_WHILE_SHUTTING_DOWN),))
            pieces = [ShutdownAck().serialize(), error.serialize()]
            self._outbox.append(PacketHeader(*self._ports, cookie.peer_tag).packet(pieces))
            return False
        if not self._move(On.RESTART):
            return False
        self._forget_all()
        self._tag, self._initial_tsn = cookie.local_tag, cookie.local_tsn
        self._tie_tag = self._rng.getrandbits(64) | 1
        self._rto = self._fresh_rto()
        self._outbound = self._fresh_outbound(self._initial_tsn)
        self._adopt_cookie(cookie)
        self._replies.append(CookieAck().serialize())
        self._errors = self._packets_unacknowledged = 0
        self._heartbeat_nonce = None
        self._arm_heartbeat()
        self._events.append(Restarted())
        return True

    def _established(self) -> None:
        self._timers.pop(Timer.T1_INIT, None)
        self._timers.pop(Timer.T1_COOKIE, None)
        self._cookie_echo_due = False
        self._errors = 0
        self._rto.recovered()
        self._arm_heartbeat()
        self._events.append(Established())
        wanted, self._resets_wanted = self._resets_wanted, {}
        for stream_id in wanted:
            self._start_reset(stream_id)

    def _arm_heartbeat(self) -> None:
        interval = self._settings.heartbeat_interval * self._rng.uniform(0.5, 1.5)
        self._timers[Timer.HEARTBEAT] = self._now + interval + self._rto.value

    # Receiving

    def _receive(self, data: bytes) -> None:
        if len(data) < PACKET_HEADER_SIZE:
            raise MalformedPacket("sctp: shorter than a header")
        source_port, destination_port, tag = COMMON_HEADER.unpack_from(data)
        if (destination_port, source_port) != self._ports:
            self.dropped["port"] += 1
            return
        if not checksum_is_right(data):
            self.dropped["checksum"] += 1
            return
        chunks = parse_chunks(data)
        if not chunks:
            return
        first = chunks[0]
        self._reply_room = self._unit
        if type(first) is CookieEcho:
            if not self._receive_cookie_echo(first, tag):
                return
            del chunks[0]
        elif tag != self._tag or (type(first) is Init and not first.ack):
            self._receive_with_other_tag(first, tag, alone=len(chunks) == 1)
            return
        self._receive_chunks(chunks)

    def _receive_with_other_tag(self, chunk: Chunk, tag: int, *, alone: bool) -> None:
        """The few packets that need not carry our tag (RFC 9260, section 8.5.1)."""
        match chunk:
            case Init(ack=False) if tag == 0 and alone:
                self._receive_init(chunk)
                return
            case Abort(reflected=True) if self._peer_tag and tag == self._peer_tag:
                self._end(f"aborted by the peer: {describe_causes(chunk.causes)}")
                return
            case ShutdownComplete(reflected=True) if self._peer_tag and tag == self._peer_tag:
                self._finish(On.SHUTDOWN_COMPLETE, "shut down")
                return
            case ShutdownAck() if self._state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
                # The peer is still ending an association that we know nothing of.
                pieces = [ShutdownComplete(True).serialize()]
                self._outbox.append(PacketHeader(*self._ports, tag).packet(pieces))
                return
        self.dropped["tag"] += 1

    def _receive_chunks(self, chunks: list[Chunk]) -> None:
        inbound = self._inbound
        has_data = False
        for chunk in chunks:
            kind = type(chunk)
            if kind is Data:
                if inbound is not None and self._state in MAY_RECEIVE_DATA:
                    inbound.receive(chunk)  # type: ignore[arg-type]  # the line above narrows faster than isinstance
                    has_data = True
            elif kind is Sack:
                self._receive_sack(chunk)  # type: ignore[arg-type]
            elif not self._receive_control(chunk):
                break
            if self._state is State.ENDED:
                return
        if inbound is not None:
            self._after_data(inbound, has_data=has_data)

    def _after_data(self, inbound: Inbound, *, has_data: bool) -> None:
        """Deliver what the packet completed, and decide when to acknowledge it."""
        if inbound.messages:
            self._events += inbound.messages
            inbound.messages.clear()
        if inbound.unknown_streams:
            for stream_id in inbound.unknown_streams:
                body = stream_id.to_bytes(2, "big") + b"\0\0"
                self._reply(Error((cause(CauseCode.INVALID_STREAM, body),)).serialize())
            inbound.unknown_streams.clear()
        if has_data:
            self._packets_unacknowledged += 1
            if self._state is State.SHUTDOWN_SENT:
                self._send_shutdown()
        if inbound.sack_now or self._packets_unacknowledged > 1:
            if has_data or inbound.sack_now:
                self._sack_due = True
        elif has_data:
            delay = min(self._settings.delayed_sack, self._rto.value / 2)
            self._timers.setdefault(Timer.DELAYED_SACK, self._now + delay)
        if self._reconfig is not None:
            released = self._reconfig.release_held(inbound.cumulative)
            if released is not None:
                self._reply(ReConfig((released[0],)).serialize())
                self._reset_inbound(inbound, released[1])

    def _receive_sack(self, sack: Sack) -> None:
        if self._state in OPENING:
            return
        result = self._outbound.receive_sack(sack, self._now)
        if result is None:
            self.dropped["sack"] += 1
            return
        # A receiver without room proves with every SACK that it lives, though it takes nothing.
        if result.size or result.cumulative_moved or sack.a_rwnd < self._unit:
            self._peer_is_alive()
        if result.cumulative_moved:
            self._timers.pop(Timer.T3_RTX, None)  # it starts anew for what is still outstanding
        self._burst += self._settings.max_burst

    def _receive_control(self, chunk: Chunk) -> bool:
        """Act on anything but DATA and SACK; False if the rest of the packet is to be left alone."""
        match chunk:
            case Heartbeat(ack=False):
                if self._state not in (State.CLOSED, State.COOKIE_WAIT):
                    self._reply(Heartbeat(True, chunk.body).serialize())
            case Heartbeat(ack=True):
                self._receive_heartbeat_ack(chunk)
            case ForwardTsn():
                self._receive_forward_tsn(chunk)
            case ReConfig():
                self._receive_reconfig(chunk)
            case Abort():
                self._end(f"aborted by the peer: {describe_causes(chunk.causes)}")
                return False
            case CookieAck():
                if self._state is State.COOKIE_ECHOED and self._move(On.COOKIE_ACK):
                    self._established()
            case Init(ack=True):
                self._receive_init_ack(chunk)
                return False
            case Error():
                self._receive_error(chunk)
            case Shutdown() | ShutdownAck() | ShutdownComplete():
                self._receive_shutdown(chunk)
            case Unknown() | IData() | IForwardTsn():
                return self._receive_unknown(chunk)
            case _:  # an INIT or a COOKIE ECHO where none may stand
                self.dropped["misplaced"] += 1
                return False
        return True

    def _receive_unknown(self, chunk: Unknown | IData | IForwardTsn) -> bool:
        """The two top bits of the type say whether to report it and whether to go on (RFC 9260, section 3.2)."""
        whole = chunk.serialize()
        if whole[0] & 0x40:
            self._reply(Error((cause(CauseCode.UNRECOGNIZED_CHUNK, whole),)).serialize())
        return bool(whole[0] & 0x80)

    def _receive_error(self, error: Error) -> None:
        if find(error.causes, CauseCode.STALE_COOKIE) is None or self._state is not State.COOKIE_ECHOED:
            self.dropped["error chunk"] += 1
            return
        self._stale_cookies += 1
        if self._stale_cookies > 1:
            self._abort("the peer calls every cookie stale", cause(CauseCode.USER_ABORT, "stale cookie"))
        elif self._move(On.STALE_COOKIE):
            self._timers.pop(Timer.T1_COOKIE, None)
            self._cookie_echo_due = False
            self._attempts = 0
            self._send_init()

    def _receive_heartbeat_ack(self, chunk: Heartbeat) -> None:
        if self._heartbeat_nonce is None or chunk.body != self._heartbeat_info(self._heartbeat_nonce):
            return
        sent_at = self._timers.pop(Timer.HEARTBEAT_ACK, None)
        self._heartbeat_nonce = None
        if sent_at is not None:
            self._peer_is_alive()

    def _receive_forward_tsn(self, chunk: ForwardTsn) -> None:
        if self._inbound is None or self._state not in MAY_RECEIVE_DATA:
            return
        if Capability.PARTIAL_RELIABILITY not in self._capabilities:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, "FORWARD-TSN was not negotiated")
        self._inbound.receive_forward(chunk)

    def _receive_reconfig(self, chunk: ReConfig) -> None:
        reconfig, inbound = self._reconfig, self._inbound
        if reconfig is None or inbound is None or self._state in OPENING or not 1 <= len(chunk.parameters) <= 2:
            self.dropped["re-config"] += 1
            return
        answers: list[Tlv] = []
        for parameter in [parse_reconfig(parameter) for parameter in chunk.parameters]:
            if isinstance(parameter, ReconfigResponse):
                self._receive_reconfig_response(reconfig, parameter)
                continue
            answer, accepted = reconfig.receive_request(parameter, inbound.cumulative)
            answers.append(answer)
            if accepted is not None:
                self._reset_inbound(inbound, accepted)
        if answers:
            self._reply(ReConfig(tuple(answers)).serialize())

    def _receive_reconfig_response(self, reconfig: Reconfig, response: ReconfigResponse) -> None:
        was = reconfig.in_flight
        answered = reconfig.receive_response(response)
        if was is not None and (answered is not None or reconfig.in_progress):
            self._peer_is_alive()
        if answered is None:
            return
        self._timers.pop(Timer.RECONFIG, None)
        for stream_id in answered.streams:
            if answered.ok:
                self._outbound.queue.restart(stream_id)
            self._events.append(ResetDone(stream_id, answered.ok))

    def _reset_inbound(self, inbound: Inbound, request: OutgoingReset) -> None:
        streams = request.streams or tuple(sorted({*inbound.known_streams(), *self._outbound.queue.known_streams()}))
        for stream_id in dict.fromkeys(streams):
            inbound.reset(stream_id)
            self._events.append(StreamReset(stream_id))

    def _receive_shutdown(self, chunk: Shutdown | ShutdownAck | ShutdownComplete) -> None:
        if isinstance(chunk, ShutdownAck):
            self._reply(ShutdownComplete(False).serialize())
            self._finish(On.SHUTDOWN_ACK, "shut down")
            return
        if isinstance(chunk, ShutdownComplete):
            self._finish(On.SHUTDOWN_COMPLETE, "shut down by the peer")
            return
        if self._state not in OPENING and self._outbound.acknowledge(chunk.cumulative_tsn, self._now) is not None:
            self._peer_is_alive()
            self._timers.pop(Timer.T3_RTX, None)
        crossed = self._state is State.SHUTDOWN_SENT
        if not self._move(On.SHUTDOWN):
            return
        self._timers.setdefault(Timer.T5_GUARD, self._now + 5 * self._settings.rto_max)
        if crossed:
            self._send_shutdown_ack()

    def _reply(self, chunk: bytes) -> None:
        """Answer with a chunk, within what one datagram may cause."""
        if len(chunk) <= self._reply_room:
            self._reply_room -= len(chunk)
            self._replies.append(chunk)
        else:
            self.dropped["reply"] += 1

    # Stream resets

    def _start_reset(self, stream_id: int) -> None:
        if self._reconfig is not None and Capability.RECONFIG in self._capabilities:
            self._reconfig.reset(stream_id)
        else:
            self._events.append(ResetDone(stream_id, False))

    def _request_resets(self, reconfig: Reconfig) -> None:
        """Send the request for all streams whose data has been sent."""
        queue = self._outbound.queue
        drained = [stream_id for stream_id in reconfig.queued if queue.drained(stream_id)]
        if drained:
            reconfig.request(drained, self._outbound.next_tsn - 1)
            self._send_reset_request(reconfig)

    def _send_reset_request(self, reconfig: Reconfig) -> None:
        if reconfig.in_flight is not None:
            self._replies.append(ReConfig((reconfig.in_flight.tlv(),)).serialize())
            self._timers[Timer.RECONFIG] = self._now + self._rto.value

    # Timers

    def _expired(self, timer: Timer) -> None:
        match timer:
            case Timer.T1_INIT | Timer.T1_COOKIE:
                self._expired_t1(timer)
            case Timer.T2_SHUTDOWN:
                self._failed_once_more("SHUTDOWN")
                if self._state is State.SHUTDOWN_SENT:
                    self._send_shutdown()
                elif self._state is State.SHUTDOWN_ACK_SENT:
                    self._send_shutdown_ack()
            case Timer.T5_GUARD:
                self._abort("the shutdown took too long", cause(CauseCode.USER_ABORT, "shutdown took too long"))
            case Timer.T3_RTX:
                self._failed_once_more("DATA")
                if self._state is not State.ENDED:
                    self._outbound.timed_out()
            case Timer.DELAYED_SACK:
                self._sack_due = True
            case Timer.RECONFIG:
                self._expired_reconfig()
            case Timer.HEARTBEAT:
                self._arm_heartbeat()
                if self._state is State.ESTABLISHED and not self._outbound.outstanding:
                    self._heartbeat_nonce = self._rng.randbytes(16)
                    self._replies.append(Heartbeat(False, self._heartbeat_info(self._heartbeat_nonce)).serialize())
                    self._timers[Timer.HEARTBEAT_ACK] = self._now + self._rto.value
            case Timer.HEARTBEAT_ACK:
                self._heartbeat_nonce = None
                self._failed_once_more("HEARTBEAT")

    def _expired_t1(self, timer: Timer) -> None:
        self._attempts += 1
        self._rto.back_off()
        if self._attempts > self._settings.max_init_retransmits:
            self._abort("the peer does not answer the handshake", cause(CauseCode.USER_ABORT, "no answer"))
        elif timer is Timer.T1_INIT:
            self._send_init()
        else:
            if self._outbound.outstanding:
                self._outbound.timed_out()  # what went along with the cookie goes along again
            self._echo_cookie()

    def _expired_reconfig(self) -> None:
        reconfig = self._reconfig
        if reconfig is None:
            return
        # While T3 runs it counts the peer's silence, and twice would be too fast. "In progress" is no silence.
        if not reconfig.in_progress and not self._outbound.outstanding:
            self._failed_once_more("RE-CONFIG")
        if self._state is not State.ENDED:
            reconfig.in_progress = False
            self._send_reset_request(reconfig)

    def _heartbeat_info(self, nonce: bytes) -> bytes:
        return Tlv(ParameterType.HEARTBEAT_INFO, nonce).serialize()

    # Sending

    def _send_shutdown(self) -> None:
        if self._inbound is not None:
            self._replies.append(Shutdown(self._inbound.cumulative & TSN_MASK).serialize())
        self._timers[Timer.T2_SHUTDOWN] = self._now + self._rto.value

    def _send_shutdown_ack(self) -> None:
        self._replies.append(ShutdownAck().serialize())
        self._timers[Timer.T2_SHUTDOWN] = self._now + self._rto.value

    def _transmit(self) -> None:
        """Make packets of all that may go out at `self._now`; again without a new input it makes none."""
        if self._state in (State.CLOSED, State.COOKIE_WAIT, State.ENDED):
            self._transmit_replies()
            return
        outbound = self._outbound
        if outbound.idle:
            if self._state is State.SHUTDOWN_PENDING and self._move(On.DRAINED):
                self._send_shutdown()
            elif self._state is State.SHUTDOWN_RECEIVED and self._move(On.DRAINED):
                self._send_shutdown_ack()
        if self._state is State.COOKIE_ECHOED:
            self._transmit_cookie()
            return
        self._transmit_data()
        if outbound.outstanding:
            if outbound.earliest_resent or Timer.T3_RTX not in self._timers:
                self._timers[Timer.T3_RTX] = self._now + self._rto.value
        else:
            self._timers.pop(Timer.T3_RTX, None)
        outbound.earliest_resent = False

    def _transmit_cookie(self) -> None:
        """COOKIE ECHO with as much DATA as fits behind it, and nothing else before COOKIE ACK."""
        if self._cookie_echo_due:
            self._cookie_echo_due = False
            pieces = [self._cookie_echo]
            self._outbound.fill(pieces, self._unit - len(self._cookie_echo), self._now)
            self._outbox.append(self._header.packet(pieces))
        self._transmit_replies()

    def _transmit_data(self) -> None:
        outbound, now = self._outbound, self._now
        may_send = self._state in MAY_SEND_DATA
        budget = max(self._burst, self._settings.max_burst)
        self._burst = 0
        while True:
            pieces: list[bytes] = []
            room = self._take_replies(pieces)
            if self._sack_due and room >= 256:
                room -= self._take_sack(pieces)
            if may_send and budget > 0:
                forward = outbound.forward_tsn(room, now)
                if forward is not None:
                    pieces.append(forward)
                    room -= len(forward)
                before = room
                room = outbound.fill(pieces, room, now)
                if room < before:
                    budget -= 1
                    if Timer.DELAYED_SACK in self._timers and room >= 256:
                        self._take_sack(pieces)
            if self._reconfig is not None and self._reconfig.waiting:
                self._request_resets(self._reconfig)
            if pieces:
                self._outbox.append(self._header.packet(pieces))
            elif not self._replies and not self._sack_due and not outbound.forward_is_due:
                return

    def _take_replies(self, pieces: list[bytes]) -> int:
        """Move control chunks into the packet while they fit; the room that is left."""
        room = self._unit
        replies = self._replies
        while replies and (len(replies[0]) <= room or not pieces):
            room -= len(replies[0])
            pieces.append(replies.pop(0))
        return room

    def _transmit_replies(self) -> None:
        while self._replies:
            pieces: list[bytes] = []
            self._take_replies(pieces)
            self._outbox.append(self._header.packet(pieces))

    def _take_sack(self, pieces: list[bytes]) -> int:
        self._sack_due = False
        self._packets_unacknowledged = 0
        self._timers.pop(Timer.DELAYED_SACK, None)
        if self._inbound is None:
            return 0
        self._inbound.sack_now = self._inbound.has_gaps
        sack = self._inbound.sack().serialize()
        pieces.append(sack)
        return len(sack)

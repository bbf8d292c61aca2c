"""One SCTP association, as WebRTC uses it over DTLS (RFC 9260, RFC 8261), without I/O.

Give it datagrams and time; after every call drain `events` and `datagrams_to_send` and sleep until `next_timeout`.
No call blocks, and no wait is without an end: silence ends the association after `max_retransmits` + 1 expiries.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket, UsageError
from triosfu.sctp.capabilities import Capability, Peer
from triosfu.sctp.events import Ended, Established, Event, Message, ResetDone, Restarted, StreamReset
from triosfu.sctp.handshake import Case, Handshake
from triosfu.sctp.inbound import Inbound, Violation
from triosfu.sctp.liveness import Liveness
from triosfu.sctp.outbound import Outbound
from triosfu.sctp.packer import Packer
from triosfu.sctp.parameters import CauseCode, ParameterType, Tlv, cause, describe_causes, find
from triosfu.sctp.reconfig import Reconfig
from triosfu.sctp.rto import RetransmissionTimeout
from triosfu.sctp.sendqueue import OutMessage
from triosfu.sctp.serial import TSN_MASK
from triosfu.sctp.settings import Settings
from triosfu.sctp.state import DRAINING, MAY_RECEIVE_DATA, MAY_SEND_DATA, OPENING, TRANSITIONS, On, State
from triosfu.sctp.timers import Timer, Timers
from triosfu.sctp.transmission import Transmission
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

    from triosfu.sctp.cookie import Cookie

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
        self._settings = settings = settings or Settings()
        self._rng = rng
        self._now = now
        self._ports = (local_port, remote_port)
        self._max_message_size = max_message_size
        self._unit = settings.unit
        self._state = State.CLOSED
        self._events: list[Event] = []
        self.dropped: Counter[str] = Counter()
        self._packer = Packer(ports=self._ports, unit=self._unit)
        self._timers = Timers()
        self._rto = RetransmissionTimeout(
            initial=settings.rto_initial, minimum=settings.rto_min, maximum=settings.rto_max
        )
        self._handshake = Handshake(
            rng=rng,
            settings=settings,
            initial_tsn=initial_tsn,
            packer=self._packer,
            timers=self._timers,
            rto=self._rto,
        )
        self._begin()

    def _begin(self) -> None:
        """Set up all that belongs to one association: at first, after a restart, and empty at the end."""
        settings, tsn = self._settings, self._handshake.initial_tsn
        self._timers.clear()
        self._rto.reset()
        self._packer.replies.clear()
        self._liveness = Liveness(rng=self._rng, rto=self._rto, max_retransmits=settings.max_retransmits)
        self._outbound = Outbound(initial_tsn=tsn, unit=self._unit, rto=self._rto)
        self._outbound_streams = settings.streams
        self._inbound: Inbound | None = None  # from the moment that the peer's initial TSN is known
        self._reconfig = Reconfig(initial_tsn=tsn, queue=self._outbound.queue, events=self._events)
        self._transmission = Transmission(
            packer=self._packer,
            outbound=self._outbound,
            reconfig=self._reconfig,
            timers=self._timers,
            rto=self._rto,
            settings=settings,
        )

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
        return self._outbound.partial_reliability

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
        self._advance(now)
        if self._move(On.ASSOCIATE):
            self._handshake.send_init(now)

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
        self._advance(now)
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
        self._advance(now)
        if self._state is not State.ENDED and not self.is_resetting(stream_id):
            self._reconfig.reset(stream_id)

    def is_resetting(self, stream_id: int) -> bool:
        """Has a reset of our side of the stream been asked for, and not been answered?"""
        return self._reconfig.is_resetting(stream_id)

    def drop_unsent(self, stream_id: int) -> None:
        """Forget the messages of the stream of which nothing has been sent."""
        self._outbound.queue.drop_unsent(stream_id)

    def abort(self, reason: str, now: float) -> None:
        """End the association now; the peer is told if it is known."""
        self._advance(now)
        self._abort(reason, cause(CauseCode.USER_ABORT, reason[:200]))

    def shutdown(self, now: float) -> None:
        """End the association when everything queued is acknowledged, or after a bounded time."""
        self._advance(now)
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
        self._transmission.event()  # last: a SACK has let out its own burst already

    def handle_timeout(self, now: float) -> None:
        """Do what is due; nothing if called early."""
        due = self._timers.pop_expired(now)
        if not due:
            return
        self._advance(now)
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
        return self._packer.drain()

    def events(self) -> list[Event]:
        """What has happened since the last call, drained."""
        drained = self._events[:]
        self._events.clear()  # the same list throughout: the two halves append to it
        return drained

    # State

    def _advance(self, now: float) -> None:
        """Something happens, now."""
        self._now = now
        self._transmission.event()

    def _move(self, on: On) -> bool:
        """Change the state if `on` may happen in it; False, and nothing has changed, if it may not."""
        after = TRANSITIONS.get((self._state, on))
        if after is None:
            return False
        self._state = after
        return True

    def _end(self, reason: str) -> None:
        """Be over: no timer, nothing queued, one last event."""
        self._finish(On.END, reason)

    def _finish(self, on: On, reason: str) -> None:
        if self._move(on):
            self._packer.flush_replies()
            self._begin()
            self._events.append(Ended(reason))

    def _abort(self, reason: str, *causes: Tlv) -> None:
        """End the association and tell the peer why."""
        if self._state is State.ENDED:
            return
        self._packer.replies.clear()
        self._end(reason)
        if self._handshake.peer is not None:
            self._packer.send([Abort(False, causes).serialize()])

    def _failed_once_more(self, what: str) -> None:
        """Count a sign of the peer's death; after too many in a row it is dead (RFC 9260, section 8.1)."""
        if self._liveness.failed():
            self._give_up(f"{what} went unanswered too often")

    def _give_up(self, reason: str) -> None:
        self._abort(reason, cause(CauseCode.USER_ABORT, reason))

    # Handshake

    def _receive_init(self, init: Init) -> None:
        """Answer an INIT with a cookie; whatever our state, nothing in it changes before the cookie comes back."""
        peer = Peer.announced(init)
        if peer is None:
            self.dropped["init"] += 1
        elif self._state is State.SHUTDOWN_ACK_SENT:
            self._packer.replies.append(ShutdownAck().serialize())
        else:
            self._handshake.answer(init, peer, self._now, opening=self._state in OPENING)

    def _receive_init_ack(self, init: Init) -> None:
        cookie = find(init.parameters, ParameterType.STATE_COOKIE)
        peer = Peer.announced(init)
        if peer is None or not cookie or len(cookie) > self._unit - 4:
            self.dropped["init ack"] += 1
        elif self._move(On.INIT_ACK):
            self._adopt(peer)
            self._handshake.answered(init, self._now)

    def _adopt(self, peer: Peer) -> None:
        """Take over what the peer has announced, in INIT ACK or in the INIT behind a cookie."""
        settings = self._settings
        self._handshake.peer = peer
        self._packer.address(peer.tag)
        self._outbound_streams = min(settings.streams, peer.inbound_streams)
        self._outbound.a_rwnd = peer.a_rwnd
        self._outbound.partial_reliability = Capability.PARTIAL_RELIABILITY in peer.capabilities
        self._inbound = Inbound(
            initial_tsn=peer.initial_tsn,
            buffer=settings.receive_buffer,
            max_message_size=self._max_message_size,
            streams=min(settings.streams, peer.outbound_streams),
            partial_reliability=self._outbound.partial_reliability,
            events=self._events,
        )
        self._reconfig.peer_known(peer)

    def _receive_cookie_echo(self, chunk: CookieEcho, tag: int) -> bool:
        """Act on a COOKIE ECHO; False if it is none of ours and the rest of its packet is void too."""
        case, cookie = self._handshake.examine(chunk, tag, self._now)
        if cookie is not None:
            match case:
                case Case.DUPLICATE:
                    self._packer.replies.append(CookieAck().serialize())
                    if self._move(On.COOKIE_ECHO):
                        self._established()
                    return True
                case Case.COLLISION if self._move(On.COOKIE_ECHO):
                    self._adopt(cookie.peer)
                    self._packer.replies.append(CookieAck().serialize())
                    self._established()
                    return True
                case Case.RESTART:
                    return self._restart(cookie)
                case Case.STALE:
                    self._handshake.refuse_stale(cookie, self._now)
                    return False
        self.dropped["cookie"] += 1
        return False

    def _restart(self, cookie: Cookie) -> bool:
        if not self._move(On.RESTART):
            error = Error((cause(CauseCode.COOKIE_WHILE_SHUTTING_DOWN),))
            self._packer.send_with_tag(cookie.peer.tag, ShutdownAck().serialize(), error.serialize())
            return False
        self._handshake.restart(cookie)
        self._begin()
        self._adopt(cookie.peer)
        self._packer.replies.append(CookieAck().serialize())
        self._arm_heartbeat()
        self._events.append(Restarted())
        return True

    def _established(self) -> None:
        self._handshake.finished()
        self._liveness.proven()
        self._arm_heartbeat()
        self._events.append(Established())

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
        self._packer.begin_datagram()
        if type(first) is CookieEcho:
            if not self._receive_cookie_echo(first, tag):
                return
            del chunks[0]
        elif tag != self._handshake.tag or (type(first) is Init and not first.ack):
            self._receive_with_other_tag(first, tag, alone=len(chunks) == 1)
            return
        self._receive_chunks(chunks)

    def _receive_with_other_tag(self, chunk: Chunk, tag: int, *, alone: bool) -> None:
        """The few packets that need not carry our tag (RFC 9260, section 8.5.1)."""
        match chunk:
            case Init(ack=False) if tag == 0 and alone:
                self._receive_init(chunk)
                return
            case Abort(reflected=True) if tag == self._handshake.peer_tag != 0:
                self._end(f"aborted by the peer: {describe_causes(chunk.causes)}")
                return
            case ShutdownComplete(reflected=True) if tag == self._handshake.peer_tag != 0:
                self._finish(On.SHUTDOWN_COMPLETE, "shut down")
                return
            case ShutdownAck() if self._state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
                # The peer is still ending an association that we know nothing of.
                self._packer.send_with_tag(tag, ShutdownComplete(True).serialize())
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
        if inbound.unknown_streams:
            for stream_id in inbound.unknown_streams:
                body = stream_id.to_bytes(2, "big") + b"\0\0"
                self._reply(Error((cause(CauseCode.INVALID_STREAM, body),)).serialize())
            inbound.unknown_streams.clear()
        if has_data:
            self._transmission.data_received(inbound, self._now)
            if self._state is State.SHUTDOWN_SENT:
                self._send_shutdown()
        released = self._reconfig.release_held(inbound)
        if released is not None:
            self._reply(released)

    def _receive_sack(self, sack: Sack) -> None:
        if self._state in OPENING:
            return
        result = self._outbound.receive_sack(sack, self._now)
        if result is None:
            self.dropped["sack"] += 1
            return
        # A receiver without room proves with every SACK that it lives, though it takes nothing.
        if result.size or result.cumulative_moved or sack.a_rwnd < self._unit:
            self._liveness.proven()
        self._transmission.sack_received(cumulative_moved=result.cumulative_moved)

    def _receive_control(self, chunk: Chunk) -> bool:
        """Act on anything but DATA and SACK; False if the rest of the packet is to be left alone."""
        match chunk:
            case Heartbeat(ack=False):
                if self._state not in (State.CLOSED, State.COOKIE_WAIT):
                    self._reply(Heartbeat(True, chunk.body).serialize())
            case Heartbeat(ack=True):
                if self._liveness.is_answer(chunk):
                    self._timers.pop(Timer.HEARTBEAT_ACK, None)
                    self._liveness.proven()
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
        if self._move(On.STALE_COOKIE) and not self._handshake.cookie_was_stale(self._now):
            self._give_up("the peer calls every cookie stale")

    def _receive_forward_tsn(self, chunk: ForwardTsn) -> None:
        if self._inbound is None or self._state not in MAY_RECEIVE_DATA:
            return
        if not self._outbound.partial_reliability:
            raise Violation(CauseCode.PROTOCOL_VIOLATION, "FORWARD-TSN was not negotiated")
        self._inbound.receive_forward(chunk)
        self._transmission.sack_due = True

    def _receive_reconfig(self, chunk: ReConfig) -> None:
        if self._inbound is None or self._state in OPENING:
            self.dropped["re-config"] += 1
            return
        answer, heard = self._reconfig.receive(chunk, self._inbound)
        if heard:
            self._liveness.proven()
            if not self._reconfig.in_progress:
                self._timers.pop(Timer.RECONFIG, None)
        if answer is not None:
            self._reply(answer)

    def _receive_shutdown(self, chunk: Shutdown | ShutdownAck | ShutdownComplete) -> None:
        if isinstance(chunk, ShutdownAck):
            if (self._state, On.SHUTDOWN_ACK) in TRANSITIONS:
                self._reply(ShutdownComplete(False).serialize())
                self._finish(On.SHUTDOWN_ACK, "shut down")
            return
        if isinstance(chunk, ShutdownComplete):
            self._finish(On.SHUTDOWN_COMPLETE, "shut down by the peer")
            return
        if self._state not in OPENING and self._outbound.acknowledge(chunk.cumulative_tsn, self._now) is not None:
            self._liveness.proven()
            self._transmission.sack_received(cumulative_moved=True)
        crossed = self._state is State.SHUTDOWN_SENT
        if not self._move(On.SHUTDOWN):
            return
        self._timers.setdefault(Timer.T5_GUARD, self._now + 5 * self._settings.rto_max)
        if crossed:
            self._send_shutdown_ack()

    def _reply(self, chunk: bytes) -> None:
        """Answer with a chunk, within what one datagram may cause."""
        if not self._packer.answer(chunk):
            self.dropped["reply"] += 1

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
                self._give_up("the shutdown took too long")
            case Timer.T3_RTX:
                self._failed_once_more("DATA")
                if self._state is not State.ENDED:
                    self._outbound.timed_out()
            case Timer.DELAYED_SACK:
                self._transmission.sack_due = True
            case Timer.RECONFIG:
                self._expired_reconfig()
            case Timer.HEARTBEAT:
                self._arm_heartbeat()
                if self._state is State.ESTABLISHED and not self._outbound.outstanding:
                    self._packer.replies.append(self._liveness.heartbeat())
                    self._timers[Timer.HEARTBEAT_ACK] = self._now + self._rto.value
            case Timer.HEARTBEAT_ACK:
                if self._liveness.heartbeat_lost():
                    self._give_up("HEARTBEAT went unanswered too often")

    def _expired_t1(self, timer: Timer) -> None:
        if self._outbound.outstanding:
            self._outbound.timed_out()  # what went along with the cookie goes along again
        if not self._handshake.expired(timer, self._now):
            self._give_up("the peer does not answer the handshake")

    def _expired_reconfig(self) -> None:
        # While T3 runs it counts the peer's silence, and twice would be too fast. Any answer, "in progress" too, resets
        # the count.
        if not self._outbound.outstanding:
            self._failed_once_more("RE-CONFIG")
        if self._state is not State.ENDED:
            self._transmission.repeat_reset_request(self._now)

    # Sending

    def _send_shutdown(self) -> None:
        if self._inbound is not None:
            self._packer.replies.append(Shutdown(self._inbound.cumulative & TSN_MASK).serialize())
        self._timers[Timer.T2_SHUTDOWN] = self._now + self._rto.value

    def _send_shutdown_ack(self) -> None:
        self._packer.replies.append(ShutdownAck().serialize())
        self._timers[Timer.T2_SHUTDOWN] = self._now + self._rto.value

    def _transmit(self) -> None:
        """Make packets of all that may go out at `self._now`; again without a new input it makes none."""
        if self._state is State.COOKIE_ECHOED:
            cookie_echo = self._handshake.take_cookie_echo()
            if cookie_echo is not None:
                self._transmission.send_behind_cookie(cookie_echo, self._now)
        if self._state in OPENING or self._state is State.ENDED:
            self._packer.flush_replies()
            return
        if self._outbound.idle and self._state in DRAINING and self._move(On.DRAINED):
            if self._state is State.SHUTDOWN_SENT:
                self._send_shutdown()
            else:
                self._send_shutdown_ack()
        self._transmission.send(self._inbound, self._now, may_send_data=self._state in MAY_SEND_DATA)

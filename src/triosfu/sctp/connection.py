"""What the parts of an association share: its state, its two halves, and how it begins, fails and ends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from triosfu.grid import on_grid
from triosfu.sctp.capabilities import Capability, Peer, announcement
from triosfu.sctp.events import Ended, Event
from triosfu.sctp.handshake import Handshake
from triosfu.sctp.inbound import Inbound
from triosfu.sctp.liveness import Liveness
from triosfu.sctp.outbound import Outbound
from triosfu.sctp.packer import Packer
from triosfu.sctp.parameters import CauseCode, Tlv, cause
from triosfu.sctp.pathmtu import PathMtu
from triosfu.sctp.reconfig import Reconfig
from triosfu.sctp.rto import RetransmissionTimeout
from triosfu.sctp.settings import unit_of
from triosfu.sctp.state import OPENING, TRANSITIONS, On, State
from triosfu.sctp.timers import Timer, Timers
from triosfu.sctp.transmission import Transmission
from triosfu.sctp.wire import Abort

if TYPE_CHECKING:
    from random import Random

    from triosfu.sctp.settings import Settings


class Connection:
    """The inside of an `Association`: modules of this package act on it, users never see it.

    `state` changes in `move` and nowhere else; `now` is the time of the input that is being worked on.
    """

    __slots__ = (
        "_max_message_size",
        "_quiet_for",
        "_quiet_since",
        "_rng",
        "accepts_no_checksum",
        "dropped",
        "events",
        "handshake",
        "inbound",
        "liveness",
        "now",
        "outbound",
        "outbound_streams",
        "packer",
        "packet_limit",
        "path",
        "ports",
        "reconfig",
        "rto",
        "settings",
        "state",
        "timers",
        "transmission",
        "unit",
    )

    def __init__(
        self,
        *,
        now: float,
        rng: Random,
        ports: tuple[int, int],
        max_message_size: int,
        over_dtls: bool,
        settings: Settings,
        initial_tsn: int | None,
    ) -> None:
        self._rng, self._max_message_size = rng, max_message_size
        self.settings, self.ports, self.now = settings, ports, now
        self.unit = settings.unit
        self.accepts_no_checksum = over_dtls and settings.zero_checksum
        self.state = State.CLOSED
        self.events: list[Event] = []  # the same list throughout: the two halves append to it
        self.dropped: Counter[str] = Counter()
        self.packet_limit = max(settings.mtu, *settings.larger_mtus, 0)
        self.packer = Packer(ports=ports, unit=self.unit)
        self.timers = Timers()
        self.rto = RetransmissionTimeout(
            initial=settings.rto_initial, minimum=settings.rto_min, maximum=settings.rto_max
        )
        self.handshake = Handshake(
            rng=rng,
            settings=settings,
            initial_tsn=initial_tsn,
            announcement=announcement(interleaving=settings.interleaving, zero_checksum=self.accepts_no_checksum),
            packer=self.packer,
            timers=self.timers,
            rto=self.rto,
        )
        self._set_up()

    def begin(self) -> None:
        """Set up anew all that belongs to one association: after a restart, and empty at the end."""
        self.outbound.queue.forget()
        self._set_up()

    def _set_up(self) -> None:
        settings, tsn = self.settings, self.handshake.initial_tsn
        self.timers.clear()
        self.rto.reset()
        self.packer.replies.clear()
        self.packer.drain_probe()
        self.packer.unit = self.unit = settings.unit
        self.path = PathMtu(rng=self._rng, settings=settings, initial_tsn=tsn, limit=self.packet_limit)
        self.liveness = Liveness(rng=self._rng, rto=self.rto, settings=settings)
        self._quiet_since, self._quiet_for = self.now, settings.heartbeat_interval
        self.outbound = Outbound(initial_tsn=tsn, unit=self.unit, rto=self.rto)
        self.outbound_streams = settings.streams
        self.inbound: Inbound | None = None  # from the moment that the peer's initial TSN is known
        self.reconfig = Reconfig(initial_tsn=tsn, queue=self.outbound.queue, events=self.events)
        self.transmission = Transmission(
            packer=self.packer,
            outbound=self.outbound,
            reconfig=self.reconfig,
            timers=self.timers,
            rto=self.rto,
            settings=settings,
        )

    def adopt(self, peer: Peer) -> None:
        """Take over what the peer has announced, in INIT ACK or in the INIT behind a cookie."""
        settings = self.settings
        self.handshake.peer = peer
        self.packer.address(peer.tag)
        self.packer.with_checksum = not (self.accepts_no_checksum and Capability.ZERO_CHECKSUM in peer.capabilities)
        self.outbound_streams = min(settings.streams, peer.inbound_streams)
        interleaving = settings.interleaving and Capability.INTERLEAVING in peer.capabilities
        forward = Capability.INTERLEAVED_FORWARD if interleaving else Capability.PARTIAL_RELIABILITY
        self.outbound.peer_known(
            a_rwnd=peer.a_rwnd, partial_reliability=forward in peer.capabilities, interleaving=interleaving
        )
        self.inbound = Inbound(
            initial_tsn=peer.initial_tsn,
            buffer=settings.receive_buffer,
            max_message_size=self._max_message_size,
            streams=min(settings.streams, peer.outbound_streams),
            partial_reliability=self.outbound.partial_reliability,
            interleaving=interleaving,
            events=self.events,
        )
        self.reconfig.peer_known(peer)

    @property
    def opening(self) -> bool:
        """Is the association not up yet?"""
        return self.state in OPENING

    def advance(self, now: float) -> None:
        """Something happens, now."""
        self.now = now
        self.transmission.event()

    def move(self, on: On) -> bool:
        """Change the state if `on` may happen in it; False, and nothing has changed, if it may not."""
        after = TRANSITIONS.get((self.state, on))
        if after is None:
            return False
        self.state = after
        return True

    def reply(self, chunk: bytes) -> None:
        """Answer with a chunk, within what one datagram may cause."""
        if not self.packer.answer(chunk):
            self.dropped["reply"] += 1

    # Heartbeats

    def arm_heartbeat(self) -> None:
        """Have a sign of life sent when nothing that wants an answer is for a while; soon if the peer is in doubt."""
        self._quiet_since = self.now
        self._quiet_for = self.settings.heartbeat_interval * self._rng.uniform(0.5, 1.5) + self.rto.value
        soon = self.liveness.doubtful and Timer.HEARTBEAT_ACK not in self.timers
        self.timers[Timer.HEARTBEAT] = self.now + self.rto.value if soon else on_grid(self.now + self._quiet_for)

    def heartbeat_is_due(self) -> bool:
        """The timer has expired: is it time? It is not if something that wants an answer has gone out since."""
        due = max(self._quiet_since, self.outbound.last_sent_at) + self._quiet_for
        if self.liveness.doubtful or due <= self.now:
            return True
        self.timers[Timer.HEARTBEAT] = due
        return False

    def beat(self) -> None:
        """Send a HEARTBEAT, unless something is under way whose timer counts the peer's silence already."""
        if self.state is State.ESTABLISHED and not self.outbound.outstanding and Timer.RECONFIG not in self.timers:
            self.packer.replies.append(self.liveness.heartbeat(self.now))
            self.timers[Timer.HEARTBEAT_ACK] = self.now + self.rto.value
        self.arm_heartbeat()

    def doubt(self) -> None:
        """The peer sends its COOKIE ECHO: it has not heard that we are up, and may never hear it."""
        if self.state is State.ESTABLISHED:
            self.liveness.doubtful = True
            if Timer.HEARTBEAT_ACK not in self.timers:
                soon = self.now + self.rto.value
                self.timers[Timer.HEARTBEAT] = min(self.timers.get(Timer.HEARTBEAT, soon), soon)

    # The size of packets

    def may_search_path(self) -> bool:
        """Is it time to try for larger packets, with much to send?"""
        return self.now >= self.path.search_at and self.state is State.ESTABLISHED

    def search_path(self) -> None:
        """Try whether the path carries larger packets."""
        self.path.begin()
        self.probe_path()

    def probe_path(self) -> None:
        """Try the next size, or the same once more; the timer ends the wait for the answer."""
        probe = self.path.probe(self.now, self.outbound.next_tsn)
        if probe is not None:
            self.packer.send_probe([probe])
            self.timers[Timer.PATH_MTU] = self.now + self.rto.value

    def use_path_mtu(self) -> None:
        """Fill packets up to what the path is known to carry."""
        self.unit = self.packer.unit = unit_of(self.path.size)
        self.outbound.resize(self.unit)

    def narrow_path(self, *, after: float) -> None:
        """Send packets that every path carries, and search for larger ones after so many seconds at the earliest."""
        self.timers.pop(Timer.PATH_MTU, None)
        self.packer.drain_probe()
        self.path.start_over(self.now, self.outbound.next_tsn, after=after)
        self.use_path_mtu()

    # The end

    def finish(self, on: On, reason: str) -> None:
        """Be over, if `on` may end it now: no timer, nothing queued, one last event."""
        if self.move(on):
            self.packer.flush_replies()
            self.begin()
            self.events.append(Ended(reason))

    def end(self, reason: str) -> None:
        """Be over, whatever the state."""
        self.finish(On.END, reason)

    def abort(self, reason: str, *causes: Tlv) -> None:
        """End the association and tell the peer why."""
        if self.state is State.ENDED:
            return
        self.packer.replies.clear()
        self.end(reason)
        if self.handshake.peer is not None:
            self.packer.send([Abort(False, causes).serialize()])

    def failed_once_more(self, what: str) -> None:
        """Count a sign of the peer's death; after too many in a row it is dead (RFC 9260, section 8.1)."""
        if self.liveness.failed():
            self.give_up(f"{what} went unanswered too often")

    def give_up(self, reason: str) -> None:
        """End the association for a reason of our own."""
        self.abort(reason, cause(CauseCode.USER_ABORT, reason[:200]))

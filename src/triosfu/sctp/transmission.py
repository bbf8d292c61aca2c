"""When things go out, and in which packets: control chunks, SACKs, FORWARD-TSN, DATA, in this order in each packet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.timers import Timer, Timers

if TYPE_CHECKING:
    from triosfu.sctp.inbound import Inbound
    from triosfu.sctp.outbound import Outbound
    from triosfu.sctp.packer import Packer
    from triosfu.sctp.reconfig import Reconfig
    from triosfu.sctp.rto import RetransmissionTimeout
    from triosfu.sctp.settings import Settings

_ROOM_FOR_SACK = 256  # the largest SACK has 16 bytes, twenty gap blocks and twenty duplicates: 176


class Transmission:
    """Fills packets for one association; arms T3, the delayed SACK and the timer of RE-CONFIG."""

    __slots__ = (
        "_burst",
        "_outbound",
        "_packer",
        "_reconfig",
        "_rto",
        "_settings",
        "_timers",
        "_unsacked",
        "sack_due",
    )

    def __init__(
        self,
        *,
        packer: Packer,
        outbound: Outbound,
        reconfig: Reconfig,
        timers: Timers,
        rto: RetransmissionTimeout,
        settings: Settings,
    ) -> None:
        self._packer, self._outbound, self._reconfig = packer, outbound, reconfig
        self._timers, self._rto, self._settings = timers, rto, settings
        self._unsacked = 0  # packets with DATA since the last SACK
        self._burst = 0
        self.sack_due = False

    def event(self) -> None:
        """Something happened that may let data out: one burst of it."""
        self._burst = self._settings.max_burst

    def data_received(self, inbound: Inbound, now: float) -> None:
        """A packet with DATA came: it is acknowledged at once, with the next one, or after a while."""
        self._unsacked += 1
        if inbound.sack_now or self._unsacked > 1:
            self.sack_due = True
        elif Timer.DELAYED_SACK not in self._timers:
            self._timers[Timer.DELAYED_SACK] = now + min(self._settings.delayed_sack, self._rto.value / 2)

    def sack_received(self, *, cumulative_moved: bool) -> None:
        """A SACK came: T3 starts anew for what is still outstanding if it moved the cumulative TSN."""
        if cumulative_moved:
            self._timers.pop(Timer.T3_RTX, None)

    def send_behind_cookie(self, cookie_echo: bytes, now: float) -> None:
        """COOKIE ECHO with as much DATA as fits behind it; nothing else may follow before the COOKIE ACK."""
        pieces = [cookie_echo]
        self._outbound.fill(pieces, self._packer.unit - len(cookie_echo), now)
        self._packer.send_checked(pieces)

    def send(self, inbound: Inbound | None, now: float, *, may_send_data: bool) -> None:
        """Make packets of all that may go out now."""
        outbound, packer = self._outbound, self._packer
        # What an event has let out and is not used is gone, or it would add up to a flood.
        budget, self._burst = self._burst if may_send_data else 0, 0
        while True:
            pieces: list[bytes] = []
            # Ahead of the replies, so that it shares a packet with the answer to the peer's own request.
            if self._reconfig.waiting:
                request = self._reconfig.request(outbound.next_tsn - 1)
                if request is not None:
                    outbound.reset_requested()
                    self._request_reset(request, now)
            room = packer.take_replies(pieces) if packer.replies else packer.unit
            if self.sack_due and room >= _ROOM_FOR_SACK:
                room -= self._take_sack(pieces, inbound)
            if budget > 0 and outbound.ready:
                forward = outbound.forward_tsn(room, now)
                if forward is not None:
                    pieces.append(forward)
                    room -= len(forward)
                before, control = room, len(pieces)
                room = outbound.fill(pieces, room, now)
                if room < before:
                    budget -= 1
                    if Timer.DELAYED_SACK in self._timers and room >= _ROOM_FOR_SACK:
                        # It rides along, ahead of the DATA: usrsctp aborts over any other order (RFC 9260, 6.10).
                        data, pieces[control:] = pieces[control:], []
                        self._take_sack(pieces, inbound)
                        pieces += data
            if pieces:
                packer.send(pieces)
            elif not packer.replies and not self.sack_due and not (budget and outbound.forward_is_due):
                break
        self._run_t3(now)

    def repeat_reset_request(self, now: float) -> None:
        """Send the RE-CONFIG request in flight again."""
        self._request_reset(self._reconfig.repeat(), now)

    def _request_reset(self, request: bytes | None, now: float) -> None:
        if request is not None:
            self._packer.replies.append(request)
            self._timers[Timer.RECONFIG] = now + self._rto.value

    def _take_sack(self, pieces: list[bytes], inbound: Inbound | None) -> int:
        self.sack_due = False
        self._unsacked = 0
        self._timers.pop(Timer.DELAYED_SACK, None)
        if inbound is None:
            return 0
        inbound.sack_now = inbound.has_gaps  # as long as something is missing every packet is acknowledged at once
        sack = inbound.sack().serialize()
        pieces.append(sack)
        return len(sack)

    def _run_t3(self, now: float) -> None:
        """T3 runs while anything is outstanding, from when its earliest TSN was last sent or acknowledged up to."""
        outbound, timers = self._outbound, self._timers
        if not outbound.outstanding:
            timers.pop(Timer.T3_RTX, None)
        elif outbound.earliest_resent or Timer.T3_RTX not in timers:
            timers[Timer.T3_RTX] = now + self._rto.value
        outbound.earliest_resent = False

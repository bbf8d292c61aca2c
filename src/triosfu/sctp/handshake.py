"""Who we are and who the peer is: INIT, INIT ACK, and what a returning cookie means (RFC 9260, section 5)."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from triosfu.sctp.capabilities import Peer, unrecognized
from triosfu.sctp.cookie import Cookie, CookieJar
from triosfu.sctp.parameters import CauseCode, ParameterType, Tlv, cause, find
from triosfu.sctp.serial import TSN_MASK
from triosfu.sctp.timers import Timer, Timers
from triosfu.sctp.wire import CookieEcho, Error, Init

if TYPE_CHECKING:
    from random import Random

    from triosfu.sctp.packer import Packer
    from triosfu.sctp.rto import RetransmissionTimeout
    from triosfu.sctp.settings import Settings

_STALE_COOKIES_UNTIL_FAILURE = 2


class Case(Enum):
    """What a COOKIE ECHO means to us (RFC 9260, section 5.2.4, table 12)."""

    RESTART = auto()  # A: the peer begins anew and knows nothing of the old association
    COLLISION = auto()  # B: both sent an INIT, or we sent none; the peer's tag is the cookie's
    LATE = auto()  # C: the answer to an INIT of ours that is long forgotten
    DUPLICATE = auto()  # D: all as we know it
    STALE = auto()  # it was ours, too long ago
    FOREIGN = auto()


class Handshake:
    """The local end's tag and first TSN, and the peer's once it is known.

    As long as there is no association, every INIT is answered with the same local values: both ends may connect at
    once and must come to one association. An INIT that arrives later gets new ones, which its cookie brings back.
    """

    __slots__ = (
        "_announcement",
        "_attempts",
        "_cookie_echo",
        "_cookie_is_due",
        "_init_sent_at",
        "_jar",
        "_packer",
        "_rng",
        "_rto",
        "_settings",
        "_stale_cookies",
        "_tie_tag",
        "_timers",
        "initial_tsn",
        "peer",
        "tag",
    )

    def __init__(
        self,
        *,
        rng: Random,
        settings: Settings,
        initial_tsn: int | None,
        announcement: tuple[Tlv, ...],
        packer: Packer,
        timers: Timers,
        rto: RetransmissionTimeout,
    ) -> None:
        self._rng, self._settings, self._announcement = rng, settings, announcement
        self._packer, self._timers, self._rto = packer, timers, rto
        self._jar = CookieJar()
        self.tag = self._draw_tag()
        self.initial_tsn = rng.getrandbits(32) if initial_tsn is None else initial_tsn
        self._tie_tag = rng.getrandbits(64) | 1  # names this association in cookies; 0 names none
        self.peer: Peer | None = None
        self._attempts = 0  # to get an answer to INIT, then to COOKIE ECHO
        self._init_sent_at = 0.0
        self._cookie_echo = b""
        self._cookie_is_due = False
        self._stale_cookies = 0

    @property
    def peer_tag(self) -> int:
        """The peer's verification tag, 0 while it is unknown."""
        return 0 if self.peer is None else self.peer.tag

    # As the one who asks

    def send_init(self, now: float) -> None:
        """Send an INIT; T1 repeats it."""
        init = self._announce(False, self.tag, self.initial_tsn, self._announcement)
        self._packer.send_with_tag(0, init.serialize())
        self._init_sent_at = now
        self._timers[Timer.T1_INIT] = now + self._rto.value

    def answered(self, init_ack: Init, now: float) -> None:
        """The INIT is answered: its cookie goes back, and T1 repeats that."""
        if self._attempts == 0:
            self._rto.measured(now - self._init_sent_at)
        self._attempts = 0
        self._timers.pop(Timer.T1_INIT, None)
        self._cookie_echo = CookieEcho(find(init_ack.parameters, ParameterType.STATE_COOKIE) or b"").serialize()
        self._echo_cookie(now)

    def take_cookie_echo(self) -> bytes | None:
        """The COOKIE ECHO chunk if it is to be sent now."""
        due, self._cookie_is_due = self._cookie_is_due, False
        return self._cookie_echo if due else None

    def expired(self, timer: Timer, now: float) -> bool:
        """T1 expired: try again; False if that has been done often enough."""
        self._attempts += 1
        self._rto.back_off()
        if self._attempts > self._settings.max_init_retransmits:
            return False
        if timer is Timer.T1_INIT:
            self.send_init(now)
        else:
            self._echo_cookie(now)
        return True

    def cookie_was_stale(self, now: float) -> bool:
        """The peer wants a fresh cookie: begin again; False if it has said so before."""
        self._stale_cookies += 1
        if self._stale_cookies >= _STALE_COOKIES_UNTIL_FAILURE:
            return False
        self.finished()
        self._attempts = 0
        self.send_init(now)
        return True

    def finished(self) -> None:
        """The association is up, or begins again: T1 stops."""
        self._timers.pop(Timer.T1_INIT, None)
        self._timers.pop(Timer.T1_COOKIE, None)
        self._cookie_is_due = False

    def _echo_cookie(self, now: float) -> None:
        self._cookie_is_due = True
        self._timers[Timer.T1_COOKIE] = now + self._rto.value

    # As the one who is asked

    def answer(self, init: Init, peer: Peer, now: float, *, opening: bool) -> None:
        """Answer an INIT. Nothing is remembered: all of it is in the cookie."""
        if opening:
            tag, tsn, tie_tag = self.tag, self.initial_tsn, 0
        else:
            tag, tsn, tie_tag = self._draw_tag(), self._rng.getrandbits(32), self._tie_tag
        sealed = self._jar.seal(Cookie(now, tag, tsn, tie_tag, peer))
        parameters = (Tlv(ParameterType.STATE_COOKIE, sealed), *self._announcement, *unrecognized(init))
        self._packer.send_with_tag(peer.tag, self._announce(True, tag, tsn, parameters).serialize())

    def examine(self, echo: CookieEcho, tag: int, now: float) -> tuple[Case, Cookie | None]:
        """What a COOKIE ECHO in a packet with verification tag `tag` means; the cookie if it is one of ours."""
        cookie = self._jar.open(echo.cookie)
        if cookie is None or cookie.local_tag != tag:
            return Case.FOREIGN, None
        case = self._judge(cookie)
        if case is not Case.DUPLICATE and now - cookie.made_at > self._settings.cookie_life:
            return Case.STALE, cookie
        return case, cookie

    def restart(self, cookie: Cookie) -> None:
        """Become what the cookie says that we are."""
        self.tag, self.initial_tsn, self.peer = cookie.local_tag, cookie.local_tsn, cookie.peer
        self._tie_tag = self._rng.getrandbits(64) | 1

    def refuse_stale(self, cookie: Cookie, now: float) -> None:
        """Tell the peer that its cookie is stale, and by how many microseconds."""
        staleness = min(int((now - cookie.made_at - self._settings.cookie_life) * 1e6), TSN_MASK)
        error = Error((cause(CauseCode.STALE_COOKIE, staleness.to_bytes(4, "big")),))
        self._packer.send_with_tag(cookie.peer.tag, error.serialize())

    def _judge(self, cookie: Cookie) -> Case:
        match cookie.local_tag == self.tag, cookie.peer.tag == self.peer_tag:
            case True, True:
                return Case.DUPLICATE
            case True, False:
                return Case.COLLISION
            case False, True if cookie.tie_tag == 0:
                return Case.LATE
            case False, False if cookie.tie_tag == self._tie_tag:
                return Case.RESTART
        return Case.FOREIGN

    def _announce(self, ack: bool, tag: int, tsn: int, parameters: tuple[Tlv, ...]) -> Init:  # noqa: FBT001  a chunk type
        settings = self._settings
        return Init(ack, tag, settings.receive_buffer, settings.streams, settings.streams, tsn, parameters)

    def _draw_tag(self) -> int:
        return self._rng.randrange(1, 1 << 32)

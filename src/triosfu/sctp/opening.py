"""How an association comes up, whoever begins, and how a peer that lost its state comes back (RFC 9260, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.capabilities import Peer
from triosfu.sctp.events import Established, Restarted
from triosfu.sctp.handshake import Case
from triosfu.sctp.parameters import CauseCode, ParameterType, cause, find
from triosfu.sctp.state import On, State
from triosfu.sctp.wire import CookieAck, CookieEcho, Error, Init, ShutdownAck

if TYPE_CHECKING:
    from triosfu.sctp.connection import Connection
    from triosfu.sctp.cookie import Cookie


def connect(connection: Connection) -> None:
    """Start the handshake, unless it has begun."""
    if connection.move(On.ASSOCIATE):
        connection.handshake.send_init(connection.now)


def receive_init(connection: Connection, init: Init) -> None:
    """Answer an INIT with a cookie; whatever our state, nothing in it changes before the cookie comes back."""
    peer = Peer.announced(init)
    if peer is None:
        connection.dropped["init"] += 1
    elif connection.state is State.SHUTDOWN_ACK_SENT:
        connection.packer.replies.append(ShutdownAck().serialize())
    else:
        connection.handshake.answer(init, peer, connection.now, opening=connection.opening)


def receive_init_ack(connection: Connection, init: Init) -> None:
    """Learn who the peer is, and send its cookie back."""
    cookie = find(init.parameters, ParameterType.STATE_COOKIE)
    peer = Peer.announced(init)
    if peer is None or not cookie or len(cookie) > connection.unit - 4:
        connection.dropped["init ack"] += 1
    elif connection.move(On.INIT_ACK):
        connection.adopt(peer)
        connection.handshake.answered(init, connection.now)


def receive_cookie_echo(connection: Connection, chunk: CookieEcho, tag: int) -> bool:
    """Act on a COOKIE ECHO; False if it is none of ours and the rest of its packet is void too."""
    case, cookie = connection.handshake.examine(chunk, tag, connection.now)
    if cookie is not None:
        match case:
            case Case.DUPLICATE:
                connection.packer.replies.append(CookieAck().serialize())
                if connection.move(On.COOKIE_ECHO):
                    _established(connection)
                return True
            case Case.COLLISION if connection.move(On.COOKIE_ECHO):
                connection.adopt(cookie.peer)
                connection.packer.replies.append(CookieAck().serialize())
                _established(connection)
                return True
            case Case.RESTART:
                return restart(connection, cookie)
            case Case.STALE:
                connection.handshake.refuse_stale(cookie, connection.now)
                return False
    connection.dropped["cookie"] += 1
    return False


def peer_is_up(connection: Connection) -> None:
    """The peer has sent a COOKIE ACK, or what only an end that is up sends: it has taken our cookie, or we its own.

    DATA, SACK and HEARTBEAT come from nowhere else (RFC 9260, sections 6 and 8.3; what is bundled with a COOKIE ECHO
    aside). With our tag they show that the peer has our cookie, though each COOKIE ACK of it may be lost.
    """
    up = connection.move(On.COOKIE_ACK)
    if not connection.opening:
        connection.liveness.doubtful = False
    if up:
        _established(connection)


def receive_error(connection: Connection, error: Error) -> None:
    """Begin again once if the cookie was stale; nothing else that a peer calls an error changes anything."""
    if find(error.causes, CauseCode.STALE_COOKIE) is None or not connection.move(On.STALE_COOKIE):
        connection.dropped["error chunk"] += 1
    elif not connection.handshake.cookie_was_stale(connection.now):
        connection.give_up("the peer calls every cookie stale")


def restart(connection: Connection, cookie: Cookie) -> bool:
    """Begin anew with a peer that has forgotten the association; False if ours is about to end."""
    if not connection.move(On.RESTART):
        error = Error((cause(CauseCode.COOKIE_WHILE_SHUTTING_DOWN),))
        connection.packer.send_with_tag(cookie.peer.tag, ShutdownAck().serialize(), error.serialize())
        return False
    connection.handshake.restart(cookie)
    connection.begin()
    connection.adopt(cookie.peer)
    connection.packer.replies.append(CookieAck().serialize())
    connection.arm_heartbeat()
    connection.events.append(Restarted())
    return True


def _established(connection: Connection) -> None:
    connection.handshake.finished()
    connection.rto.recovered()
    connection.arm_heartbeat()
    connection.events.append(Established())

"""What each timer does when its time has come (transport reference, section 2.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp import closing
from triosfu.sctp.pathmtu import AFTER_BLACK_HOLE
from triosfu.sctp.state import State
from triosfu.sctp.timers import Timer

if TYPE_CHECKING:
    from triosfu.sctp.connection import Connection


def expired(connection: Connection, timer: Timer) -> None:
    """Act on a timer that has been disarmed just now."""
    match timer:
        case Timer.T1_INIT | Timer.T1_COOKIE:
            _expired_t1(connection, timer)
        case Timer.T2_SHUTDOWN:
            connection.failed_once_more("SHUTDOWN")
            closing.repeat(connection)
        case Timer.T5_GUARD:
            connection.give_up("the shutdown took too long")
        case Timer.T3_RTX:
            _expired_t3(connection)
        case Timer.DELAYED_SACK:
            connection.transmission.sack_due = True
        case Timer.RECONFIG:
            _expired_reconfig(connection)
        case Timer.HEARTBEAT:
            if connection.heartbeat_is_due():
                connection.beat()
        case Timer.HEARTBEAT_ACK:
            connection.failed_once_more("HEARTBEAT")
            if connection.liveness.doubtful and connection.state is not State.ENDED:
                connection.beat()
        case Timer.PATH_MTU:
            if connection.state is State.ESTABLISHED:
                connection.probe_path()


def _expired_t1(connection: Connection, timer: Timer) -> None:
    if connection.outbound.outstanding:
        connection.outbound.timed_out()  # what went along with the cookie goes along again
    if not connection.handshake.expired(timer, connection.now):
        connection.give_up("the peer does not answer the handshake")


def _expired_t3(connection: Connection) -> None:
    connection.failed_once_more("DATA")
    if connection.state is not State.ENDED:
        if connection.path.is_black_hole(connection.liveness.errors):
            connection.narrow_path(after=AFTER_BLACK_HOLE)
        connection.outbound.timed_out()


def _expired_reconfig(connection: Connection) -> None:
    # While T3 runs it counts the peer's silence, and twice would be too fast. Any answer, "in progress" too, resets
    # the count.
    if not connection.outbound.outstanding:
        connection.failed_once_more("RE-CONFIG")
    if connection.state is not State.ENDED:
        connection.transmission.repeat_reset_request(connection.now)

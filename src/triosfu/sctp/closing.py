"""The graceful end: SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE (RFC 9260, section 9.2).

Nobody in WebRTC uses it, so it is kept whole and small. Its end is bounded twice, by T2's count and by the guard T5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.sctp.serial import TSN_MASK
from triosfu.sctp.state import DRAINING, TRANSITIONS, On, State
from triosfu.sctp.timers import Timer
from triosfu.sctp.wire import Shutdown, ShutdownAck, ShutdownComplete

if TYPE_CHECKING:
    from triosfu.sctp.connection import Connection


def shut_down(connection: Connection) -> None:
    """Our user wants the end, after what is queued."""
    if connection.move(On.SHUT_DOWN):
        _guard(connection)
    elif connection.opening:
        connection.end("shut down before it was up")


def drained(connection: Connection) -> None:
    """Go on once everything queued is acknowledged; nothing otherwise."""
    if connection.state in DRAINING and connection.outbound.idle and connection.move(On.DRAINED):
        repeat(connection)


def repeat(connection: Connection) -> None:
    """Send SHUTDOWN or SHUTDOWN ACK, whichever the state asks for; T2 waits for the answer."""
    if connection.state is State.SHUTDOWN_SENT and connection.inbound is not None:
        chunk = Shutdown(connection.inbound.cumulative & TSN_MASK).serialize()
    elif connection.state is State.SHUTDOWN_ACK_SENT:
        chunk = ShutdownAck().serialize()
    else:
        return
    connection.packer.replies.append(chunk)
    connection.timers[Timer.T2_SHUTDOWN] = connection.now + connection.rto.value


def receive(connection: Connection, chunk: Shutdown | ShutdownAck | ShutdownComplete) -> None:
    """Act on one of the three chunks."""
    if isinstance(chunk, Shutdown):
        _receive_shutdown(connection, chunk)
    elif isinstance(chunk, ShutdownComplete):
        connection.finish(On.SHUTDOWN_COMPLETE, "shut down by the peer")
    elif (connection.state, On.SHUTDOWN_ACK) in TRANSITIONS:
        connection.packer.flush_replies()
        connection.packer.send([ShutdownComplete(False).serialize()])  # which stands alone
        connection.finish(On.SHUTDOWN_ACK, "shut down")
    elif connection.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
        complete_unknown(connection, connection.handshake.tag)


def complete_unknown(connection: Connection, tag: int) -> None:
    """End an association that we know nothing of, for a peer that is still ending it, with the tag that it used."""
    connection.packer.send_with_tag(tag, ShutdownComplete(True).serialize())


def _receive_shutdown(connection: Connection, chunk: Shutdown) -> None:
    if not connection.opening:
        if connection.outbound.acknowledge(chunk.cumulative_tsn, connection.now) is not None:
            connection.liveness.proven()
            connection.transmission.sack_received(cumulative_moved=True)
        if connection.move(On.SHUTDOWN):
            _guard(connection)
            repeat(connection)  # at once only if both shut down at once; else when we are drained


def _guard(connection: Connection) -> None:
    connection.timers.setdefault(Timer.T5_GUARD, connection.now + 5 * connection.settings.rto_max)

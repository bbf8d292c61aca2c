"""A packet from the peer: is it for us, what is in it, and who acts on that.

DATA and SACK are the hot path and go straight to the two halves; everything else is looked up by type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from triosfu.errors import MalformedPacket
from triosfu.sctp import closing, opening
from triosfu.sctp.parameters import CauseCode, cause, describe_causes
from triosfu.sctp.state import MAY_RECEIVE_DATA, OPENING, On, State
from triosfu.sctp.timers import Timer
from triosfu.sctp.violation import Violation
from triosfu.sctp.wire import (
    COMMON_HEADER,
    NO_CHECKSUM,
    PACKET_HEADER_SIZE,
    Abort,
    Chunk,
    ChunkType,
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
    from triosfu.sctp.connection import Connection
    from triosfu.sctp.inbound import Inbound


# What only an end sends that is up.
_FROM_ABOVE = frozenset({CookieAck, Data, IData, Sack, Heartbeat})
_ALWAYS_CHECKED = (bytes((ChunkType.INIT,)), bytes((ChunkType.COOKIE_ECHO,)))


def receive_packet(connection: Connection, data: bytes) -> None:
    """Act on a whole packet, or drop it.

    Raises:
        MalformedPacket: It is no SCTP packet; nothing has been acted on.
        Violation: The peer broke the rules in a way that the association does not survive.
    """
    if len(data) < PACKET_HEADER_SIZE:
        raise MalformedPacket("sctp: shorter than a header")
    source_port, destination_port, tag = COMMON_HEADER.unpack_from(data)
    if (destination_port, source_port) != connection.ports:
        connection.dropped["port"] += 1
        return
    if data[8:12] == NO_CHECKSUM and connection.accepts_no_checksum and data[12:13] not in _ALWAYS_CHECKED:
        pass  # DTLS has seen to it (RFC 9653, section 5.3)
    elif not checksum_is_right(data):
        connection.dropped["checksum"] += 1
        return
    chunks = parse_chunks(data)
    if not chunks:
        return
    first = chunks[0]
    connection.packer.begin_datagram(len(data) - PACKET_HEADER_SIZE)
    if type(first) is CookieEcho:
        if not opening.receive_cookie_echo(connection, first, tag):
            return
        receive_chunks(connection, chunks[1:])
        connection.doubt()  # whatever came with it
        return
    if tag != connection.handshake.tag or (type(first) is Init and not first.ack):
        receive_with_other_tag(connection, first, tag, alone=len(chunks) == 1)
        return
    receive_chunks(connection, chunks)


def receive_with_other_tag(connection: Connection, chunk: Chunk, tag: int, *, alone: bool) -> None:
    """Act on the few packets that need not carry our tag (RFC 9260, section 8.5.1)."""
    match chunk:
        case Init(ack=False) if tag == 0 and alone:
            opening.receive_init(connection, chunk)
        case Abort(reflected=True) if tag == connection.handshake.peer_tag != 0:
            connection.end(f"aborted by the peer: {describe_causes(chunk.causes)}")
        case ShutdownComplete(reflected=True) if tag == connection.handshake.peer_tag != 0:
            connection.finish(On.SHUTDOWN_COMPLETE, "shut down")
        case ShutdownAck() if connection.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
            closing.complete_unknown(connection, tag)
        case _:
            connection.dropped["tag"] += 1


def receive_chunks(connection: Connection, chunks: list[Chunk]) -> None:
    """Act on the chunks of a packet of this association, in their order."""
    if connection.liveness.doubtful and any(type(chunk) in _FROM_ABOVE for chunk in chunks):
        opening.peer_is_up(connection)
    inbound = connection.inbound
    data_type = IData if inbound is not None and inbound.interleaving else Data
    has_data = False
    for chunk in chunks:
        kind = type(chunk)
        if kind is data_type:
            if inbound is not None and connection.state in MAY_RECEIVE_DATA:
                inbound.receive(chunk)  # type: ignore[arg-type]  # the line above narrows faster than isinstance
                has_data = True
        elif kind is Sack:
            _receive_sack(connection, chunk)  # type: ignore[arg-type]
        elif not _receive_control(connection, chunk):
            break
        if connection.state is State.ENDED:
            return
    if inbound is not None:
        _after_data(connection, inbound, has_data=has_data)


def _after_data(connection: Connection, inbound: Inbound, *, has_data: bool) -> None:
    """Report what the packet completed, and decide when to acknowledge it."""
    if inbound.unknown_streams:
        for stream_id in inbound.unknown_streams:
            body = stream_id.to_bytes(2, "big") + b"\0\0"
            connection.reply(Error((cause(CauseCode.INVALID_STREAM, body),)).serialize())
        inbound.unknown_streams.clear()
    if has_data:
        connection.transmission.data_received(inbound, connection.now)
        if connection.state is State.SHUTDOWN_SENT:
            closing.repeat(connection)
    released = connection.reconfig.release_held(inbound)
    if released is not None:
        connection.reply(released)


def _receive_sack(connection: Connection, sack: Sack) -> None:
    if connection.state in OPENING:
        return
    result = connection.outbound.receive_sack(sack, connection.now)
    if result is None:
        connection.dropped["sack"] += 1
        return
    # A receiver without room proves with every SACK that it lives, though it takes nothing.
    if result.size or result.cumulative_moved or sack.a_rwnd < connection.unit:
        connection.liveness.proven()
    connection.transmission.sack_received(cumulative_moved=result.cumulative_moved)
    if connection.outbound.cumulative >= connection.path.search_from and connection.may_search_path():
        connection.search_path()


def _receive_control(connection: Connection, chunk: Chunk) -> bool:
    """Act on anything but DATA and SACK; False if the rest of the packet is to be left alone."""
    match chunk:
        case Heartbeat():
            _receive_heartbeat(connection, chunk)
        case ForwardTsn():
            _receive_forward_tsn(connection, chunk)
        case IForwardTsn() if connection.outbound.interleaving:
            _receive_forward_tsn(connection, chunk)
        case Data():
            _receive_misplaced_data(connection)
        case ReConfig():
            _receive_reconfig(connection, chunk)
        case Abort():
            connection.end(f"aborted by the peer: {describe_causes(chunk.causes)}")
            return False
        case CookieAck():
            pass  # it was of use, if it was, before anything else in the packet
        case Init(ack=True):
            opening.receive_init_ack(connection, chunk)
            return False
        case Error():
            opening.receive_error(connection, chunk)
        case Shutdown() | ShutdownAck() | ShutdownComplete():
            closing.receive(connection, chunk)
        case Unknown() | IData() | IForwardTsn():
            return _receive_unknown(connection, chunk)
        case _:  # an INIT or a COOKIE ECHO where none may stand
            connection.dropped["misplaced"] += 1
            return False
    return True


def _receive_heartbeat(connection: Connection, chunk: Heartbeat) -> None:
    if chunk.ack:
        if connection.liveness.is_answer(chunk, connection.now):
            connection.timers.pop(Timer.HEARTBEAT_ACK, None)
            connection.liveness.proven()
        elif connection.path.is_answer(chunk):
            connection.timers.pop(Timer.PATH_MTU, None)
            connection.use_path_mtu()
            if connection.state is State.ESTABLISHED:
                connection.probe_path()
    elif connection.state not in (State.CLOSED, State.COOKIE_WAIT):
        connection.reply(Heartbeat(True, chunk.body).serialize())


def _receive_unknown(connection: Connection, chunk: Unknown | IData | IForwardTsn) -> bool:
    """The two top bits of the type say whether to report it and whether to go on (RFC 9260, section 3.2)."""
    whole = chunk.serialize()
    if whole[0] & 0x40:
        connection.reply(Error((cause(CauseCode.UNRECOGNIZED_CHUNK, whole),)).serialize())
    return bool(whole[0] & 0x80)


def _receive_misplaced_data(connection: Connection) -> None:
    if connection.state in MAY_RECEIVE_DATA:
        raise Violation(CauseCode.PROTOCOL_VIOLATION, "DATA came where I-DATA was negotiated")


def _receive_forward_tsn(connection: Connection, chunk: ForwardTsn | IForwardTsn) -> None:
    if connection.inbound is None or connection.state not in MAY_RECEIVE_DATA:
        return
    if not connection.outbound.partial_reliability or type(chunk) is not connection.inbound.forward_type:
        raise Violation(CauseCode.PROTOCOL_VIOLATION, "FORWARD-TSN was not negotiated")
    connection.inbound.receive_forward(chunk)
    connection.transmission.sack_due = True


def _receive_reconfig(connection: Connection, chunk: ReConfig) -> None:
    if connection.inbound is None or connection.opening:
        connection.dropped["re-config"] += 1
        return
    answer, heard = connection.reconfig.receive(chunk, connection.inbound)
    if heard:
        connection.liveness.proven()
        if not connection.reconfig.in_progress:
            connection.timers.pop(Timer.RECONFIG, None)
    if answer is not None:
        connection.reply(answer)

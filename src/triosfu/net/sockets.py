"""The UDP sockets of a server: a port on every host, and beside each a second one, to which its control comes.

Most datagrams are media, and have to leave at once. Those that only tell something (receiver reports, what has arrived
and how much may be sent, ICE checks) are small, many and come alone: to wake up for one costs several times what
reading it does. So on Linux a port has two sockets (SO_REUSEPORT, socket(7)), and a filter in the kernel says which of
them a datagram comes to. The second one is read in batches where much comes (`net.reading`). What comes is delivered in
the same way from both, so the filter may be wrong.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from triosfu.net.address import family
from triosfu.net.batch import ffi, may_be_fragmented

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUFFER = 4 * 1024 * 1024  # bytes of socket buffer that we ask for, each way
PORT_TRIES = 20  # searches for a port that is free on every host
ATTACH_FILTER = 51  # SO_ATTACH_REUSEPORT_CBPF, which the socket module does not know

# Classic BPF: an operation, how many instructions to skip if it is true, how many if not, and an operand. What is
# returned is a socket's place in the group, in the order in which they were bound. A datagram too short for what is to
# be looked at is for the first one, and so is all that somebody waits for: DTLS, RTP, whatever begins with a sender
# report (a publisher's, whose clocks are to be known at once), NACK, PLI and FIR; and all that nobody knows.
_LOAD, _AND, _LEAST, _EQUAL, _RETURN = 0x30, 0x54, 0x35, 0x15, 0x06
_FILTER = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LOAD, 0, 0, 0),
        (_LEAST, 0, 10, 4),  # below 4 it is STUN (RFC 7983)
        (_LEAST, 0, 8, 128),
        (_LEAST, 7, 0, 192),  # 128 to 191: RTP and RTCP, whose second byte tells which (RFC 5761, section 4)
        (_LOAD, 0, 0, 1),
        (_EQUAL, 6, 0, 201),  # a receiver report comes first, also of a compound
        (_EQUAL, 1, 0, 205),
        (_EQUAL, 0, 3, 206),
        (_LOAD, 0, 0, 0),
        (_AND, 0, 0, 31),
        (_EQUAL, 1, 0, 15),  # of 205 transport-wide feedback, of 206 REMB
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, 1),
    )
)


def bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """A socket on `port` for every host; for port 0 the first one's choice must be free on the others.

    Raises:
        OSError: A host or port cannot be had. Nothing is left open.
    """
    for _ in range(PORT_TRIES - 1 if port == 0 else 0):
        with suppress(OSError):
            return list(_bound(hosts, port))
    return list(_bound(hosts, port))


def _bound(hosts: Sequence[str], port: int) -> Iterator[socket.socket]:
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            sock = socket.socket(family((host, 0)), socket.SOCK_DGRAM)
            opened.append(sock)
            _prepare(sock)
            sock.bind((host, port))
            port = port or sock.getsockname()[1]
    except OSError:
        for sock in opened:
            sock.close()
        raise
    yield from opened


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)  # the kernel gives what it allows
    may_be_fragmented(sock)


def open_beside(sock: socket.socket) -> socket.socket | None:
    """A second socket on the port of `sock`, to which STUN, reports and estimates come from now on.

    None where the system has no such thing or refuses it; then all still comes to `sock`. Who closes it gives its
    datagrams back to `sock`.

    `sock` was bound for itself alone, so another server on this port has been noticed by then, and notices us: it would
    have to ask for SO_REUSEPORT, and run as the same user, to be let in.
    """
    if sys.platform != "linux":
        return None
    beside = socket.socket(sock.family, socket.SOCK_DGRAM)
    try:
        _prepare(beside)
        for one in (sock, beside):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        beside.bind(sock.getsockname())
        attach_filter(sock)
    except OSError:
        beside.close()
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        return None
    return beside


def attach_filter(sock: socket.socket) -> None:
    """Have the kernel choose by `_FILTER` among the two sockets that share the port of `sock`.

    Raises:
        OSError: It will not.
    """
    program = ffi.from_buffer(_FILTER)  # the kernel takes a copy
    described = struct.pack("HP", len(_FILTER) // 8, int(ffi.cast("uintptr_t", program)))
    sock.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, described)

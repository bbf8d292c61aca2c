"""Addresses as people write them, and as the kernel does: `sockaddr_in` and `sockaddr_in6`.

The kernel's form is the key of the routing tables, because it comes with every datagram at no cost.
"""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import TypeAlias

from triosfu.errors import UsageError

Address: TypeAlias = tuple[str, int]
"""A numeric IP address and a port."""

FAMILY, PORT = struct.Struct("=H"), struct.Struct("!H")
IPV4, IPV6 = FAMILY.pack(socket.AF_INET), FAMILY.pack(socket.AF_INET6)
IPV4_LENGTH, IPV6_LENGTH = 16, 28


def pack(address: Address) -> bytes:
    """The socket address of `address`.

    Raises:
        UsageError: The host is not a numeric address, or the port not a port.
    """
    host, port = address
    try:
        if ":" not in host:
            return IPV4 + PORT.pack(port) + socket.inet_pton(socket.AF_INET, host) + bytes(8)
        host, _, scope = host.partition("%")
        index = 0 if not scope else int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
        packed = socket.inet_pton(socket.AF_INET6, host)
        return IPV6 + PORT.pack(port) + bytes(4) + packed + struct.pack("=I", index)
    except (OSError, struct.error):
        raise UsageError("net: not a numeric address and port") from None


@lru_cache(maxsize=8192)  # every datagram asks for its sender
def unpack(raw: bytes) -> Address:
    """The address in a socket address that the kernel or `pack` made."""
    port = PORT.unpack_from(raw, 2)[0]
    if raw[:2] == IPV4:
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
    scope = struct.unpack_from("=I", raw, 24)[0]
    return (f"{host}%{scope}" if scope else host), port


def family(address: Address) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET

"""The ways out of the egress arena: a socket that sends by the batch, one that does not, TCP connections, none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from triosfu.net.batch import FULL, send_error, send_unfragmented
from triosfu.net.messages import segmentation_available

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from triosfu.net.address import Address
    from triosfu.net.batch import Arena, DatagramSocket
    from triosfu.net.egress import Destination
    from triosfu.net.messages import Messages
    from triosfu.net.tcp import Connection, TcpPort


class Outlet(Protocol):
    """A way out for datagrams of the egress arena."""

    def send(self, slots: range) -> Sequence[int]:
        """Send `slots`; those for which the socket has no room. Must neither wait nor raise."""

    def send_one(self, data: bytes, address: Address) -> bool:
        """Send `data`; whether the socket had room for it. Must neither wait nor raise."""

    def probe(self, data: bytes, address: Address) -> None:
        """Send `data` now, in one piece or not at all; must neither wait nor raise."""

    def close(self) -> None:
        """Drop everything from now on: the socket is about to be closed, and its number to be given to another."""


class BatchedOutlet:
    """A socket that sends with sendmmsg."""

    def __init__(
        self, sock: DatagramSocket, messages: Messages, queued: list[Destination], counters: Counter[str]
    ) -> None:
        self._socket = sock
        self._descriptor = sock.fileno()
        self._messages = messages
        self._queued = queued
        self._counters = counters
        self.segmented = segmentation_available(sock)

    def send(self, slots: range) -> Sequence[int]:
        """Send slots; those there was no room for."""
        if self._descriptor < 0:
            self._counters["send_closed"] += len(slots)
            return ()
        unsent, self.segmented = self._messages.send(
            self._descriptor, self._queued, slots, self._counters, segmented=self.segmented
        )
        return unsent

    def send_one(self, data: bytes, address: Address) -> bool:
        """Send one datagram; whether there was room for it."""
        if self._descriptor < 0:
            self._counters["send_closed"] += 1
            return True
        return _send_one(self._socket, data, address, self._counters)

    def probe(self, data: bytes, address: Address) -> None:
        """Send one datagram in one piece or not at all."""
        if self._descriptor < 0:
            self._counters["send_closed"] += 1
            return
        send_unfragmented(self._socket, data, address, self._counters)

    def close(self) -> None:
        """Drop everything from now on."""
        self._descriptor = -1


class PlainOutlet:
    """A socket that sends with one call per datagram."""

    def __init__(
        self,
        sock: DatagramSocket,
        slots: Arena,
        counters: Counter[str],
        queued: list[Destination],
        large: dict[int, bytes],
    ) -> None:
        self._socket: DatagramSocket | None = sock
        self._slots = slots
        self._counters = counters
        self._queued = queued
        self._large = large

    def send(self, slots: range) -> Sequence[int]:
        """Send slots; those there was no room for."""
        for slot in slots:
            data = self._large.get(slot) or self._slots.datagram(slot)
            if not self.send_one(data, self._queued[slot].address):
                return range(slot, slots.stop)
        return ()

    def send_one(self, data: bytes | memoryview, address: Address) -> bool:
        """Send one datagram; whether there was room for it."""
        if self._socket is None:
            self._counters["send_closed"] += 1
            return True
        return _send_one(self._socket, data, address, self._counters)

    def probe(self, data: bytes, address: Address) -> None:
        """Send one datagram in one piece or not at all."""
        if self._socket is None:
            self._counters["send_closed"] += 1
            return
        send_unfragmented(self._socket, data, address, self._counters)

    def close(self) -> None:
        """Drop everything from now on."""
        self._socket = None


class StreamOutlet:
    """A port that takes TCP connections: a packet goes over the one from where it is addressed to."""

    def __init__(
        self,
        port: TcpPort,
        slots: Arena,
        queued: list[Destination],
        large: dict[int, bytes],
        counters: Counter[str],
    ) -> None:
        self._port: TcpPort | None = port
        self._slots = slots
        self._queued = queued
        self._large = large
        self._counters = counters

    def send(self, slots: range) -> Sequence[int]:
        """Send slots; those there was no room for."""
        touched: dict[Connection, None] = {}
        connections = {} if self._port is None else self._port.connections
        for slot in slots:
            connection = connections.get(self._queued[slot].address)
            if connection is None:
                self._counters["send_no_stream"] += 1
                continue
            connection.write(self._large.get(slot) or self._slots.datagram(slot))
            touched[connection] = None
        for connection in touched:
            connection.flush()
        return ()  # what a connection does not take it has dropped itself

    def send_one(self, data: bytes, address: Address) -> bool:
        """Send one datagram; whether there was room for it."""
        connection = None if self._port is None else self._port.connections.get(address)
        if connection is None:
            self._counters["send_no_stream"] += 1
        else:
            connection.write(data)
            connection.flush()
        return True

    def probe(self, data: bytes, address: Address) -> None:  # noqa: ARG002  there is nothing to find out
        """Send one datagram in one piece or not at all."""
        self._counters["send_probe"] += 1

    def close(self) -> None:
        """Drop everything from now on."""
        self._port = None


class NoOutlet:
    """Where datagrams for an address family without a socket go."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters

    def send(self, slots: range) -> Sequence[int]:
        """Send slots; those there was no room for."""
        self._counters["send_no_socket"] += len(slots)
        return ()

    def send_one(self, data: bytes, address: Address) -> bool:  # noqa: ARG002  nor here
        """Send one datagram; whether there was room for it."""
        self._counters["send_no_socket"] += 1
        return True

    def probe(self, data: bytes, address: Address) -> None:  # noqa: ARG002  nor here
        """Send one datagram in one piece or not at all."""
        self._counters["send_no_socket"] += 1

    def close(self) -> None:
        """Nothing to do."""


def _send_one(sock: DatagramSocket, data: bytes | memoryview, address: Address, drops: Counter[str]) -> bool:
    """Send one datagram, or count why not; whether the socket had room for it."""
    try:
        sock.sendto(data, address)
    except OSError as error:
        if error.errno in FULL:
            return False
        drops[send_error(error.errno)] += 1
    return True

"""ICE over TCP, the server's side: peers that no UDP reaches connect to us, and each connection is one more path.

Every packet (STUN, DTLS, SRTP alike) has its length before it, in two bytes (RFC 4571; RFC 6544, section 3). A
connection has one reader, which gives what came to the mux by the batch as if it were datagrams, and while the kernel
takes no more a writer. It is a stranger's until ICE has authenticated a check that came over it: strangers are few, and
have ten seconds.

A slow connection holds up nobody: what does not fit its backlog is dropped and counted, as a network would.
"""

from __future__ import annotations

import errno
import math
import socket
from typing import TYPE_CHECKING, Final

import trio

from triosfu.net.address import pack, unpack
from triosfu.net.batch import ALONE, BATCH, LARGEST, Arena

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from triosfu.net.address import Address
    from triosfu.net.batch import Pointer

MAX_CONNECTIONS: Final = 4096  # of one port
MAX_STRANGERS: Final = 256  # of them, those that nobody has proven to be a peer's; the oldest goes
PATIENCE: Final = 10.0  # seconds for a check that is authentic
STALLED: Final = 10.0  # seconds in which a kernel that was full takes nothing
FAREWELL: Final = 0.5  # seconds for what is queued, when the peer is done with
MEDIA_BACKLOG: Final = 64 << 10  # bytes that wait; media beyond them is dropped,
BACKLOG: Final = 128 << 10  # and beyond these everything: what matters is repeated by its own protocol
KERNEL_BACKLOG: Final = 64 << 10  # bytes that the kernel is asked to keep: they can be dropped no more
READ: Final = 64 << 10  # bytes of one receiving call
TURNS: Final = 4  # receiving calls in a row before others have theirs
HEADER: Final = 2  # bytes of a length
# A peer that has another path as well may leave this one without a word: the kernel finds out within a minute.
TCP_OPTIONS: Final = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_USER_TIMEOUT": 20_000}
PENDING: Final = 128  # connections that wait to be accepted
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
REST: Final = 0.1  # seconds until one who has no descriptor left tries again


class UnframedError(Exception):
    """A stream that is no series of packets as we take them."""


class Frames:
    """What has come of a stream and was not taken yet: bytes in, packets out."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def __len__(self) -> int:
        return len(self._waiting)

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream."""
        self._waiting += data

    def take(self, views: list[memoryview]) -> list[int]:
        """Copy the next packets to `views`, one to each, as far as they have come; returns their lengths.

        Raises:
            UnframedError: The next packet is larger than any is.
        """
        lengths: list[int] = []
        waiting, at = self._waiting, 0
        while len(lengths) < len(views) and len(waiting) - at >= HEADER:
            length = waiting[at] << 8 | waiting[at + 1]
            if length > LARGEST:
                if lengths:
                    break  # these first
                raise UnframedError
            end = at + HEADER + length
            if end > len(waiting):
                break
            views[len(lengths)][:length] = waiting[at + HEADER : end]
            lengths.append(length)
            at = end
        del waiting[:at]
        return lengths


class FrameInbox:
    """Where packets land between a connection and the mux (see `net.batch.Inbox`); one serves all connections."""

    def __init__(self) -> None:
        self._arena = Arena(BATCH, LARGEST)
        self.views = [self._arena.view(index) for index in range(BATCH)]
        self.pointers: list[Pointer] = [self._arena.pointer + index * LARGEST for index in range(BATCH)]
        self.lengths: list[int] = []
        self.sources: list[bytes] = []
        self.following = ALONE

    def take(self, frames: Frames, source: bytes) -> int:
        """Take the next packets of a stream; how many. Errors as `Frames.take`."""
        self.lengths = frames.take(self.views)
        self.sources = [source] * len(self.lengths)
        return len(self.lengths)


class Connection:
    """The TCP connection of one peer, or as yet of a stranger."""

    def __init__(self, sock: socket.socket, remote: Address, counters: Counter[str]) -> None:
        self.remote = remote
        self.source = pack(remote)
        self.ending = False
        self._socket = sock
        self._counters = counters
        self._frames = Frames()
        self._backlog = bytearray()
        self._nursery: trio.Nursery | None = None  # while it may have a writer
        self._has_writer = False
        self._scope = trio.CancelScope(deadline=trio.current_time() + PATIENCE)

    def stay(self) -> None:
        """Stay until `end`, or until the other side has had enough."""
        if not self.ending:
            self._scope.deadline = math.inf

    def end(self) -> None:
        """Take in nothing more, and close when what is queued has had its half second."""
        self.ending = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + FAREWELL)

    def abandon(self) -> None:
        """Close without a further word."""
        self.ending = True
        self._scope.cancel()

    def write(self, packet: memoryview | bytes) -> None:
        """Queue one packet, or drop and count it; `flush` follows."""
        length = len(packet)
        waiting = len(self._backlog) + length
        if waiting > (MEDIA_BACKLOG if 128 <= packet[0] < 192 else BACKLOG):
            self._counters["tcp_backlog"] += 1
            return
        self._backlog += length.to_bytes(HEADER, "big")
        self._backlog += packet

    def flush(self) -> None:
        """Hand to the kernel what it takes; a writer goes on with the rest. Never waits, never raises."""
        if not self._backlog:
            return
        try:
            sent = self._socket.send(self._backlog)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._backlog.clear()
            self.abandon()
            return
        del self._backlog[:sent]
        if self._backlog and not self._has_writer and self._nursery is not None:
            self._has_writer = True
            self._nursery.start_soon(self._write, name="tcp writer")

    async def run(self, deliver: Callable[[Frames], None]) -> None:
        """Read and write until the peer or we have had enough; the socket is closed then, cancelled or not."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    try:
                        await self._read(deliver)
                    finally:
                        self._nursery = None
                        nursery.cancel_scope.cancel()
        finally:
            self.ending = True
            self._socket.close()

    async def _read(self, deliver: Callable[[Frames], None]) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            for _ in range(TURNS):
                try:
                    data = self._socket.recv(READ)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:
                    return
                if not data:
                    return
                if self.ending:
                    continue  # to nobody
                self._frames.feed(data)
                try:
                    deliver(self._frames)
                except UnframedError:
                    self._counters["tcp_unframed"] += 1
                    return

    async def _write(self) -> None:
        while self._backlog:
            with trio.move_on_after(STALLED) as patience:
                await trio.lowlevel.wait_writable(self._socket)
            if patience.cancelled_caught:
                self._counters["tcp_stalled"] += 1
                self.abandon()
                return
            self.flush()
        self._has_writer = False


class TcpPort:
    """Listening sockets behind one address, and the connections that came to them."""

    def __init__(self, sockets: Sequence[socket.socket], counters: Counter[str]) -> None:
        self.connections: dict[Address, Connection] = {}  # by where they come from
        self._strangers: dict[Connection, None] = {}  # the oldest first
        self._sockets = sockets
        self._counters = counters

    async def serve(self, deliver: Callable[[Connection, Frames], None], gone: Callable[[Connection], None]) -> None:
        """Accept and serve for ever. Cancelled, every connection is closed.

        `deliver` takes from a connection's frames what has come, and lets pass what they raise; `gone` is told when it
        is over. Neither waits.
        """
        async with trio.open_nursery() as nursery:
            for sock in self._sockets:
                nursery.start_soon(self._accept, sock, nursery, deliver, gone)

    async def _accept(
        self,
        listener: socket.socket,
        nursery: trio.Nursery,
        deliver: Callable[[Connection, Frames], None],
        gone: Callable[[Connection], None],
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, (host, port, *_) = listener.accept()
            except OSError as error:
                # Whoever it was has gone again; or there is nothing left to serve it with.
                if error.errno in SCARCE:
                    self._counters["tcp_scarce"] += 1
                    await trio.sleep(REST)
                continue
            connection = self._take(sock, unpack(pack((host, port))))
            if connection is not None:
                nursery.start_soon(self._serve, connection, deliver, gone, name="tcp connection")

    def _take(self, sock: socket.socket, remote: Address) -> Connection | None:
        """Take a new connection in, perhaps in the place of a stranger."""
        self._counters["tcp_accepted"] += 1
        if len(self._strangers) >= MAX_STRANGERS:
            self._counters["tcp_strangers"] += 1
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abandon()
        if len(self.connections) >= MAX_CONNECTIONS or remote in self.connections:
            self._counters["tcp_refused"] += 1
            sock.close()
            return None
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BACKLOG)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in TCP_OPTIONS.items():
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        except OSError:  # it is gone already, which its reader finds out
            self._counters["tcp_gone"] += 1
        connection = self.connections[remote] = Connection(sock, remote, self._counters)
        self._strangers[connection] = None
        return connection

    def prove(self, connection: Connection) -> None:
        """Keep a connection for as long as its peer stays: ICE has authenticated a check that came over it."""
        self._strangers.pop(connection, None)
        connection.stay()

    async def _serve(
        self,
        connection: Connection,
        deliver: Callable[[Connection, Frames], None],
        gone: Callable[[Connection], None],
    ) -> None:
        try:
            await connection.run(lambda frames: deliver(connection, frames))
        finally:
            del self.connections[connection.remote]
            self._strangers.pop(connection, None)
            gone(connection)


def listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """A listening socket on `port` of every host.

    Raises:
        OSError: One cannot be had; then none is left open.
    """
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(PENDING)
            port = port or sock.getsockname()[1]
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets

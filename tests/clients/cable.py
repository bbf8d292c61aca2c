"""Cables that a test can pull: each client in a network of its own, joined to the server's by a veth pair and a switch.

The server sits at a bridge, so it sees no carrier go when a cable is pulled: only silence, as with a client whose
wireless network is gone. A tripwire looks at the packets that pass and pulls the cable at the first of a kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SWITCH: Final = "hole"
SERVER: Final = "10.79.0.1"
HOME: Final = "home"  # the client's end
EVERYTHING: Final = 0x0003  # ETH_P_ALL
ETHERNET: Final = 14  # bytes of its header
IPV4: Final = b"\x08\x00"
OUTGOING: Final = 4  # PACKET_OUTGOING: from the server to the client
TCP, UDP = 6, 17
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
STUN, DTLS_HANDSHAKE, DTLS_DATA = range(4), range(22, 23), range(23, 24)  # first bytes (RFC 7983; RFC 6347, 4.1)


@contextlib.contextmanager
def switch() -> Iterator[None]:
    """Where cables end, with the server's address."""
    ip("link", "add", SWITCH, "type", "bridge", "forward_delay", 0)
    try:
        ip("address", "add", f"{SERVER}/16", "dev", SWITCH)
        ip("link", "set", SWITCH, "up")
        yield
    finally:
        ip("link", "delete", SWITCH)


@dataclass(frozen=True, slots=True)
class Moment:
    """The nth datagram of a kind, or what the server says first on the WebSocket."""

    name: str
    protocol: int = UDP
    kind: range = range(256)
    nth: int = 1

    def is_it(self, protocol: int, payload: bytes, *, outgoing: bool) -> bool:
        """Whether a packet counts."""
        if protocol != self.protocol or not payload:
            return False
        if protocol == TCP:
            # The upgrade's answer may come together with the first frame: final, and text or binary.
            upgraded = payload.startswith(b"HTTP/1.1 101")
            frames = payload.partition(b"\r\n\r\n")[2] if upgraded else payload
            return outgoing and frames[:1] in {b"\x81", b"\x82"}
        return payload[0] in self.kind


JOINING: Final = (  # in the order in which they come
    Moment("the join answer", protocol=TCP),
    Moment("the first ICE check", kind=STUN),
    Moment("the ClientHello", kind=DTLS_HANDSHAKE),
    Moment("the third DTLS flight", kind=DTLS_HANDSHAKE, nth=3),
    Moment("the SCTP handshake", kind=DTLS_DATA),
    Moment("the channels opening", kind=DTLS_DATA, nth=5),
)


class Cable:
    """A veth pair from the switch to one client's network."""

    def __init__(self, number: int) -> None:
        self.name = f"cable{number}"
        self._address = f"10.79.{1 + number // 250}.{1 + number % 250}"
        self.pulled: float | None = None  # when, by the monotonic clock
        self._pid = 0  # of the process that has the other end
        ip("link", "add", self.name, "type", "veth", "peer", "name", HOME)
        ip("link", "set", self.name, "master", SWITCH)
        # What is for a cable that was pulled must not come out of the others.
        ip("link", "set", self.name, "type", "bridge_slave", "flood", "off", "isolated", "on")
        ip("link", "set", self.name, "up")

    def plug_in(self, pid: int) -> None:
        """Give the other end to the network of the process `pid`."""
        self._pid = pid
        ip("link", "set", HOME, "netns", pid)
        for command in ("link set lo up", f"address add {self._address}/16 dev {HOME}", f"link set {HOME} up"):
            subprocess.run(["nsenter", "--net", "--target", str(pid), "ip", *command.split()], check=True)

    def pull(self) -> None:
        """From now on nothing gets through, either way; done within a millisecond, for a tripwire's sake."""
        if self.pulled is None:
            self._switch(up=False)
            self.pulled = time.monotonic()

    def plug_back(self) -> None:
        """Everything gets through again, after however long."""
        self._switch(up=True)
        self.pulled = None

    def reset_connections(self) -> None:
        """Have the client's TCP connections end, as where what stands between has forgotten them."""
        inside = ("nsenter", "--net", "--target", str(self._pid))
        subprocess.run([*inside, "ss", "--kill", "--tcp"], check=True, stdout=subprocess.DEVNULL)

    def _switch(self, *, up: bool) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            name = self.name.encode().ljust(16, b"\0")
            (flags,) = struct.unpack("16xH", fcntl.ioctl(control, GET_FLAGS, name + bytes(16))[:18])
            fcntl.ioctl(control, SET_FLAGS, name + struct.pack("H14x", flags | UP if up else flags & ~UP))

    def remove(self) -> None:
        """Take the cable away, if the end of its client's network has not done so."""
        subprocess.run(["ip", "link", "delete", self.name], check=False, stderr=subprocess.DEVNULL)


class Tripwire:
    """Pulls a cable at a moment; `armed` first, then the client may begin."""

    def __init__(self, cable: Cable, moment: Moment) -> None:
        self._cable, self._moment = cable, moment
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
        self._socket.bind((cable.name, EVERYTHING))
        self._socket.settimeout(0.2)
        self._over = False
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def sprung(self) -> bool:
        """Whether the moment has come."""
        return self._cable.pulled is not None

    def remove(self) -> None:
        """Watch no more."""
        self._over = True
        self._thread.join()
        self._socket.close()

    def _watch(self) -> None:
        seen = 0
        while not self._over:
            try:
                frame, address = self._socket.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError:  # the cable is gone
                return
            protocol, payload = dissect(frame)
            seen += self._moment.is_it(protocol, payload, outgoing=address[2] == OUTGOING)
            if seen >= self._moment.nth:
                self._cable.pull()
                return


def dissect(frame: bytes) -> tuple[int, bytes]:
    """IP's protocol number and what is in the TCP segment or UDP datagram; (0, b"") for anything else."""
    if frame[12:14] != IPV4:
        return 0, b""
    packet = frame[ETHERNET:]
    packet = packet[: int.from_bytes(packet[2:4], "big")]  # short frames are padded
    protocol, transport = packet[9], packet[4 * (packet[0] & 15) :]
    if protocol == UDP:
        return protocol, transport[8:]
    return (protocol, transport[4 * (transport[12] >> 4) :]) if protocol == TCP else (0, b"")


def ip(*command: object) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *map(str, command)], check=True)

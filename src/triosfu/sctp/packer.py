"""From chunks to packets: control chunks wait here to be bundled, packets to be drained."""

from __future__ import annotations

from collections import deque

from triosfu.sctp.wire import PacketHeader


class Packer:
    """Bundles chunks into packets of at most `unit` bytes of chunks."""

    __slots__ = ("_allowance", "_asked", "_header", "_outbox", "_ports", "_probe", "replies", "unit", "with_checksum")

    def __init__(self, *, ports: tuple[int, int], unit: int) -> None:
        self._ports, self.unit = ports, unit
        self._header = PacketHeader(*ports, 0)
        self._outbox: list[bytes] = []
        self._probe: list[bytes] = []
        self._allowance = self._asked = 0
        self.with_checksum = True  # False if the peer does without (RFC 9653)
        self.replies: deque[bytes] = deque()  # control chunks for the next packets

    def address(self, tag: int) -> None:
        """Send to the peer with this verification tag from now on."""
        self._header = PacketHeader(*self._ports, tag)

    def begin_datagram(self, size: int) -> None:
        """`size` bytes of chunks have come: the answers to them fill one packet, or are one of that size."""
        self._allowance, self._asked = self.unit, size

    def answer(self, chunk: bytes) -> bool:
        """Queue a chunk that the datagram at hand asks for; False if it has asked for too much."""
        if len(chunk) > self._allowance and (len(chunk) > self._asked or self._allowance < self.unit):
            return False
        self._allowance -= len(chunk)
        self.replies.append(chunk)
        return True

    def take_replies(self, pieces: list[bytes]) -> int:
        """Move queued control chunks into a packet while they fit; the room that is left in it."""
        room, replies = self.unit, self.replies
        while replies and (len(replies[0]) <= room or not pieces):
            chunk = replies.popleft()
            room -= len(chunk)
            pieces.append(chunk)
        return room

    def flush_replies(self) -> None:
        """Make packets of the queued control chunks alone."""
        while self.replies:
            pieces: list[bytes] = []
            self.take_replies(pieces)
            self.send(pieces)

    def send(self, pieces: list[bytes]) -> None:
        """Queue a packet of these chunks to the peer."""
        header = self._header
        self._outbox.append(header.packet(pieces) if self.with_checksum else header.packet_without_checksum(pieces))

    def send_probe(self, pieces: list[bytes]) -> None:
        """Have a packet of these chunks wait for its drain, in place of an earlier one that nobody has drained."""
        self._probe = [self._header.packet(pieces)]

    def send_checked(self, pieces: list[bytes]) -> None:
        """Queue a packet that has its checksum in any case, as the one with a COOKIE ECHO (RFC 9653, section 5.2)."""
        self._outbox.append(self._header.packet(pieces))

    def send_with_tag(self, tag: int, *chunks: bytes) -> None:
        """Queue a packet that does not belong to the association as it stands, with its checksum."""
        self._outbox.append(PacketHeader(*self._ports, tag).packet(chunks))

    def drain_probe(self) -> list[bytes]:
        """The probe that waits, if one does."""
        if not self._probe:
            return []
        drained, self._probe = self._probe, []
        return drained

    def drain(self) -> list[bytes]:
        """All queued packets."""
        drained, self._outbox = self._outbox, []
        return drained

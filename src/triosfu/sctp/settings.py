"""The constants of an association."""

from __future__ import annotations

from dataclasses import dataclass

from triosfu.sctp.wire import PACKET_HEADER_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and times; the defaults suit WebRTC."""

    mtu: int = 1191  # an SCTP packet in DTLS in TURN in UDP in IPv6, within 1280 bytes
    # Tried when there is much to send: WireGuard, Ethernet, jumbo frames, and the largest record of DTLS (loopback).
    larger_mtus: tuple[int, ...] = (1332, 1412, 8912, 16_384)
    streams: int = 65535
    receive_buffer: int = 1 << 20
    # A peer delays its SACKs by 200 ms at most, so a lower minimum than RFC 9260's second is safe; the low maximum
    # makes eleven expiries take 33 s at most.
    rto_initial: float = 1.0
    rto_min: float = 0.4
    rto_max: float = 3.0
    max_init_retransmits: int = 8
    max_retransmits: int = 10
    max_burst: int = 4  # packets of DATA for each event
    delayed_sack: float = 0.1  # libdatachannel repeats a lone message after 0.2
    heartbeat_interval: float = 30.0
    cookie_life: float = 60.0
    # Announced to the peer; used if the peer announces it too.
    interleaving: bool = True  # I-DATA: a large message does not hold up those of other streams (RFC 8260)
    zero_checksum: bool = True  # no CRC-32C where DTLS protects every packet anyhow (RFC 9653)

    @property
    def unit(self) -> int:
        """The bytes of chunks that fit into one packet, padding included."""
        return unit_of(self.mtu)


def unit_of(mtu: int) -> int:
    """The bytes of chunks that fit into a packet of `mtu` bytes, padding included."""
    return (mtu - PACKET_HEADER_SIZE) & ~3

"""Candidates: the addresses at which a peer might be reached, as SDP and trickle messages write them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Literal, Self, TypeVar

from triosfu.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = tuple[str, int]
"""A numeric IP address and a port."""

CandidateType = Literal["host", "srflx", "prflx", "relay"]
Protocol = Literal["udp", "tcp"]
TcpType = Literal["active", "passive", "so"]

Word = TypeVar("Word", bound=str)

TYPES: Final[Mapping[str, CandidateType]] = {"host": "host", "prflx": "prflx", "srflx": "srflx", "relay": "relay"}
PROTOCOLS: Final[Mapping[str, Protocol]] = {"udp": "udp", "tcp": "tcp"}
TCP_TYPES: Final[Mapping[str, TcpType]] = {"active": "active", "passive": "passive", "so": "so"}

TYPE_PREFERENCE: Final[Mapping[CandidateType, int]] = {"host": 126, "prflx": 110, "srflx": 100, "relay": 0}
TCP_PENALTY: Final = 27  # any UDP path is better than the same path over TCP
MAX_LINE: Final = 1024  # characters; the longest real candidates have some 250
MAX_FOUNDATION: Final = 32
MAX_EXTENSIONS: Final = 16


def priority_of(kind: CandidateType, *, local_preference: int, component: int = 1, protocol: Protocol = "udp") -> int:
    """The priority of a candidate (RFC 8445, section 5.1.2.1); `local_preference` is 0 to 65535."""
    preference = max(0, TYPE_PREFERENCE[kind] - (TCP_PENALTY if protocol == "tcp" else 0))
    return preference << 24 | local_preference << 8 | 256 - component


@dataclass(frozen=True, slots=True)
class Candidate:
    """One transport address of one side; `str` writes what `parse` reads (RFC 8839, section 5.1).

    The host of `address` is a numeric IP address in its canonical spelling, or a name (mDNS) that nobody here resolves.
    """

    foundation: str
    component: int
    protocol: Protocol
    priority: int
    address: Address
    type: CandidateType
    related: Address | None = None
    tcptype: TcpType | None = None
    ufrag: str | None = None
    extensions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def host(
        cls,
        address: Address,
        *,
        protocol: Protocol = "udp",
        tcptype: TcpType | None = None,
        local_preference: int = 65535,
    ) -> Self:
        """A host candidate of our own, with the foundation and the priority that the RFC prescribes."""
        foundation = str(zlib.crc32(f"host {address[0]} {protocol}".encode()))
        priority = priority_of("host", local_preference=local_preference, protocol=protocol)
        return cls(foundation, 1, protocol, priority, address, "host", tcptype=tcptype)

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read `candidate:...`, with or without `a=` and `candidate:` before it; MalformedPacket if it is not one."""
        if len(line) > MAX_LINE or not line.isascii():
            raise MalformedPacket("ice: candidate is too long or not ASCII")
        words = line.strip().removeprefix("a=").removeprefix("candidate:").split()
        if len(words) < 8 or words[6].lower() != "typ":
            raise MalformedPacket("ice: not a candidate")
        foundation, component, protocol, priority, host, port, _, kind = words[:8]
        if len(foundation) > MAX_FOUNDATION:
            raise MalformedPacket("ice: foundation is too long")
        rest = list(zip(words[8::2], words[9::2], strict=False))
        related, tcptype, ufrag, extensions = _parse_rest(rest)
        return cls(
            foundation,
            _number(component, 1, 256),
            _one_of(PROTOCOLS, protocol),
            _number(priority, 0, 0xFFFFFFFF),
            (canonical_host(host), _number(port, 0, 0xFFFF)),
            _one_of(TYPES, kind),
            related,
            tcptype,
            ufrag,
            extensions,
        )

    def __str__(self) -> str:
        host, port = self.address
        line = f"candidate:{self.foundation} {self.component} {self.protocol} {self.priority} {host} {port}"
        words = [line, f"typ {self.type}"]
        if self.related is not None:
            words.append(f"raddr {self.related[0]} rport {self.related[1]}")
        if self.tcptype is not None:
            words.append(f"tcptype {self.tcptype}")
        if self.ufrag is not None:
            words.append(f"ufrag {self.ufrag}")
        words += (f"{name} {value}" for name, value in self.extensions)
        return " ".join(words)

    @property
    def reachable(self) -> bool:
        """Whether a datagram can be sent there at all: numeric, one host, a port. Names such as mDNS's are not."""
        host = _numeric(self.address[0])
        if host is None:
            return False
        # A link-local IPv6 address means nothing without the interface, which a peer cannot name for us.
        lost = host.is_multicast or host.is_unspecified or (host.version == 6 and host.is_link_local)
        return not lost and self.address[0] != "255.255.255.255" and self.address[1] != 0


def canonical_host(host: str) -> str:
    """An IP address as sockets spell it, so that addresses can be compared as text; names come back in lower case."""
    parsed = _numeric(host)
    if parsed is None:
        return host.lower()
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


@lru_cache(maxsize=1024)  # a client names each of its addresses several times, and for each of its connections
def _numeric(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_ipv6(address: Address) -> bool:
    """Whether this numeric address is one of IPv6; only addresses of one family can talk to each other."""
    return ":" in address[0]


def _parse_rest(
    rest: list[tuple[str, str]],
) -> tuple[Address | None, TcpType | None, str | None, tuple[tuple[str, str], ...]]:
    """What follows the type: name and value, in any order, unknown ones kept."""
    related_host, related_port = None, None
    tcptype: TcpType | None = None
    ufrag = None
    extensions: list[tuple[str, str]] = []
    for name, value in rest:
        match name.lower():
            case "raddr":
                related_host = canonical_host(value)
            case "rport":
                related_port = _number(value, 0, 0xFFFF)
            case "tcptype":
                tcptype = _one_of(TCP_TYPES, value)
            case "ufrag":
                ufrag = value
            case _:
                extensions.append((name, value))
    if len(extensions) > MAX_EXTENSIONS:
        raise MalformedPacket("ice: too many candidate extensions")
    related = None if related_host is None or related_port is None else (related_host, related_port)
    return related, tcptype, ufrag, tuple(extensions)


def _number(word: str, lowest: int, highest: int) -> int:
    if not word.isdecimal() or len(word) > 10 or not lowest <= int(word) <= highest:
        raise MalformedPacket("ice: a number of the candidate is out of range")
    return int(word)


def _one_of(allowed: Mapping[str, Word], word: str) -> Word:
    try:
        return allowed[word.lower()]
    except KeyError:
        raise MalformedPacket("ice: a word of the candidate is unknown") from None

"""One media section: everything from an `m=` line to the next, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from triosfu.errors import MalformedPacket
from triosfu.sdp.codecs import CACHED, Codec, payload_types, read_codecs, write_codecs
from triosfu.sdp.directions import Direction, Setup
from triosfu.sdp.extmap import Extension, read_extensions
from triosfu.sdp.scan import Attributes, last, number, token, words
from triosfu.sdp.streams import Msid, Rid, Simulcast, Ssrc, SsrcGroup, read_msids, read_rids, read_ssrcs

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CANDIDATES = 64  # of one section
MAX_PACKET_SIZE = "x-max-packet-size"  # bytes of an SCTP packet that its sender takes in; others do not say
MAX_FINGERPRINTS = 8
MAX_FORMATS = 256
MAX_COMMON = 8192  # characters of lines that are remembered from one description to the next; a browser's are 5,000
DISCARD_PORT = 9  # a live section; the real address travels in candidates (RFC 8839, section 4.2.1)
RTP_PROTOCOL = "UDP/TLS/RTP/SAVPF"
SCTP_PROTOCOL = "UDP/DTLS/SCTP"
DATA_CHANNEL = "webrtc-datachannel"


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """What `ice-ufrag` and `ice-pwd` say (RFC 8839, section 5.4)."""

    ufrag: str
    pwd: str


class Fingerprint(NamedTuple):
    """A certificate's digest (RFC 8122, section 5): algorithm in lower case, value in upper case."""

    algorithm: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `sha-256 AA:BB:…`."""
        algorithm, value, *_ = words(text, "fingerprint", 2)
        if not set(value) <= set("0123456789abcdefABCDEF:"):
            raise MalformedPacket("sdp: fingerprint is not hexadecimal")
        return cls(algorithm.lower(), value.upper())


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaDescription:
    """A section of a session description; what triosfu does not use is left out."""

    kind: str
    port: int = DISCARD_PORT
    protocol: str = RTP_PROTOCOL
    formats: tuple[str, ...] = ()  # only of sections without codecs
    mid: str | None = None
    direction: Direction = Direction.SENDRECV  # without meaning, and not written, for data
    codecs: tuple[Codec, ...] = ()
    extensions: tuple[Extension, ...] = ()
    msids: tuple[Msid, ...] = ()
    ssrcs: tuple[Ssrc, ...] = ()
    ssrc_groups: tuple[SsrcGroup, ...] = ()
    rids: tuple[Rid, ...] = ()
    simulcast: Simulcast | None = None
    ice: IceCredentials | None = None
    trickle: bool = False
    candidates: tuple[str, ...] = ()  # "candidate:…"
    end_of_candidates: bool = False
    fingerprints: tuple[Fingerprint, ...] = ()
    setup: Setup | None = None
    rtcp_mux: bool = False
    rtcp_rsize: bool = False
    bundle_only: bool = False
    sctp_port: int | None = None
    max_message_size: int | None = None
    max_packet_size: int | None = None  # ours alone: `MAX_PACKET_SIZE`

    @property
    def is_rejected(self) -> bool:
        """Whether the section is dead: port 0, unless that only means "in the bundle or not at all" (RFC 9143)."""
        return self.port == 0 and not self.bundle_only

    @property
    def is_data(self) -> bool:
        """Whether data channels travel in the section."""
        return self.kind == "application" and self.protocol.endswith("DTLS/SCTP")

    @classmethod
    def parse(cls, line: str, attributes: Attributes, session: Attributes, memo: Memo) -> Self:
        """Read one section from its `m=` line and its `a=` lines; `session` holds what the section inherits."""
        kind, port, protocol, *formats = words(line, "media line", 3)
        if "/" in kind or len(formats) > MAX_FORMATS:
            raise MalformedPacket("sdp: media line is not well-formed")
        codecs: tuple[Codec, ...] = ()
        if "RTP/" in protocol and kind in {"audio", "video"}:
            codecs = memo.codecs(kind, formats, attributes)
        mid = last(attributes, "mid")
        sctp_port, max_message_size, max_packet_size = _sctp(kind, protocol, formats, attributes)
        return cls(
            kind=kind,
            port=number(port.partition("/")[0], "port", 0xFFFF),
            protocol=protocol,
            formats=() if codecs else tuple(formats),
            mid=None if mid is None else token(mid, "mid"),
            direction=Direction.SENDRECV if kind == "application" else _direction(attributes, session),
            codecs=codecs,
            extensions=memo.extensions([*session.get("extmap", []), *attributes.get("extmap", [])]),
            msids=read_msids(attributes),
            ssrcs=read_ssrcs(attributes),
            ssrc_groups=SsrcGroup.read(attributes),
            rids=read_rids(attributes),
            simulcast=Simulcast.read(attributes),
            ice=_ice(attributes) or _ice(session),
            trickle="trickle" in (last(attributes, "ice-options") or last(session, "ice-options") or "").split(),
            candidates=_candidates(attributes),
            end_of_candidates="end-of-candidates" in attributes or "end-of-candidates" in session,
            fingerprints=memo.fingerprints(attributes) or memo.fingerprints(session),
            setup=_setup(attributes) or _setup(session),
            rtcp_mux="rtcp-mux" in attributes,
            rtcp_rsize="rtcp-rsize" in attributes,
            bundle_only="bundle-only" in attributes,
            sctp_port=sctp_port,
            max_message_size=max_message_size,
            max_packet_size=max_packet_size,
        )

    def lines(self) -> list[str]:
        """The section's lines, which `SessionDescription.parse` reads back."""
        formats = [str(payload) for payload in payload_types(self.codecs)] or list(self.formats)
        values = [*self._transport(), *self._media()]
        return [
            f"m={self.kind} {self.port} {self.protocol} {' '.join(formats)}".rstrip(),
            "c=IN IP4 0.0.0.0",
            *(f"a={value}" for value in values),
        ]

    def _transport(self) -> list[str]:
        """Attributes about the path that the section travels on."""
        values: list[str] = []
        if self.ice:
            values += [f"ice-ufrag:{self.ice.ufrag}", f"ice-pwd:{self.ice.pwd}"]
        if self.trickle:
            values.append("ice-options:trickle")
        values += [f"fingerprint:{digest.algorithm} {digest.value}" for digest in self.fingerprints]
        if self.setup:
            values.append(f"setup:{self.setup}")
        values += list(self.candidates)
        if self.end_of_candidates:
            values.append("end-of-candidates")
        if self.mid is not None:
            values.append(f"mid:{self.mid}")
        flags = {"bundle-only": self.bundle_only, "rtcp-mux": self.rtcp_mux, "rtcp-rsize": self.rtcp_rsize}
        return values + [flag for flag, present in flags.items() if present]

    def _media(self) -> list[str]:
        """Attributes about what travels in the section."""
        values = [] if self.kind == "application" else [str(self.direction)]
        if self.sctp_port is not None:
            values.append(f"sctp-port:{self.sctp_port}")
        if self.max_message_size is not None:
            values.append(f"max-message-size:{self.max_message_size}")
        if self.max_packet_size is not None:
            values.append(f"{MAX_PACKET_SIZE}:{self.max_packet_size}")
        values += [f"extmap:{extension.serialize()}" for extension in self.extensions]
        values += [f"msid:{msid.serialize()}" for msid in self.msids]
        values += write_codecs(self.codecs)
        values += [f"ssrc-group:{group.serialize()}" for group in self.ssrc_groups]
        for ssrc in self.ssrcs:
            values += [f"ssrc:{line}" for line in ssrc.lines()]
        values += [f"rid:{rid.serialize()}" for rid in self.rids]
        if self.simulcast:
            values.append(f"simulcast:{self.simulcast.serialize()}")
        return values


_CodecLines = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]

common_codecs = lru_cache(maxsize=CACHED)(read_codecs)
common_extensions = lru_cache(maxsize=CACHED)(read_extensions)


class Memo:
    """Lines that one description repeats in section after section, read once: codecs, extensions, fingerprints.

    What every client of a kind writes, its codecs and extensions, is remembered from one description to the next.
    """

    __slots__ = ("_codecs", "_extensions", "_fingerprints")

    def __init__(self) -> None:
        self._codecs: dict[_CodecLines, tuple[Codec, ...]] = {}
        self._extensions: dict[tuple[str, ...], tuple[Extension, ...]] = {}
        self._fingerprints: dict[str, Fingerprint] = {}

    def codecs(self, kind: str, formats: Sequence[str], attributes: Attributes) -> tuple[Codec, ...]:
        """As `read_codecs`."""
        parts = [attributes.get(name, []) for name in ("rtpmap", "fmtp", "rtcp-fb")]
        rtpmaps, fmtps, feedbacks = map(tuple, parts)
        key = kind, tuple(formats), rtpmaps, fmtps, feedbacks
        if key not in self._codecs:
            common = sum(map(len, chain(*parts))) <= MAX_COMMON and sum(map(len, formats)) <= MAX_COMMON
            self._codecs[key] = (common_codecs if common else read_codecs)(*key)
        return self._codecs[key]

    def extensions(self, values: Sequence[str]) -> tuple[Extension, ...]:
        """As `read_extensions`."""
        key = tuple(values)
        if key not in self._extensions:
            common = sum(map(len, values)) <= MAX_COMMON
            self._extensions[key] = (common_extensions if common else read_extensions)(key)
        return self._extensions[key]

    def fingerprints(self, attributes: Attributes) -> tuple[Fingerprint, ...]:
        """Every `fingerprint` line, each digest once."""
        values = attributes.get("fingerprint", [])[:MAX_FINGERPRINTS]
        for value in values:
            if value not in self._fingerprints:
                self._fingerprints[value] = Fingerprint.parse(value)
        return tuple(dict.fromkeys(self._fingerprints[value] for value in values))


def _direction(attributes: Attributes, session: Attributes) -> Direction:
    for block in (attributes, session):
        for direction in Direction:
            if direction in block:
                return direction
    return Direction.SENDRECV


def _ice(attributes: Attributes) -> IceCredentials | None:
    ufrag, pwd = last(attributes, "ice-ufrag"), last(attributes, "ice-pwd")
    if ufrag is None and pwd is None:
        return None
    if ufrag is None or pwd is None:
        raise MalformedPacket("sdp: ice-ufrag and ice-pwd come together")
    return IceCredentials(token(ufrag, "ice-ufrag"), token(pwd, "ice-pwd"))


def _setup(attributes: Attributes) -> Setup | None:
    value = last(attributes, "setup")
    try:
        return None if value is None else Setup(value)
    except ValueError:
        raise MalformedPacket("sdp: setup has an unknown value") from None


def _candidates(attributes: Attributes) -> tuple[str, ...]:
    """The candidates as text: whether one can be used is for ICE to say."""
    values = attributes.get("candidate", [])[:MAX_CANDIDATES]
    return tuple(dict.fromkeys(f"candidate:{value.strip()}" for value in values))


def _sctp(
    kind: str, protocol: str, formats: Sequence[str], attributes: Attributes
) -> tuple[int | None, int | None, int | None]:
    """Port and sizes of a data section (RFC 8841), in the old form of its drafts too (`sctpmap`)."""
    if kind != "application" or "SCTP" not in protocol:
        return None, None, None
    port = last(attributes, "sctp-port")
    if port is None and formats and formats[0].isdigit():
        port = formats[0]
    size, packet = last(attributes, "max-message-size"), last(attributes, MAX_PACKET_SIZE)
    return (
        None if port is None else number(port, "sctp-port", 0xFFFF),
        None if size is None else number(size, "max-message-size", 2**64 - 1),
        None if packet is None else number(packet, MAX_PACKET_SIZE, 0xFFFF),
    )

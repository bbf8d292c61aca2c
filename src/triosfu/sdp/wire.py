"""Session descriptions as text (RFC 8866, RFC 8829): a total parser and the writer that it inverts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from triosfu.errors import MalformedPacket
from triosfu.sdp.media import MediaDescription, Memo
from triosfu.sdp.scan import Attributes, number, words

MAX_BYTES = 2 * 1024 * 1024  # as large as a signalling message may be
MAX_SECTIONS = 1024
MAX_LINE = 16 * 1024  # characters
MAX_LINES = 32 * 1024  # a browser's section has about 130; each line costs more to read than to send

_Block = tuple[str, Attributes]  # a section's `m=` line without the "m=", and its `a=` lines


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDescription:
    """An offer or an answer. What a section inherits from the session level stands in the section."""

    session_id: int = 0
    session_version: int = 0
    bundle: tuple[str, ...] | None = None  # mids of the first BUNDLE group (RFC 9143); None without a group
    ice_lite: bool = False
    extmap_allow_mixed: bool = False  # one-byte and two-byte extension headers in one stream (RFC 8285, section 6)
    media: tuple[MediaDescription, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a description; anything else is a MalformedPacket."""
        origin, session, blocks = _split(text)
        _, session_id, session_version, *_ = words(origin, "origin", 3)
        memo = Memo()
        media = tuple(MediaDescription.parse(line, attributes, session, memo) for line, attributes in blocks)
        mids = [section.mid for section in media if section.mid is not None]
        if len(set(mids)) != len(mids):
            raise MalformedPacket("sdp: two sections have the same mid")
        return cls(
            # RFC 8866 does not bound them; RFC 8829 says 63 bits.
            session_id=number(session_id, "session id", 2**64 - 1),
            session_version=number(session_version, "session version", 2**64 - 1),
            bundle=_bundle(session),
            ice_lite="ice-lite" in session,
            extmap_allow_mixed="extmap-allow-mixed" in session
            or (bool(blocks) and all("extmap-allow-mixed" in attributes for _, attributes in blocks)),
            media=media,
        )

    def serialize(self) -> str:
        """The text, lines ended by CRLF."""
        lines = [
            "v=0",
            f"o=- {self.session_id} {self.session_version} IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
        ]
        if self.bundle is not None:
            lines.append(" ".join(["a=group:BUNDLE", *self.bundle]))
        if self.extmap_allow_mixed:
            lines.append("a=extmap-allow-mixed")
        lines.append("a=msid-semantic:WMS *")
        if self.ice_lite:
            lines.append("a=ice-lite")
        for section in self.media:
            lines += section.lines()
        return "\r\n".join([*lines, ""])


def _split(text: str) -> tuple[str, Attributes, list[_Block]]:
    """The origin, the session's attributes and the sections, still as text."""
    if len(text) > MAX_BYTES:
        raise MalformedPacket("sdp: too long")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedPacket("sdp: not text") from None
    text = text.replace("\r\n", "\n").rstrip("\n")
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        raise MalformedPacket(f"sdp: more than {MAX_LINES} lines")
    if lines[0] != "v=0":
        raise MalformedPacket("sdp: does not begin with v=0")
    if "\r" in text or "\0" in text or max(map(len, lines)) > MAX_LINE:
        raise MalformedPacket("sdp: a line is too long or not printable")
    origin = ""
    session: Attributes = {}
    blocks: list[_Block] = []
    attributes = session
    for line in lines:
        if line[1:2] != "=":
            raise MalformedPacket("sdp: a line is not <letter>=<value>")
        letter = line[0]
        if letter == "a":
            name, _, value = line[2:].partition(":")
            attributes.setdefault(name, []).append(value)
        elif letter == "m":
            attributes = {}
            blocks.append((line[2:], attributes))
            if len(blocks) > MAX_SECTIONS:
                raise MalformedPacket(f"sdp: more than {MAX_SECTIONS} sections")
        elif letter == "o":
            origin = line[2:]
    return origin, session, blocks


def _bundle(session: Attributes) -> tuple[str, ...] | None:
    for group in session.get("group", []):
        semantics, *mids = group.split(" ")
        if semantics == "BUNDLE":
            return tuple(dict.fromkeys(words(" ".join(mids), "group", 0)))[:MAX_SECTIONS]
    return None

"""permessage-deflate (RFC 7692) for the server's side of a WebSocket, as an extension of wsproto's.

Each message is compressed by itself, in both directions: an idle connection then holds no window (some 150 kB, were
there two), and nothing of one message can be guessed from the size of another. Within one message a secret stands
beside what others chose, as with LiveKit's own server, which compresses all of them.

wsproto's own `PerMessageDeflate` inflates whatever it gets, without a bound, and forgets that a message is compressed
when a ping comes between two of its fragments.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, RsvBits

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Opcode

WORTHWHILE: Final = 1024  # bytes: what is smaller travels in one packet anyway
LEVEL: Final = 1  # a tenth larger than the default's result, in half the time or less
MAX_OFFERS: Final = 1024  # characters of the header field; browsers send some 50
BLOCK_END: Final = b"\x00\x00\xff\xff"  # which a sender leaves out (section 7.2.1)
FINAL_BLOCK: Final = b"\x01\x00\x00\xff\xff"  # empty: an inflater that has not reached its end after it was cut short

_OFFER: Final = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER: Final = re.compile(r'\s*([a-z_]+)\s*(?:=\s*(?:"([0-9]+)"|([0-9]+))\s*)?')
# Values that are allowed, and whether the name may stand alone (sections 7.1.1 and 7.1.2).
_BITS: Final = frozenset(str(bits) for bits in range(8, 16))
_NONE: Final[frozenset[str]] = frozenset()
_PARAMETERS: Final = {
    "server_no_context_takeover": (_NONE, True),
    "client_no_context_takeover": (_NONE, True),
    "server_max_window_bits": (_BITS, False),
    "client_max_window_bits": (_BITS, True),
}


class Deflate(Extension):
    """The state of one connection: of the message that is arriving, if it is a compressed one."""

    name = "permessage-deflate"

    def __init__(self, *, most: int, window_bits: int = 15) -> None:
        """Inflate no message above `most` bytes; compress with a window of 2 ** `window_bits` bytes."""
        self._most = most
        self._window_bits = window_bits
        self._inflater: zlib._Decompress | None = None
        self._left = 0  # bytes that the message may still inflate to
        self._control = False  # whether the current frame is a control frame, which may stand between two fragments

    @classmethod
    def accept_one_of(cls, offers: str, *, most: int) -> Deflate | None:
        """The first acceptable offer of a Sec-WebSocket-Extensions field; None if there is none.

        Offers with unknown, repeated or malformed parameters are declined (section 7.1), and so is a window of 256
        bytes, which zlib does not write. A field that cannot be read costs the client no more than the compression.
        """
        if len(offers) > MAX_OFFERS:
            return None
        for offer in _OFFER.findall(offers):
            name, *parameters = offer.split(";")
            if name.strip() != cls.name:
                continue
            asked = _read(parameters)
            if asked is None:
                continue
            bits = int(asked.get("server_max_window_bits") or 15)
            if bits > 8:
                return cls(most=most, window_bits=bits)
        return None

    @property
    def answer(self) -> str:
        """The Sec-WebSocket-Extensions field of the response."""
        bits = "" if self._window_bits == 15 else f"; server_max_window_bits={self._window_bits}"
        return f"{self.name}; server_no_context_takeover; client_no_context_takeover{bits}"

    def enabled(self) -> bool:
        """Whether frames are given to this."""
        return True

    def offer(self) -> bool:
        """Whether to offer this: a server never does."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """See which kind of frame begins. wsproto calls this again if the header comes in pieces."""
        del proto, payload_length
        self._control = opcode.iscontrol()
        if self._control or not opcode:
            return RsvBits(False, False, False)  # RSV1 is the first fragment's alone (section 6.1)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if rsv.rsv1 else None
        self._left = self._most
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Inflate a piece of a frame."""
        del proto
        return data if self._control or self._inflater is None else self._inflate(self._inflater, data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:  # noqa: FBT001  wsproto's
        """Inflate what the sender left out of its last fragment."""
        del proto
        inflater = self._inflater
        if self._control or inflater is None or not fin:
            return None
        self._inflater = None
        inflated = self._inflate(inflater, BLOCK_END + FINAL_BLOCK)
        if isinstance(inflated, bytes) and not inflater.eof:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return inflated

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,  # noqa: FBT001  wsproto's
    ) -> tuple[RsvBits, bytes]:
        """Compress a message where that pays. Fragments are none of ours: we send each message whole."""
        del proto
        if opcode.iscontrol() or not opcode or not fin or len(data) < WORTHWHILE:
            return rsv, data
        deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._window_bits)
        deflated = deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)
        if len(deflated) - len(BLOCK_END) >= len(data):
            return rsv, data
        return RsvBits(True, rsv.rsv2, rsv.rsv3), deflated[: -len(BLOCK_END)]

    def _inflate(self, inflater: zlib._Decompress, data: bytes) -> bytes | CloseReason:
        if inflater.eof:  # what follows a final block says nothing (section 7.2.3.4), and zlib would keep it
            return b""
        try:
            inflated = inflater.decompress(data, self._left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._left -= len(inflated)
        return inflated if self._left >= 0 else CloseReason.MESSAGE_TOO_BIG


def _read(parameters: list[str]) -> dict[str, str] | None:
    """An offer's parameters by name, "" for those without a value; None if one is not as the RFC has it."""
    asked: dict[str, str] = {}
    for parameter in parameters:
        found = _PARAMETER.fullmatch(parameter)
        if found is None or found[1] not in _PARAMETERS or found[1] in asked:
            return None
        value = found[2] or found[3] or ""
        allowed, alone = _PARAMETERS[found[1]]
        if not (value in allowed or (alone and not value)):
            return None
        asked[found[1]] = value
    return asked

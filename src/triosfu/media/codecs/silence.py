"""Frames of silence: heard when a sound stops, instead of what a receiver would make up.

RFC 6716, section 3.1 (Opus); RFC 2198, section 3 (RED); RFC 3551, section 4.5.14 (PCMU, PCMA).
"""

from __future__ import annotations

FRAME_DURATION = 0.02  # seconds
# CELT, full band, 20 ms, stereo, one frame. Clients know this very frame as the server's, also on encrypted tracks.
OPUS = b"\xf8\xff\xfe" + bytes(77)
PCMU, PCMA = b"\xff" * 160, b"\xd5" * 160


def silence(mime: str, opus_payload_type: int | None) -> bytes:
    """Return the payload of one frame in the codec `mime`; empty where none is known.

    In RED it is a primary block without others, which names the payload type that the receiver has for Opus.
    """
    match mime.lower():
        case "audio/opus":
            return OPUS
        case "audio/red" if opus_payload_type is not None:
            return bytes([opus_payload_type & 0x7F]) + OPUS
        case "audio/pcmu":
            return PCMU
        case "audio/pcma":
            return PCMA
    return b""

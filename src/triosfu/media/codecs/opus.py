"""Opus, as far as a server makes some: frames of silence (RFC 6716, section 3.1)."""

from __future__ import annotations

FRAME_DURATION = 0.02  # seconds
# CELT, full band, 20 ms, stereo, one frame. Clients know this very frame as the server's, also on encrypted tracks.
SILENCE = b"\xf8\xff\xfe" + bytes(77)

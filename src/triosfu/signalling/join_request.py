"""The `join_request` of a session with one peer connection: everything that a client asks for, inside the URL.

It is protobuf in base64 in the query, perhaps compressed (protocol reference, section 1.6).
"""

from __future__ import annotations

import base64
import binascii
import zlib

from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from triosfu.rooms.joining import JoinRefused

MAX_SIZE = 1_048_576  # bytes, decompressed
GZIP = 31  # zlib's number for a gzip wrapper


def decode_join_request(text: str) -> rtc.JoinRequest:
    """Return the request in the value of the query parameter.

    Raises:
        JoinRefused: With status 400 and LiveKit's text.
    """
    wrapped = rtc.WrappedJoinRequest()
    try:
        data = _base64(text)
    except (binascii.Error, ValueError):
        raise JoinRefused(400, "cannot base64 decode wrapped join request") from None
    try:
        wrapped.ParseFromString(data)
    except DecodeError:
        raise JoinRefused(400, "cannot unmarshal wrapped join request") from None
    body = wrapped.join_request
    if wrapped.compression == rtc.WrappedJoinRequest.Compression.GZIP:
        body = _inflate(body)
    if len(body) > MAX_SIZE:
        raise JoinRefused(400, "join request too large")
    request = rtc.JoinRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise JoinRefused(400, "cannot unmarshal join request") from None
    return request


def _base64(text: str) -> bytes:
    """Decode either alphabet, with or without padding; a `+` may have become a space on its way."""
    standard = text.strip().replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)


def _inflate(data: bytes) -> bytes:
    """Decompress at most one byte more than is allowed, so that a small request cannot fill the memory."""
    inflater = zlib.decompressobj(GZIP)
    try:
        body = inflater.decompress(data, MAX_SIZE + 1)
    except zlib.error:
        raise JoinRefused(400, "cannot read decompressed join request") from None
    if len(body) > MAX_SIZE:
        raise JoinRefused(400, "join request too large")
    if not inflater.eof:
        raise JoinRefused(400, "cannot read decompressed join request")
    return body

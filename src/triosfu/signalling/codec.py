"""Signal messages as WebSocket frames: binary frames hold protobuf, text frames the same message as JSON."""

from __future__ import annotations

import re

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from triosfu.errors import MalformedPacket

MAX_TEXT_DEPTH = 64  # of a JSON message; the deepest one of the protocol has about ten levels
MAX_TEXT_VALUES = 8192  # about; each takes microseconds to read, and everybody waits
BRACKET = re.compile(r"[\[\]{}]")


def decode(frame: str | bytes) -> rtc.SignalRequest:
    """Return the request in a frame; unknown fields are kept (binary) or ignored (text).

    Raises:
        MalformedPacket: It is none.
    """
    request = rtc.SignalRequest()
    try:
        if isinstance(frame, bytes):
            request.ParseFromString(frame)
        else:
            _check_shape(frame)
            json_format.Parse(frame, request, ignore_unknown_fields=True, max_recursion_depth=MAX_TEXT_DEPTH)
    except (DecodeError, json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise MalformedPacket(f"signal: not a request ({type(error).__name__})") from None
    return request


def _check_shape(text: str) -> None:
    """Refuse JSON that is too large or too deep before anybody reads it.

    How deep Python's own reader goes differs between its versions. Brackets within strings count too: they can only
    make us stricter, and no client nests them.
    """
    if sum(map(text.count, ",{[")) > MAX_TEXT_VALUES or sum(map(text.count, "}]")) > MAX_TEXT_VALUES:
        raise MalformedPacket("signal: too many values")
    depth = 0
    for bracket in BRACKET.finditer(text):
        depth += 1 if bracket.group() in "{[" else -1
        if depth > MAX_TEXT_DEPTH:
            raise MalformedPacket("signal: nested too deeply")


def encode(message: rtc.SignalResponse, *, text: bool) -> str | bytes:
    """Return `message` as a frame of the kind that the client itself sends (trap 60)."""
    if text:
        return json_format.MessageToJson(message, indent=None)
    return message.SerializeToString()

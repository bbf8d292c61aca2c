"""Signal messages as WebSocket frames: binary frames hold protobuf, text frames the same message as JSON."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from triosfu.errors import MalformedPacket

MAX_TEXT_DEPTH = 64  # of a JSON message; the deepest one of the protocol has about ten levels
MAX_TEXT_VALUES = 8192  # about; each takes microseconds to read, and everybody waits


def decode(frame: str | bytes) -> rtc.SignalRequest:
    """Return the request in a frame; unknown fields are kept (binary) or ignored (text).

    Raises:
        MalformedPacket: It is none.
    """
    request = rtc.SignalRequest()
    try:
        if isinstance(frame, bytes):
            request.ParseFromString(frame)
        elif frame.count(",") + frame.count("{") + frame.count("[") > MAX_TEXT_VALUES:
            raise MalformedPacket("signal: too many values")
        else:
            json_format.Parse(frame, request, ignore_unknown_fields=True, max_recursion_depth=MAX_TEXT_DEPTH)
    except (DecodeError, json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise MalformedPacket(f"signal: not a request ({type(error).__name__})") from None
    return request


def encode(message: rtc.SignalResponse, *, text: bool) -> str | bytes:
    """Return `message` as a frame of the kind that the client itself sends (trap 60)."""
    if text:
        return json_format.MessageToJson(message, indent=None)
    return message.SerializeToString()

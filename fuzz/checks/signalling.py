"""What must hold for any bytes that a client sends as a signal message or as a join request."""

from __future__ import annotations

from livekit.protocol import rtc

from triosfu.errors import MalformedPacket
from triosfu.rooms.joining import JoinRefused
from triosfu.signalling.codec import decode, encode
from triosfu.signalling.join_request import MAX_SIZE, decode_join_request


def check_signal_frame(data: bytes) -> None:
    for frame in (data, data.decode("latin-1")):
        try:
            request = decode(frame)
        except MalformedPacket:
            continue
        assert isinstance(request, rtc.SignalRequest)


def check_join_request(data: bytes) -> None:
    try:
        request = decode_join_request(data.decode("latin-1"))
    except JoinRefused:
        return
    assert request.ByteSize() <= 2 * MAX_SIZE


def check_round_trip(message: rtc.SignalResponse) -> None:
    binary = encode(message, text=False)
    assert isinstance(binary, bytes)
    assert rtc.SignalResponse.FromString(binary) == message
    assert isinstance(encode(message, text=True), str)

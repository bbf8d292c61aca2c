"""Frames and join requests: every byte string is a message or is refused."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from fuzz.checks.signalling import check_join_request, check_round_trip, check_signal_frame
from triosfu.errors import MalformedPacket
from triosfu.rooms.joining import JoinRefused
from triosfu.signalling.codec import decode, encode
from triosfu.signalling.join_request import MAX_SIZE, decode_join_request

GZIP = rtc.WrappedJoinRequest.Compression.GZIP
NONE = rtc.WrappedJoinRequest.Compression.NONE


@given(st.binary())
def test_any_frame_is_a_request_or_malformed(data: bytes) -> None:
    check_signal_frame(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["offer", "sdp", "ping", "addTrack", "trackSids"]) | st.text(), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_request_or_malformed(value: object) -> None:
    check_signal_frame(json.dumps(value).encode())


def test_deep_json_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        decode('{"offer":' * 5000 + "{}" + "}" * 5000)
    with pytest.raises(MalformedPacket):
        decode('{"unknown":' + "[" * 100_000)


def test_trap_60_text_frames_are_the_same_message_in_lower_camel_case() -> None:
    request = decode('{"addTrack": {"cid": "c", "type": "VIDEO", "source": "CAMERA"}, "unheardOf": 1}')
    assert request.add_track.source == models.TrackSource.CAMERA
    reply = encode(rtc.SignalResponse(track_published=rtc.TrackPublishedResponse(cid="c")), text=True)
    assert json.loads(reply) == {"trackPublished": {"cid": "c"}}


@given(st.text(max_size=50), st.integers(0, 2**32 - 1))
def test_responses_survive_the_wire(text: str, number: int) -> None:
    check_round_trip(
        rtc.SignalResponse(
            answer=rtc.SessionDescription(type="answer", sdp=text, id=number, mid_to_track_id={text: text})
        )
    )


@given(st.binary())
def test_any_parameter_is_a_join_request_or_refused(data: bytes) -> None:
    check_join_request(data)
    check_join_request(base64.urlsafe_b64encode(data))
    check_join_request(
        base64.urlsafe_b64encode(rtc.WrappedJoinRequest(join_request=data, compression=GZIP).SerializeToString())
    )


def wrap(body: bytes, compression: rtc.WrappedJoinRequest.Compression = NONE) -> bytes:
    return rtc.WrappedJoinRequest(compression=compression, join_request=body).SerializeToString()


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("alphabet", [base64.urlsafe_b64encode, base64.b64encode])
@pytest.mark.parametrize("compressed", [True, False])
def test_every_encoding_of_clients_is_read(padded: bool, alphabet: object, compressed: bool) -> None:
    wanted = rtc.JoinRequest(metadata="øΩ≈" * 7, publisher_offer=rtc.SessionDescription(type="offer", sdp="v=0", id=1))
    body = wanted.SerializeToString()
    data = wrap(gzip.compress(body), GZIP) if compressed else wrap(body)
    text = alphabet(data).decode()  # type: ignore[operator]
    assert decode_join_request(text if padded else text.rstrip("=")) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("é*", "cannot base64 decode wrapped join request"),
        (base64.urlsafe_b64encode(b"\xff").decode(), "cannot unmarshal wrapped join request"),
        (base64.urlsafe_b64encode(wrap(b"\xff")).decode(), "cannot unmarshal join request"),
        (base64.urlsafe_b64encode(wrap(b"x", GZIP)).decode(), "cannot read decompressed join request"),
        (
            base64.urlsafe_b64encode(wrap(gzip.compress(b"x" * 99, mtime=0)[:-9], GZIP)).decode(),
            "cannot read decompressed join request",
        ),
        (
            base64.urlsafe_b64encode(wrap(gzip.compress(bytes(MAX_SIZE + 1), mtime=0), GZIP)).decode(),
            "join request too large",
        ),
        (base64.urlsafe_b64encode(wrap(bytes(MAX_SIZE + 1))).decode(), "join request too large"),
    ],
)
def test_refusals_have_livekits_words(text: str, reason: str) -> None:
    with pytest.raises(JoinRefused) as refused:
        decode_join_request(text)
    assert (refused.value.status, refused.value.text) == (400, reason)

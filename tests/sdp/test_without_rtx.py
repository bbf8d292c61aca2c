"""Retransmissions on a stream of their own are an operator's choice."""

from __future__ import annotations

from triosfu.sdp.policy import OFFERED_VIDEO, MediaPolicy, forwarded_codecs, offered_codecs, published_codecs
from triosfu.sdp.sections import AnswerPreferences


def test_no_codec_has_rtx_where_the_policy_has_none() -> None:
    for rtx in (True, False):
        policy = MediaPolicy(rtx=rtx)
        for codecs in (
            offered_codecs("video", policy, red=False, stereo=False),
            forwarded_codecs(OFFERED_VIDEO, "video", policy),
            published_codecs(OFFERED_VIDEO, "video", policy, AnswerPreferences(), single=False),
        ):
            assert codecs
            assert all((codec.rtx_payload_type is not None) is rtx for codec in codecs)

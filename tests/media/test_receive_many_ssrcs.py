"""A publisher that uses a new SSRC for each packet makes the server remember no more for it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.media.receive_publisher import receive
from triosfu.media.ingress import Ingress
from triosfu.media.receiver import TrackReceiver
from triosfu.rtp.wire import build_rtp

if TYPE_CHECKING:
    from collections.abc import Sized

MEDIA, RTX = 96, 97


@pytest.mark.parametrize("payload_type", [MEDIA, RTX, 127])
def test_a_new_ssrc_for_each_packet(payload_type: int) -> None:
    ingress = Ingress(rng=Random(1), now=0.0)
    receiver = TrackReceiver(kind="video", mime="video/VP8", clock_rate=90000, now=0.0)
    ingress.add_track(
        receiver, mid="0", ssrcs=[1], rtx={1: 2}, payload_types={MEDIA: "video/VP8", RTX: MEDIA}, extension_ids={}
    )
    for ssrc in range(1, 1000):
        data = build_rtp(ssrc=ssrc, payload_type=payload_type, sequence=1, timestamp=0, payload=b"\0\1payload")
        receive(ingress, data, ssrc / 1000)
    remembered: list[Sized] = [
        ingress._streams,
        ingress._held,
        ingress._retired,
        ingress._bindings._said,
        receiver.streams,
    ]
    assert all(len(table) <= 64 for table in remembered), [len(table) for table in remembered]
    assert len(ingress._streams) <= 2

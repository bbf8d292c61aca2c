"""What the checks begin with: well-formed inputs, so that mutations get past the first field."""

from __future__ import annotations

import time
from collections.abc import Callable  # noqa: TC003  for a module's variable
from pathlib import Path
from random import Random

from livekit.protocol import rtc

from fuzz.checks.http import UPGRADE
from triosfu.datachannel.wire import Ack
from triosfu.dtls.certificate import Certificate
from triosfu.dtls.core import DtlsConnection, Fingerprint, Role
from triosfu.rtp.rtcp import Nack, Pli, SenderReport, build_compound
from triosfu.rtp.wire import build_rtp
from triosfu.sctp.core import Association
from triosfu.tokens import VideoGrant, create_token

CORPUS = Path(__file__).parent.parent / "tests" / "sdp" / "corpus"
SAVED = Path(__file__).parent / "corpus"  # optional, one folder a check; what somebody wants to keep


def seeds(name: str) -> list[bytes]:
    """The inputs that the check `name` begins with."""
    found = _MADE[name]() if name in _MADE else []
    return [b"", *found, *(path.read_bytes() for path in sorted(SAVED.glob(f"{name}/*")))]


def _descriptions() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.sdp"))]


def _records() -> list[bytes]:
    certificate = Certificate.generate()
    ours = [Fingerprint("sha-256", certificate.fingerprint)]
    client = DtlsConnection(certificate=certificate, role=Role.CLIENT, remote_fingerprints=ours, now=0.0)
    client.start(0.0)
    return client.datagrams_to_send()


def _sctp() -> list[bytes]:
    association = Association(now=0.0, rng=Random(1))
    association.connect(0.0)
    return association.datagrams_to_send()


def _rtp() -> list[bytes]:
    return [
        build_rtp(ssrc=7, payload_type=96, sequence=1, timestamp=1, payload=b"payload", extensions=extensions)
        for extensions in (None, {1: b"0", 4: b"\0\1"}, {20: bytes(20)})
    ]


def _signals() -> list[bytes]:
    request = rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid="mic", name="mic", simulcast_codecs=[{"codec": "x"}]))
    return [request.SerializeToString(), b'{"ping_req": {"timestamp": "1"}}']


_MADE: dict[str, Callable[[], list[bytes]]] = {
    "check_sdp": _descriptions,
    "check_offer": _descriptions,
    "check_answer": _descriptions,
    "check_candidate": lambda: [
        b"candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host",
        b"candidate:2 1 tcp 1518280447 2001:db8::1 9 typ srflx raddr 0.0.0.0 rport 0 tcptype active ufrag abcd",
    ],
    "check_http": lambda: [b"POST //a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", UPGRADE],
    "check_websocket": lambda: [b"\x81\x85\0\0\0\0hello\x88\x82\0\0\0\0\x03\xe8"],
    "check_stun": lambda: [bytes.fromhex("000100082112a442") + bytes(12) + bytes.fromhex("00060004613a6200")],
    "check_records": _records,
    "check_sctp": _sctp,
    "check_sctp_association": _sctp,
    "check_dcep": lambda: [Ack().serialize(), b"\3\0\0\0\0\0\0\0\0\1\0\0a"],
    "check_rtp": _rtp,
    "check_ingress": _rtp,
    "check_rtcp": lambda: [build_compound([SenderReport(1, 2, 3, 4, 5), Pli(1, 2), Nack(1, 2, (3, 5))])],
    "check_vp8": lambda: [b"\x90\xe0\x81\x23\x01\x21\x10\0\0\x9d\x01\x2a"],
    "check_vp9": lambda: [b"\xaa\x81\x23\x20\x01\x18\x01\x40\0\xf0"],
    "check_red": lambda: [b"\xef\0\0\2\x6fabcd"],
    "check_nal_units": lambda: [b"\x78\0\2\x67\x42\0\1\x68", b"\x7c\x85\x88"],
    "check_signal_frame": _signals,
    "check_token": lambda: [
        create_token("k", "s" * 32, now=time.time(), identity="a", room="r", video=VideoGrant(room_join=True)).encode()
    ],
}

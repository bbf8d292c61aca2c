"""Writes what the fuzzer begins with: `python -m fuzz.seeds` makes well-formed inputs of every check by our own code.

They go to `fuzz/corpus/<check>/ours-<n>`; what is there under other names (captures, findings) stays. Keys and
certificates are fresh in each run, so there is nothing in them that must be kept.
"""

from __future__ import annotations

import base64
import gzip
import sys
from collections.abc import Callable  # noqa: TC003  for a module's variable
from pathlib import Path
from random import Random
from typing import Any

from livekit.protocol import agent, models, room, rtc

from fuzz.catalogue import CORPUS, catalogue
from fuzz.checks.http import UPGRADE
from fuzz.checks.tokens import KEYS
from triosfu.datachannel.core import DataChannels
from triosfu.datachannel.wire import Ack, Open
from triosfu.dtls.certificate import Certificate
from triosfu.dtls.core import DtlsConnection, Fingerprint, Role
from triosfu.ice import binding
from triosfu.ice.credentials import Credentials
from triosfu.rtp.rtcp import Nack, Pli, SenderReport, TransportFeedback, build_compound
from triosfu.rtp.wire import build_rtp
from triosfu.sctp.core import Association
from triosfu.stun.wire import Message
from triosfu.tokens import VideoGrant, create_token

DESCRIPTIONS = Path(__file__).parent.parent / "tests" / "sdp" / "corpus"
VP8 = bytes.fromhex("90e0812301211000009d012a")  # a descriptor with everything, then a keyframe
SHORT = 256  # bytes that a length byte can count


def main() -> None:
    """Write all seeds of all checks, in the place of those of the last time."""
    for name in catalogue():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("ours-*"):
            old.unlink()
        made = MADE[name]()
        for number, data in enumerate(made):
            (folder / f"ours-{number:02}").write_bytes(data)
        sys.stdout.write(f"{name}: {len(made)}\n")


def scripted(packets: list[bytes]) -> bytes:
    """Packets as the scripts want them: each behind its length byte, those that are longer cut."""
    return b"".join(bytes([len(packet[: SHORT - 1])]) + packet[: SHORT - 1] for packet in packets)


def _descriptions() -> list[bytes]:
    return [path.read_bytes() for path in sorted(DESCRIPTIONS.glob("*.sdp"))]


def _dtls_datagrams() -> list[bytes]:
    """A whole handshake, a message and a goodbye."""
    certificates = Certificate.generate(), Certificate.generate()
    client, server = (
        DtlsConnection(
            certificate=certificates[number],
            role=role,
            remote_fingerprints=[Fingerprint("sha-256", certificates[1 - number].fingerprint)],
            now=0.0,
        )
        for number, role in enumerate((Role.CLIENT, Role.SERVER))
    )
    client.start(0.0)
    server.start(0.0)
    seen: list[bytes] = []
    for _ in range(6):
        for sender, receiver in ((client, server), (server, client)):
            for datagram in sender.datagrams_to_send():
                seen.append(datagram)
                receiver.receive_datagram(datagram, 0.0)
    client.send(b"data")
    client.close("over")
    return seen + client.datagrams_to_send()


def sctp_packets() -> list[bytes]:
    """An association's life: handshake, messages, channels opened and closed, budgets, a shutdown."""
    left, right = (
        DataChannels(Association(now=0.0, rng=Random(seed), initial_tsn=100), dtls_client=seed == 1) for seed in (1, 2)
    )
    seen: list[bytes] = []

    def settle() -> None:
        for _ in range(6):
            for sender, receiver in ((left, right), (right, left)):
                for packet in sender.datagrams_to_send():
                    seen.append(packet)
                    receiver.receive_datagram(packet, 0.0)

    left.connect(0.0)
    settle()
    channels = [
        left.open("reliable", now=0.0),
        left.open("lossy", protocol="p", ordered=False, max_retransmits=0, now=0.0),
        right.open("timed", lifetime=0.1, now=0.0),
    ]
    settle()
    for channel in channels[:2]:
        left.send(channel, b"m" * 3000, now=0.0)
    left.datagrams_to_send()  # lost: the unreliable one is given up, and said so
    for now in (2.0, 4.0):
        left.handle_timeout(now)
        settle()
    left.close(channels[0], 4.0)
    settle()
    left.shutdown(4.0)
    settle()
    return seen


def association_scripts(packets: list[bytes]) -> list[bytes]:
    """The chunks of real packets for `check_sctp_association`: all one after the other, in several states."""
    body = b"".join(len(packet[12:2059]).to_bytes(2, "big") + packet[12:2059] for packet in packets)
    return [bytes([state]) + body for state in (0, 3, 8 + 3, 32 + 3, 16 + 4)]


def _stun() -> list[bytes]:
    ours, theirs = Credentials("ufragone", "a" * 24), Credentials("ufragtwo", "b" * 24)
    asked = binding.request(
        bytes(12), local=theirs, remote=ours, priority=1 << 24, controlling=True, tie_breaker=7, nominating=True
    )
    request = Message.parse(asked)
    return [
        asked,
        binding.success(request, ("192.0.2.1", 4000), ours.key),
        binding.success(request, ("2001:db8::1", 4000), ours.key),
        binding.refusal(request, binding.ROLE_CONFLICT, ours.key),
        binding.refusal(request, binding.UNKNOWN_ATTRIBUTE, ours.key, (0x7777,)),
        bytes.fromhex("000100082112a442") + bytes(12) + bytes.fromhex("00060004613a6200"),
    ]


def _rtp() -> list[bytes]:
    return [
        build_rtp(
            ssrc=7, payload_type=96, sequence=1, timestamp=1, payload=b"payload", extensions=extensions, padding=padding
        )
        for extensions, padding in ((None, 0), ({1: b"0", 4: b"\0\1"}, 0), ({20: bytes(20)}, 4))
    ]


def _rtcp() -> list[bytes]:
    return [build_compound([SenderReport(1, 2, 3, 4, 5), Pli(1, 2), Nack(1, 2, (3, 5))]), build_compound([Pli(1, 2)])]


def _feedback() -> list[bytes]:
    """A run of small deltas; a long loss; gaps, steps back and two-bit statuses; a clock that leaps to and fro."""
    steady = tuple((number, 4) for number in range(24))
    torn = tuple((number, 300 if number % 5 else -20) for number in range(30) if number not in {3, 4, 17})
    leaping = tuple((number, 2000 if number % 2 else -2000) for number in range(40))
    spoken = ((65530, 24, steady), (7, 9002, ((0, 0), (9001, 40))), (0, 30, torn), (0, 40, leaping))
    return [TransportFeedback(1, 2, base, count, 5, 6, received).serialize() for base, count, received in spoken]


def _signals() -> list[bytes]:
    request = rtc.SignalRequest(add_track=rtc.AddTrackRequest(cid="mic", name="mic", simulcast_codecs=[{"codec": "x"}]))
    return [request.SerializeToString(), b'{"ping_req": {"timestamp": "1"}}']


def _join_requests() -> list[bytes]:
    body = rtc.JoinRequest(metadata="m", add_track_requests=[rtc.AddTrackRequest(cid="mic")]).SerializeToString()
    gzipped = rtc.WrappedJoinRequest.Compression.GZIP
    wrapped = (
        rtc.WrappedJoinRequest(join_request=body),
        rtc.WrappedJoinRequest(join_request=gzip.compress(body, mtime=0), compression=gzipped),
    )
    return [base64.urlsafe_b64encode(one.SerializeToString()) for one in wrapped]


def _tokens() -> list[bytes]:
    key, secret = next(iter(KEYS.items()))
    grants = (VideoGrant(room_join=True, room="r"), VideoGrant(room_create=True, can_publish=False), None)
    return [create_token(key, secret, now=1000.0, identity="a", name="n", video=one).encode() for one in grants]


def _bytes(*lines: str) -> Callable[[], list[bytes]]:
    return lambda: [bytes.fromhex(line) for line in lines]


def _api_bodies() -> list[bytes]:
    """The first byte chooses the call, the second its form."""
    update = b'{"room": "r", "identity": "a", "attributes": {"k": "v"}, "permission": {"can_publish": true}}'
    data = room.SendDataRequest(room="r", data=b"data", destination_identities=["a"], nonce=bytes(16))
    return [b"\7\0" + update, b"\x09\1" + data.SerializeToString(), b'\0\0{"name": "r", "emptyTimeout": "3"}']


def worker_scripts() -> list[bytes]:
    """Both workers register, one takes a job and says how it goes; then one dies, comes back and claims it."""

    def said(which: int, **message: Any) -> bytes:  # noqa: ANN401  protobuf fields
        body = agent.WorkerMessage(**message).SerializeToString()
        return bytes([which | 5 << 1]) + len(body).to_bytes(2, "big") + body

    register = [said(which, register=agent.RegisterWorkerRequest()) for which in (0, 1)]
    told = said(0, update_worker=agent.UpdateWorkerStatus(status=agent.WorkerStatus.WS_FULL, load=0.9))
    simulated = said(0, simulate_job=agent.SimulateJobRequest(room=models.Room(name="r")))
    job, take0, take1, over = b"\0", b"\x06\0\3", b"\x07\0\3", b"\x06\0\x08"
    return [
        b"".join([*register, job, take0, take1, told, said(0, ping=agent.WorkerPing(timestamp=1)), simulated, over]),
        b"".join([*register, job, take0, take1, b"\2", b"\x08", b"\x06\0\2", b"\4\xff", b"\3", job, take0, b"\4\xff"]),
        b"".join([b"\x08", job, job, b"\4\xff", b"\x09", b"\x07\0\1", b"\x07\1\5", said(1)]),
    ]


MADE: dict[str, Callable[[], list[bytes]]] = {
    "check_answer": _descriptions,
    "check_api_body": _api_bodies,
    "check_candidate": lambda: [
        b"candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host",
        b"candidate:2 1 tcp 1518280447 2001:db8::1 9 typ srflx raddr 0.0.0.0 rport 0 tcptype active ufrag abcd",
    ],
    # Open, settle, say, settle, close, settle; then both open at once, with budgets, loss and time between.
    "check_channel_pair": _bytes("010200016100050305000100050302000205", "0002010161016201090501020000050b0500c80105"),
    "check_datachannels": lambda: [
        b"".join(bytes([stream, what, len(body)]) + body for stream, what, body in messages)
        for what_opens in [Open.for_channel("l", "p", ordered=True, max_retransmits=None, lifetime=None).serialize()]
        for messages in (
            [(1, 0, what_opens), (1, 0x41, b"hello"), (1, 0x80, b"")],
            [(0, 0, Ack().serialize()), (1, 0x43, b"stray"), (1, 0, what_opens), (1, 0, what_opens)],
        )
    ],
    "check_dcep": lambda: [
        Ack().serialize(),
        b"\3\0\0\0\0\0\0\0\0\1\0\0a",
        Open.for_channel("label", "protocol", ordered=False, max_retransmits=3, lifetime=None).serialize(),
    ],
    "check_dependency_descriptor": _bytes("0d80000180c014021485214ea0228080"),
    # Deliver all; cut, reverse and repeat; damage; another certificate than expected.
    "check_dtls": lambda: [
        b"\0" + b"\0\1\0\0" * 8 + b"\x0e\0\2AB\0\1",
        b"\0" + b"\x09\1\x09\0\x08\1\x08\0\x0a\1\x0a\0" * 3 + b"\x1f\0",
        b"\0" + b"\x07\1\x0b\0\x0f\0\x1f\0" * 4 + b"\x06\1\0\x20\1\x0c\0\0\x0d\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\0",
        b"\1" + b"\0\1\0\0" * 6,
    ],
    "check_feedback": _feedback,
    "check_forwarding": lambda: [
        scripted([b"\x90\xe0\x81\x23\x01\x21\x10\0\0\x9d\x01\x2a" + bytes(n) for n in (1, 9)])
    ],
    "check_header_extensions": _bytes("02aabb01013004020001", "00141400000000000000000000000000000000000000000100"),
    "check_handed_over": lambda: [
        b"POST //a?c=d HTTP/1.1\r\nHost: x\r\nX-A: \xe9 \r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        UPGRADE,
    ],
    "check_http": lambda: [b"POST //a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", UPGRADE],
    "check_ice_fragment": lambda: [
        (
            b"a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:EsAw\r\n"
            b"a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n"
            b"a=end-of-candidates\r\n"
        ),
        b"a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host",
    ],
    # A candidate, a check, its answer, the nomination's answer; silence and consent; a restart. Then as controlled
    # and as lite agent, where the peer asks.
    "check_ice_agent": _bytes(
        "0a080000010400000001040000001404000000140400000a0901080200010400000001040000003200",
        "0802020005000104000002020005000104000000000000",
        "090202000500640202000600ff",
    ),
    "check_ingress": lambda: [scripted(_rtp() + _rtcp())],
    "check_join_request": _join_requests,
    "check_nal_units": lambda: [b"\x78\0\2\x67\x42\0\1\x68", b"\x7c\x85\x88"],
    # A subscriber connection with two tracks and data; a publisher connection; a single one.
    "check_negotiation": _bytes(
        "01000000010804060000ff060606",
        "000400000600040001060004000206f00600",
        "0204000106040002060000060006",
    ),
    "check_offer": _descriptions,
    "check_records": _dtls_datagrams,
    "check_red": lambda: [b"\xef\0\0\2\x6fabcd"],
    "check_rtcp": _rtcp,
    "check_rtp": _rtp,
    "check_sctp": sctp_packets,
    "check_sctp_association": lambda: association_scripts(sctp_packets()),
    # Say, settle, reset, say with a budget, lose, shut down; both begin at once; forged chunks.
    "check_sctp_pair": _bytes(
        "04020401003204020401138804020201047d00000404000000",
        "000109040205011388003535000504020104",
        "3c02040113880205110bb8020204011388023503045d0d5500040000",
        "0c020401138802051103e80a0401138835020300040a020104040000",
        "04" + "0204011388" * 3 + "3d5d0d0545" + "0000" * 4 + "07007700000c0300001000000001000000010000",
    ),
    "check_frames": lambda: [
        b"\x02\0\x05hello\0\0\0\x03you\x01",
        b"\xff" + b"".join(len(packet).to_bytes(2, "big") + packet for packet in _stun()),
        b"\0\0\x01!\x48\x01" + bytes(9),  # larger than any packet
    ],
    "check_sdp": _descriptions,
    "check_signal_frame": _signals,
    # Alice adds a track, offers and trickles; bob subscribes; links are lost and resumed; time; she leaves.
    "check_signal_session": _bytes(
        "00000a02000101000101400a00060100100b01ff010b0400010b0500000200000140000f0a030001020400f00a0800",
        "01010a0200020000000a000a010b000a0100100b0400000b0400010a06000101000a0702414202434408000c010d000a0d010161",
        "00030a0200010100000b01ff010a0a00000a0e01ff0b0b000100000a0c0101016100ff0a0e00",
    ),
    "check_stun": _stun,
    "check_token": _tokens,
    "check_vp8": lambda: [VP8],
    "check_vp9": lambda: [b"\xaa\x81\x23\x20\x01\x18\x01\x40\0\xf0"],
    "check_deflate_offers": lambda: [
        b"permessage-deflate; client_max_window_bits",
        b'permessage-deflate; server_max_window_bits="12"; client_max_window_bits=12, permessage-deflate',
    ],
    "check_deflated_frames": lambda: [
        # "Hello", as RFC 7692 has it in sections 7.2.3.1 (two fragments) and 7.2.3.4 (a final block)
        b"\x41\x83\0\0\0\0\xf2\x48\xcd\x80\x84\0\0\0\0\xc9\xc9\x07\x00",
        b"\xc1\x88\0\0\0\0\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x89\x80\0\0\0\0",
    ],
    "check_websocket": lambda: [b"\x81\x85\0\0\0\0hello\x88\x82\0\0\0\0\x03\xe8"],
    "check_worker_messages": worker_scripts,
}

if __name__ == "__main__":
    main()

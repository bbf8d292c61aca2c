"""SRTP between two ends that share keys, in place and through copies, honest and hostile."""

from __future__ import annotations

import hashlib
import hmac
import struct
from random import Random

import pytest
from cffi import FFI
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from triosfu.srtp import Inbound, Outbound, SrtpError, SrtpKeys, SrtpProfile

ffi = FFI()
SSRC = 0x1234ABCD


def keys_for(profile: SrtpProfile, seed: int = 1) -> SrtpKeys:
    return SrtpKeys.from_exporter(profile, Random(seed).randbytes(profile.export_length), client=True)


def rtp(sequence: int, size: int = 200, ssrc: int = SSRC, timestamp: int = 90_000) -> bytes:
    header = struct.pack("!BBHII", 0x80, 96, sequence & 0xFFFF, timestamp, ssrc)
    return header + Random(sequence).randbytes(size - len(header))


def receiver_report(ssrc: int = SSRC) -> bytes:
    return struct.pack("!BBHI", 0x80, 201, 1, ssrc)


WAYS = "compiled", "in place", "copying"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(SrtpProfile), ids=lambda profile: profile.name)
def profile(request: pytest.FixtureRequest) -> SrtpProfile:
    return SrtpProfile(request.param)


def outbound(keys: SrtpKeys, way: str) -> Outbound:
    return Outbound(keys, compiled=way == "compiled", copying=way == "copying")


def pair(profile: SrtpProfile, way: str = "compiled") -> tuple[Outbound, Inbound]:
    keys = keys_for(profile)
    return outbound(keys, way), Inbound(keys.swapped(), copying=way == "copying")


def test_what_one_end_protects_the_other_reads(profile: SrtpProfile, way: str) -> None:
    ours, theirs = pair(profile, way)
    packet, report = rtp(7), receiver_report()
    protected, protected_report = ours.protect(packet), ours.protect_rtcp(report)
    assert len(protected) == len(packet) + profile.rtp_overhead
    assert len(protected_report) == len(report) + profile.rtcp_overhead
    assert packet[12:] not in protected
    assert theirs.unprotect(protected) == packet
    assert theirs.unprotect_rtcp(protected_report) == report


def test_all_ways_make_the_same_bytes(profile: SrtpProfile) -> None:
    keys = keys_for(profile)
    ours = [outbound(keys, way) for way in WAYS]
    for sequence in (1, 2, 5):
        assert len({one.protect(rtp(sequence)) for one in ours}) == 1
        assert len({one.protect_rtcp(receiver_report()) for one in ours}) == 1


@pytest.mark.parametrize("way", WAYS[:2])
def test_packets_over_1356_bytes_work_in_place(profile: SrtpProfile, way: str) -> None:
    ours, theirs = pair(profile, way)
    arena = ffi.new("char[]", 4096)
    for sequence, size in enumerate((1357, 1444, 1460, 2000)):
        packet = rtp(sequence, size)
        ffi.memmove(arena + 2048, packet, size)
        length = ours.protect_in_place(arena + 2048, size)
        assert length == size + profile.rtp_overhead
        assert ffi.unpack(arena, 2048) == bytes(2048), "nothing before the packet is touched"
        assert theirs.unprotect_in_place(arena + 2048, length) == size
        assert ffi.unpack(arena + 2048, size) == packet


def test_the_copying_path_refuses_what_pylibsrtp_refuses_and_nothing_less() -> None:
    ours, theirs = pair(SrtpProfile.AEAD_AES_128_GCM, "copying")
    assert theirs.unprotect(ours.protect(rtp(1, 1356))) == rtp(1, 1356)
    with pytest.raises(SrtpError):
        ours.protect(rtp(2, 1357))


def test_a_replay_is_named_so(profile: SrtpProfile, way: str) -> None:
    ours, theirs = pair(profile, way)
    packet, report = ours.protect(rtp(7)), ours.protect_rtcp(receiver_report())
    theirs.unprotect(packet)
    theirs.unprotect_rtcp(report)
    with pytest.raises(SrtpError) as again:
        theirs.unprotect(packet)
    assert again.value.reason == "replay"
    with pytest.raises(SrtpError) as again:
        theirs.unprotect_rtcp(report)
    assert again.value.reason == "replay"


def test_a_packet_older_than_the_window_is_a_replay() -> None:
    ours, theirs = pair(SrtpProfile.AEAD_AES_128_GCM)
    old = ours.protect(rtp(1))
    for sequence in range(2, 1100):
        theirs.unprotect(ours.protect(rtp(sequence)))
    with pytest.raises(SrtpError) as late:
        theirs.unprotect(old)
    assert late.value.reason == "replay"


def test_other_keys_are_an_authentication_failure(profile: SrtpProfile, way: str) -> None:
    ours = outbound(keys_for(profile), way)
    stranger = Inbound(keys_for(profile, seed=2).swapped(), copying=way == "copying")
    with pytest.raises(SrtpError) as refused:
        stranger.unprotect(ours.protect(rtp(7)))
    assert refused.value.reason == "auth"
    with pytest.raises(SrtpError) as refused:
        stranger.unprotect_rtcp(ours.protect_rtcp(receiver_report()))
    assert refused.value.reason == "auth"
    assert stranger.streams == 0


def test_reordered_packets_survive_a_sequence_wrap(profile: SrtpProfile, way: str) -> None:
    ours, theirs = pair(profile, way)
    sequences = list(range(65_400, 65_700))
    protected = {sequence: ours.protect(rtp(sequence)) for sequence in sequences}
    rng = Random(3)
    for at in range(0, len(sequences), 30):
        window = sequences[at : at + 30]
        rng.shuffle(window)
        for sequence in window:
            assert theirs.unprotect(protected[sequence]) == rtp(sequence)


def test_an_identical_packet_may_be_sent_again(way: str) -> None:
    ours, _ = pair(SrtpProfile.AEAD_AES_128_GCM, way)
    first = ours.protect(rtp(7))
    ours.protect(rtp(8))
    assert ours.protect(rtp(7)) == first


@given(data=st.data())
def test_no_flipped_bit_and_no_cut_gets_through(data: st.DataObject) -> None:
    profile = data.draw(st.sampled_from(SrtpProfile))
    ours, theirs = pair(profile)
    rtcp = data.draw(st.booleans())
    whole = ours.protect_rtcp(receiver_report()) if rtcp else ours.protect(rtp(7, 60))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(whole) * 8 - 1))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        wire = bytes(damaged)
    else:
        wire = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(SrtpError):
        theirs.unprotect_rtcp(wire) if rtcp else theirs.unprotect(wire)
    assert theirs.unprotect_rtcp(whole) if rtcp else theirs.unprotect(whole), "the damage left no trace"


@given(wire=st.binary(max_size=3000), profile=st.sampled_from(SrtpProfile), way=st.sampled_from(WAYS))
def test_noise_is_refused_in_every_direction(wire: bytes, profile: SrtpProfile, way: str) -> None:
    ours, theirs = pair(profile, way)
    for operation in (theirs.unprotect, theirs.unprotect_rtcp):
        with pytest.raises(SrtpError):
            operation(wire)
    for operation in (ours.protect, ours.protect_rtcp):
        try:
            operation(wire)
        except SrtpError:
            continue


def test_streams_a_peer_can_open_are_bounded_and_the_talking_ones_stay() -> None:
    keys = keys_for(SrtpProfile.AEAD_AES_128_GCM)
    ours, theirs = Outbound(keys), Inbound(keys.swapped(), max_streams=16)
    # The talker's rollover counter has advanced: losing its stream would make it undecodable.
    for sequence in range(65_530, 65_540):
        theirs.unprotect(ours.protect(rtp(sequence)))
    for other in range(200):
        theirs.unprotect(ours.protect(rtp(1, ssrc=other)))
        theirs.unprotect_rtcp(ours.protect_rtcp(receiver_report(ssrc=1000 + other)))
        assert theirs.unprotect(ours.protect(rtp(65_540 + other))) == rtp(65_540 + other)
        assert theirs.streams <= 16


def test_a_stream_that_fell_silent_is_really_freed() -> None:
    keys = keys_for(SrtpProfile.AEAD_AES_128_GCM)
    ours, theirs = Outbound(keys), Inbound(keys.swapped(), max_streams=16)
    first = ours.protect(rtp(1, ssrc=1))
    theirs.unprotect(first)
    for other in range(2, 40):
        theirs.unprotect(ours.protect(rtp(1, ssrc=other)))
    assert theirs.unprotect(first) == rtp(1, ssrc=1), "its replay window is gone with it"


def test_what_does_not_fit_the_buffer_is_refused(way: str) -> None:
    ours, theirs = pair(SrtpProfile.AEAD_AES_128_GCM, way)
    for size in (2017, 2048, 5000):
        for operation in (ours.protect, ours.protect_rtcp, theirs.unprotect, theirs.unprotect_rtcp):
            with pytest.raises(SrtpError) as refused:
                operation(rtp(1, size))
            assert refused.value.reason == "other"


def test_a_removed_stream_starts_afresh() -> None:
    ours, theirs = pair(SrtpProfile.AES128_CM_SHA1_80)
    packet = ours.protect(rtp(7))
    theirs.unprotect(packet)
    theirs.remove_stream(SSRC)
    theirs.remove_stream(99)  # never seen: nothing happens
    assert theirs.streams == 0
    assert theirs.unprotect(packet) == rtp(7)


def test_keys_do_not_show_in_a_representation() -> None:
    assert repr(keys_for(SrtpProfile.AEAD_AES_128_GCM)).count("=") == 1


def derive(key: bytes, salt: bytes, label: int, length: int) -> bytes:
    """The key derivation of RFC 3711, section 4.3, written from the RFC: the oracle of the next two tests."""
    start = int.from_bytes(salt.ljust(14, b"\0"), "big") ^ (label << 48)
    encryptor = Cipher(algorithms.AES(key), modes.CTR((start << 16).to_bytes(16, "big"))).encryptor()
    return encryptor.update(bytes(length))


@pytest.mark.parametrize("profile", [SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM])
def test_gcm_packets_are_those_of_rfc_7714(profile: SrtpProfile, way: str) -> None:
    keys = keys_for(profile)
    packet = rtp(7)
    session_key = derive(keys.local_key, keys.local_salt, 0, profile.key_length)
    session_salt = derive(keys.local_key, keys.local_salt, 2, 12)
    counter = bytes(2) + struct.pack("!IIH", SSRC, 0, 7)
    nonce = bytes(a ^ b for a, b in zip(counter, session_salt, strict=True))
    sealed = AESGCM(session_key).encrypt(nonce, packet[12:], packet[:12])
    assert outbound(keys, way).protect(packet) == packet[:12] + sealed


@pytest.mark.parametrize("profile", [SrtpProfile.AES128_CM_SHA1_80, SrtpProfile.AES128_CM_SHA1_32])
def test_counter_mode_packets_are_those_of_rfc_3711(profile: SrtpProfile) -> None:
    keys = keys_for(profile)
    packet = rtp(7)
    session_key, auth_key, session_salt = (
        derive(keys.local_key, keys.local_salt, label, length) for label, length in ((0, 16), (1, 20), (2, 14))
    )
    counter = (int.from_bytes(session_salt, "big") << 16) ^ (SSRC << 64) ^ (7 << 16)
    cipher = Cipher(algorithms.AES(session_key), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    encrypted = packet[:12] + cipher.update(packet[12:])
    tag = hmac.new(auth_key, encrypted + bytes(4), hashlib.sha1).digest()[: profile.rtp_overhead]
    assert Outbound(keys).protect(packet) == encrypted + tag


def test_the_exporter_is_cut_as_rfc_5764_says() -> None:
    material = bytes(range(56))
    client = SrtpKeys.from_exporter(SrtpProfile.AEAD_AES_128_GCM, material, client=True)
    assert (client.local_key, client.remote_key) == (material[:16], material[16:32])
    assert (client.local_salt, client.remote_salt) == (material[32:44], material[44:56])
    assert SrtpKeys.from_exporter(SrtpProfile.AEAD_AES_128_GCM, material, client=False) == client.swapped()

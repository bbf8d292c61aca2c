from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.rtcp import check_rtcp
from triosfu.errors import MalformedPacket
from triosfu.rtp.rtcp import (
    Bye,
    DelaySinceLastRr,
    Dlrr,
    Fir,
    Nack,
    OtherRtcp,
    OtherXrBlock,
    Pli,
    ReceiverReferenceTime,
    ReceiverReport,
    Remb,
    ReportBlock,
    RtcpPacket,
    Sdes,
    SdesChunk,
    SenderReport,
    Xr,
    build_compound,
    parse_compound,
)

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
blocks = st.builds(ReportBlock, u32, u8, st.integers(-0x800000, 0x7FFFFF), u32, u32, u32, u32)
reports = st.lists(blocks, max_size=31).map(tuple)
items = st.tuples(st.integers(1, 255), st.binary(max_size=255))
chunks = st.builds(SdesChunk, u32, st.lists(items, max_size=4).map(tuple))
words = st.binary(max_size=40).map(lambda data: data + bytes(-len(data) % 4))
xr_blocks = st.one_of(
    st.builds(ReceiverReferenceTime, u64),
    st.builds(Dlrr, st.lists(st.builds(DelaySinceLastRr, u32, u32, u32), max_size=4).map(tuple)),
    st.builds(OtherXrBlock, st.integers(6, 255), u8, words),
)
packets: st.SearchStrategy[RtcpPacket] = st.one_of(
    st.builds(SenderReport, u32, u64, u32, u32, u32, reports),
    st.builds(ReceiverReport, u32, reports),
    st.builds(Sdes, st.lists(chunks, max_size=31).map(tuple)),
    st.builds(Bye, st.lists(u32, max_size=31).map(tuple), st.binary(max_size=255)),
    st.builds(Xr, u32, st.lists(xr_blocks, max_size=5).map(tuple)),
    st.builds(Nack, u32, u32, st.lists(u16 | st.integers(0, 20), max_size=40).map(tuple)),
    st.builds(Pli, u32, u32),
    st.builds(Fir, u32, st.lists(st.tuples(u32, u8), max_size=5).map(tuple), u32),
    st.builds(
        Remb,
        u32,
        st.builds(lambda mantissa, exponent: mantissa << exponent, st.integers(0, 2**18 - 1), st.integers(0, 40)),
        st.lists(u32, max_size=8).map(tuple),
        u32,
    ),
    st.builds(OtherRtcp, st.sampled_from([192, 204, 208]), st.integers(0, 31), words),
)


@given(st.lists(packets, min_size=1, max_size=4))
def test_a_compound_says_what_was_put_in(compound: list[RtcpPacket]) -> None:
    data = build_compound(compound)
    assert len(data) % 4 == 0
    assert parse_compound(data) == compound
    check_rtcp(data)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_compound_or_malformed(data: bytes) -> None:
    check_rtcp(data)


@given(st.integers(200, 207), st.integers(0, 63), st.binary(max_size=120))
def test_any_body_of_a_known_kind_is_read_or_malformed(kind: int, bits: int, body: bytes) -> None:
    body += bytes(-len(body) % 4)
    check_rtcp(bytes([0x80 | bits, kind]) + (len(body) // 4).to_bytes(2, "big") + body)


@given(st.lists(packets, min_size=1, max_size=3), st.data())
def test_a_cut_compound_is_malformed_unless_it_is_cut_between_packets(
    compound: list[RtcpPacket], data: st.DataObject
) -> None:
    whole = build_compound(compound)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    borders = {len(build_compound(compound[:count])) for count in range(1, len(compound))}
    if len(cut) in borders:
        assert parse_compound(cut) == compound[: len(parse_compound(cut))]
    else:
        with pytest.raises(MalformedPacket):
            parse_compound(cut)


@given(st.lists(st.integers(-20, 200), min_size=1, unique=True), u16)
def test_ascending_numbers_share_nack_pairs_across_the_wrap(steps: list[int], base: int) -> None:
    sequences = tuple((base + step) & 0xFFFF for step in sorted(steps))
    nack = Nack(1, 2, sequences)
    assert parse_compound(nack.serialize()) == [nack]
    dense = Nack(1, 2, tuple((base + step) & 0xFFFF for step in range(17)))
    assert len(dense.serialize()) == 12 + 4


def test_padding_is_taken_off() -> None:
    pli = Pli(1, 2).serialize()
    padded = bytes([pli[0] | 0x20, pli[1], 0, 3]) + pli[4:] + b"\x00\x00\x00\x04"
    assert parse_compound(padded) == [Pli(1, 2)]


def test_a_goodbye_of_everybody_has_no_sources() -> None:
    assert parse_compound(Bye(()).serialize()) == [Bye(())]


def test_a_cname_is_one_item() -> None:
    assert Sdes.cname(7, "alice").chunks == (SdesChunk(7, ((1, b"alice"),)),)


def test_losses_beyond_24_bits_are_clamped() -> None:
    block = ReportBlock(1, 0, 1 << 30, 0, 0, 0, 0)
    (report,) = parse_compound(ReceiverReport(1, (block,)).serialize())
    assert isinstance(report, ReceiverReport)
    assert report.reports[0].cumulative_lost == 0x7FFFFF


def test_an_estimate_keeps_18_significant_bits() -> None:
    (remb,) = parse_compound(Remb(1, 1_234_567, (9,)).serialize())
    assert isinstance(remb, Remb)
    assert remb.bitrate <= 1_234_567 < remb.bitrate + (1 << 3)


def test_application_feedback_that_is_no_estimate_is_left_alone() -> None:
    data = bytes([0x8F, 206, 0, 3]) + bytes(8) + b"ABCD"
    assert parse_compound(data) == [OtherRtcp(206, 15, bytes(8) + b"ABCD")]

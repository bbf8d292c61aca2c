from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from triosfu.media.buffer import PacketBuffer
from triosfu.media.sequence import MAX_RANGES, Exclusions, extend
from triosfu.rtp.wire import RtpPacket, build_rtp


@given(st.integers(0, 2**40), st.integers(-0x8000, 0x7FFF))
def test_a_number_within_half_a_cycle_is_recovered(near: int, step: int) -> None:
    assert extend((near + step) & 0xFFFF, near) == near + step


@given(st.integers(0x10000, 0x1FFFF), st.lists(st.booleans(), max_size=300))
def test_indexes_count_what_was_not_taken_out(first: int, taken_out: list[bool]) -> None:
    exclusions = Exclusions()
    expected: dict[int, int | None] = {}
    index = first
    for number, out in enumerate(taken_out, first):
        if out:
            exclusions.exclude(number)
            expected[number] = None
        else:
            expected[number] = index
            assert number - exclusions.offset == index
            index += 1
    ranges = sum(out and not (place and taken_out[place - 1]) for place, out in enumerate(taken_out))
    if ranges <= MAX_RANGES:
        assert {number: exclusions.index(number) for number in expected} == expected


def test_what_is_older_than_the_last_hundred_ranges_is_unknown() -> None:
    exclusions = Exclusions()
    for number in range(1, 2 * MAX_RANGES + 2, 2):
        exclusions.exclude(number)
    assert exclusions.index(0) is None
    assert exclusions.index(2) == 1
    assert exclusions.index(2 * MAX_RANGES + 2) == MAX_RANGES + 1


def indexed(index: int) -> RtpPacket:
    packet = RtpPacket.parse(build_rtp(ssrc=1, payload_type=96, sequence=index & 0xFFFF, timestamp=0))
    packet.index = index
    return packet


@given(st.integers(1, 8), st.lists(st.integers(0, 40), max_size=60))
def test_the_buffer_keeps_the_newest_packet_of_each_slot(capacity: int, indexes: list[int]) -> None:
    buffer = PacketBuffer(capacity)
    newest: dict[int, int] = {}
    for index in indexes:
        kept = newest.get(index % capacity, -1)
        assert buffer.put(indexed(index)) == (index > kept)
        newest[index % capacity] = max(index, kept)
    for index in range(41):
        packet = buffer.get(index)
        assert (packet.index if packet else None) == (index if newest.get(index % capacity) == index else None)

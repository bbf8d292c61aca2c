from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from triosfu.media.buffer import EVERY, LEAST, MOST, ROOM, PacketBuffer
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


def indexed(index: int, size: int = 0, arrival: float = 0.0) -> RtpPacket:
    data = build_rtp(ssrc=1, payload_type=96, sequence=index & 0xFFFF, timestamp=0, payload=bytes(size))
    packet = RtpPacket.parse(data, arrival)
    packet.index = index
    return packet


class Model:
    """What the buffer promises, in the plainest words."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.came: set[int] = set()
        self.kept: dict[int, tuple[float, int]] = {}  # when it came, and bytes
        self.look_at = 0.0

    def put(self, packet: RtpPacket) -> bool:
        index = packet.index
        if index in self.came or index <= max(self.came, default=-1) - self.capacity:
            return False
        self.came.add(index)
        self.kept[index] = packet.arrival, len(packet.data)
        for old in [one for one in self.kept if one <= max(self.came) - self.capacity]:
            del self.kept[old]
        if packet.arrival >= self.look_at:
            self.expire(packet.arrival)
        return True

    def expire(self, now: float) -> None:
        self.look_at = now + EVERY
        for index in sorted(self.kept):
            age = now - self.kept[index][0]
            if age < LEAST or (age < MOST and sum(size for _, size in self.kept.values()) <= ROOM):
                break
            del self.kept[index]


later = st.sampled_from([0.0, 0.125, 0.25, 0.625, 2.0])  # exact in floating point
steps = st.tuples(st.integers(0, 40), st.sampled_from([0, 1_000, ROOM // 2]), later)


@given(st.integers(1, 8), st.lists(steps, max_size=60))
@example(4, [(1, ROOM, 0.0), (3, 0, 0.625), (2, 0, 0.625), (1, 0, 0.0), (2, 0, 0.0)])
@example(4, [(1, 0, 0.0), (2, 0, 2.0), (6, 0, 0.0), (5, 0, 0.0), (1, 0, 0.0), (40, 0, 0.0), (36, 0, 0.0)])
def test_the_buffer_keeps_the_last_packets_for_a_while_and_takes_each_once(
    capacity: int, taken: list[tuple[int, int, float]]
) -> None:
    buffer, model, now = PacketBuffer(capacity), Model(capacity), 0.0
    for index, size, waited in taken:
        now += waited
        assert buffer.put(indexed(index, size, now)) == model.put(indexed(index, size, now))
        assert set(buffer) == set(model.kept)
    for index in range(41):
        packet = buffer.get(index)
        assert (index in buffer) is (packet is not None) is (index in model.kept)
        if packet:
            kept = packet.index, packet.sequence, packet.arrival, len(packet.data)
            assert kept == (index, index, *model.kept[index])
    for moment in (now + LEAST, now + MOST):
        buffer.expire(moment)
        model.expire(moment)
        assert set(buffer) == set(model.kept)
    assert not model.kept

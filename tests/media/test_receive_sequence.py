from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from triosfu.media.buffer import FIRST, LEAST, MOST, ROOM, UNFED, PacketBuffer
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
        return True

    def expire(self, now: float) -> None:
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
    for moment in (now + UNFED, now + LEAST, now + MOST):
        buffer.expire(moment)
        model.expire(moment)
        assert set(buffer) == set(model.kept)
    assert not model.kept


@given(st.lists(st.tuples(st.integers(-60, 90), st.sampled_from([0.0, 0.0, 0.015625])), max_size=60))
@example([(1, 0.0)] * (2 * FIRST) + [(-FIRST - 3, 0.0), (7 * FIRST, 0.0), (-200, 0.0)])
def test_the_ring_has_a_slot_for_each_index_of_the_last_second(taken: list[tuple[int, float]]) -> None:
    """However many they are: it grows, and is what a ring of all the capacity would be."""
    buffer, model = PacketBuffer(500), Model(500)
    first = newest = 1_000
    now = 0.0
    for step, waited in [(0, 0.0), *taken]:
        now += waited
        index = max(first, newest + step)
        newest = max(newest, index)
        packet = indexed(index, 10, now)
        assert buffer.put(packet) == model.put(packet)
        assert set(buffer) == set(model.kept)
    assert len(buffer._ring) <= 500


def test_an_index_that_was_passed_over_in_the_last_second_has_a_slot_too() -> None:
    buffer = PacketBuffer(500)
    buffer.put(indexed(1000, 10, 0.0))
    for index in range(1002, 1002 + FIRST):
        buffer.put(indexed(index, 10, 2.0))
    assert buffer.put(indexed(1001, 10, 2.0))


def test_a_slow_stream_has_a_small_ring() -> None:
    sizes = []
    for rate in (30, 50, 240, 1000):
        buffer = PacketBuffer(500)
        for index in range(2 * rate):
            assert buffer.put(indexed(index, 10, index / rate))
        sizes.append(len(buffer._ring))
    assert sizes == [32, 64, 256, 500]


def test_descriptors_stay_with_their_packets_when_the_ring_grows() -> None:
    buffer = PacketBuffer(500, descriptors=True)
    for index in range(200):
        packet = indexed(index, 10)
        packet.descriptor = index
        buffer.put(packet)
        buffer.describe(packet)
    found = [buffer.get(index) for index in range(200)]
    assert [packet and packet.descriptor for packet in found] == list(range(200))


def test_of_a_stream_that_goes_to_nobody_little_is_kept_and_its_numbers_stay_taken() -> None:
    buffer = PacketBuffer(500)
    for index in range(100):
        buffer.put(indexed(index, 10, index / 128))
    buffer.expire(100 / 128, fed=False)
    assert set(buffer) == set(range(75, 100))
    assert not buffer.put(indexed(50, 10, 100 / 128))

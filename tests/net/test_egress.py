"""What leaves through the egress arena: in order, in as few calls as possible, never waiting, never out of bounds."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triosfu.errors import UsageError
from triosfu.net import batch
from triosfu.net.address import family, pack, unpack
from triosfu.net.batch import (
    FRAGMENTATION,
    LARGEST,
    SLOT,
    Arena,
    BatchedInbox,
    PlainInbox,
    batching_available,
    may_be_fragmented,
)
from triosfu.net.egress import MAX_HELD, SLOTS, Destination, Egress
from triosfu.srtp import Inbound, Outbound, SrtpKeys, SrtpProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("packet_path")


@pytest.fixture(params=[True, False], ids=["batched", "plain"])
def batched(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def udp(buffer: int = 4 * 1024 * 1024) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@contextmanager
def egress_and_peer(*, batched: bool) -> Iterator[tuple[Egress, socket.socket, socket.socket]]:
    with udp() as ours, udp() as peer:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=batched)
        yield egress, ours, peer


def test_this_system_has_the_batched_calls() -> None:
    """Red means: the packet path falls back to one system call per datagram here."""
    assert batching_available()


def test_what_is_committed_leaves_in_order_however_much_it_is(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        arrived = []
        for index in range(3 * SLOTS + 5):
            egress.send(index.to_bytes(4, "big") * (1 + index % 300), destination)
            if egress.queued == SLOTS:  # before the arena flushes itself, as the peer's buffer is not endless
                egress.flush()
                arrived += [peer.recv(4096) for _ in range(SLOTS)]
        egress.flush()
        arrived += [peer.recv(4096) for _ in range(5)]
        assert arrived == [index.to_bytes(4, "big") * (1 + index % 300) for index in range(3 * SLOTS + 5)]
        assert egress.queued == 0
        assert not egress.counters


def test_a_full_arena_flushes_itself(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        for _ in range(SLOTS + 1):
            egress.send(b"x", destination)
        assert egress.queued == 1
        assert peer.recv(10) == b"x"


def test_a_packet_is_written_and_protected_in_its_slot(batched: bool) -> None:
    keys = SrtpKeys.from_exporter(SrtpProfile.AEAD_AES_128_GCM, bytes(56), client=True)
    outbound, inbound = Outbound(keys), Inbound(keys.swapped())
    with egress_and_peer(batched=batched) as (egress, ours, peer):
        destination = egress.destination(peer.getsockname())
        packets = [b"\x80\x60" + bytes([0, index]) + bytes(8) + bytes([index]) * 1400 for index in range(1, 4)]
        for packet in packets:
            offset = egress.reserve()
            egress.arena[offset : offset + len(packet)] = packet
            egress.commit(offset, outbound.protect_in_place(egress.pointers[offset // SLOT], len(packet)), destination)
        egress.flush()
        inbox = BatchedInbox(peer) if batched else PlainInbox(peer)
        assert inbox.receive() == 3
        for index, packet in enumerate(packets):
            size = inbound.unprotect_in_place(inbox.pointers[index], inbox.lengths[index])
            assert bytes(inbox.views[index][:size]) == packet
            assert unpack(inbox.sources[index]) == ours.getsockname()
        assert inbox.receive() == 0


def test_only_the_slot_reserved_last_can_be_committed() -> None:
    with egress_and_peer(batched=True) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        assert egress.reserve() == egress.reserve() == 0, "nothing was committed in between"
        for offset, length in ((SLOT, 10), (-SLOT, 10), (1, 10), (0, 0), (0, SLOT + 1), (0, -1)):
            with pytest.raises(UsageError):
                egress.commit(offset, length, destination)
        egress.commit(0, SLOT, destination)
        with pytest.raises(UsageError):
            egress.commit(0, 10, destination)
        assert egress.reserve() == SLOT


def test_a_full_socket_buffer_drops_and_counts_and_does_not_wait() -> None:
    """A socket pair has what a UDP socket on loopback lacks: a buffer that stays full."""
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, peer:
        peer.setblocking(False)
        egress = Egress()
        egress.open_outlet(ours, ("127.0.0.1", 1), batched=True)
        destination = egress.destination(("127.0.0.1", 2))
        destination.name = destination.name_length = 0  # the pair is connected: no address goes with a datagram
        if egress.kernel_queue is not None:
            destination.way.name, destination.way.name_length = egress.kernel_queue.kernel.ffi.NULL, 0
        for _ in range(SLOTS):
            queue(egress, bytes(1000), destination)
        egress.flush()
        assert egress.queued == egress.held_back == 0
        dropped = egress.counters["send_full"]
        assert 0 < dropped < SLOTS
        for _ in range(SLOTS - dropped):
            assert len(peer.recv(2000)) == 1000
        with pytest.raises(BlockingIOError):
            peer.recv(2000)


class SmallSocket(socket.socket):
    """Takes so many datagrams and is full."""

    def __init__(self, room: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.room = room
        self.taken: list[bytes] = []

    def sendto(self, data: bytes | memoryview, address: object) -> int:  # type: ignore[override]
        if len(self.taken) == self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.taken.append(bytes(data))
        return 1


@contextmanager
def full_after(room: int) -> Iterator[tuple[Egress, SmallSocket, Destination]]:
    with SmallSocket(room) as ours:
        egress = Egress()
        egress.open_outlet(ours, ("127.0.0.1", 1), batched=False)
        yield egress, ours, egress.destination(("127.0.0.1", 2))


def queue(egress: Egress, data: bytes, destination: Destination, *, keep: bool = False) -> None:
    """As media is queued."""
    offset = egress.reserve()
    egress.arena[offset : offset + len(data)] = data
    egress.commit(offset, len(data), destination, keep)


def test_a_full_socket_buffer_does_not_hold_up_the_plain_path_either() -> None:
    with full_after(3) as (egress, ours, destination):
        for _ in range(10):
            queue(egress, b"x", destination)
        egress.flush()
        assert (len(ours.taken), egress.counters, egress.queued) == (3, {"send_full": 7}, 0)


def test_what_is_vital_waits_for_a_full_socket_and_goes_first_when_there_is_room() -> None:
    with full_after(1) as (egress, ours, destination):
        queue(egress, b"media", destination)
        queue(egress, b"more", destination)
        queue(egress, b"keyframe", destination, keep=True)
        egress.send(b"control", destination)
        egress.send(bytes(SLOT + 1), destination)
        egress.flush()
        assert (ours.taken, egress.counters, egress.held_back) == ([b"media"], {"send_full": 1}, 3)
        ours.room = 3
        queue(egress, b"later", destination)
        egress.flush()
        assert (ours.taken[1:], egress.held_back) == ([b"keyframe", b"control"], 1)
        ours.room = 10
        egress.flush()
        assert (ours.taken[3:], egress.held_back) == ([bytes(SLOT + 1)], 0)
        assert egress.counters == {"send_full": 2}


def test_what_was_vital_in_the_last_flush_is_not_so_in_the_next() -> None:
    with full_after(1) as (egress, ours, destination):
        queue(egress, b"keyframe", destination, keep=True)
        egress.flush()
        queue(egress, b"media", destination)
        egress.flush()
        assert (ours.taken, egress.counters, egress.held_back) == ([b"keyframe"], {"send_full": 1}, 0)


def test_what_is_held_back_has_a_bound_and_an_end() -> None:
    with full_after(0) as (egress, ours, destination):
        for _ in range(MAX_HELD + 5):
            egress.send(b"control", destination)
        egress.flush()
        assert (egress.held_back, egress.counters) == (MAX_HELD, {"send_full": 5})
        egress.drop_held()
        assert (egress.held_back, egress.counters) == (0, {"send_full": MAX_HELD + 5})
        egress.send(b"control", destination)
        egress.close()
        assert (egress.held_back, ours.taken, egress.counters) == (0, [], {"send_full": MAX_HELD + 6})


def test_one_datagram_with_an_error_does_not_stop_the_others(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        good = egress.destination(peer.getsockname())
        forbidden = egress.destination(("255.255.255.255", 9))  # a broadcast needs a permission that we do not ask for
        for destination in (forbidden, good, forbidden, forbidden, good):
            egress.send(b"x", destination)
        egress.flush()
        assert [peer.recv(10), peer.recv(10)] == [b"x", b"x"]
        assert egress.counters == {"send_eacces": 3}


def test_oversize_and_empty_data_is_dropped_and_counted() -> None:
    with egress_and_peer(batched=True) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        egress.send(bytes(LARGEST + 1), destination)
        egress.send(b"", destination)
        assert (egress.queued, egress.counters) == (0, {"send_oversize": 2})


def test_large_datagrams_leave_in_order_among_small_ones_and_their_slots_are_slots_again(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        for turn in range(2):
            sent = [bytes([turn, index]) * size for index, size in enumerate([1, SLOT // 2, SLOT, 5, LARGEST // 2, 9])]
            for data in sent:
                egress.send(data, destination)
            egress.flush()
            assert [peer.recv(LARGEST) for _ in sent] == sent
        egress.send(b"small", destination)
        egress.send(b"small too", destination)
        egress.send(b"where a large one was", destination)
        egress.flush()
        assert [peer.recv(100) for _ in range(3)] == [b"small", b"small too", b"where a large one was"]
        assert not egress._large
        assert not egress._pinned
        assert not egress.counters


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_probe_goes_behind_what_is_queued_and_alone_must_not_be_fragmented(batched: bool, host: str) -> None:
    with socket.socket(family((host, 0)), socket.SOCK_DGRAM) as ours, socket.socket(ours.family, ours.type) as peer:
        for sock in (ours, peer):
            sock.bind((host, 0))
            sock.setblocking(False)
        may_be_fragmented(ours)
        level, option, _, normal = FRAGMENTATION[ours.family]
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname()[:2], batched=batched)
        destination = egress.destination(peer.getsockname()[:2])
        egress.send(b"first", destination)
        egress.probe(bytes(9000), destination)
        assert [len(peer.recv(LARGEST)) for _ in range(2)] == [5, 9000]
        assert ours.getsockopt(level, option) == normal
        egress.probe(bytes(65_535), destination)
        assert egress.counters == {"send_emsgsize": 1}
        assert ours.getsockopt(level, option) == normal
        egress.close()
        egress.probe(b"late", destination)
        egress.probe(b"nowhere", egress.destination(peer.getsockname()[:2]))
        assert egress.counters == {"send_emsgsize": 1, "send_closed": 1, "send_no_socket": 1}


def test_where_a_datagram_cannot_be_kept_whole_no_probe_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "FRAGMENTATION", {})
    with egress_and_peer(batched=True) as (egress, _, peer):
        egress.probe(bytes(9000), egress.destination(peer.getsockname()))
        assert egress.counters == {"send_probe": 1}


def test_a_family_without_a_socket_is_dropped_and_counted(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        nowhere, somewhere = egress.destination(("2001:db8::1", 9)), egress.destination(peer.getsockname())
        for destination in (nowhere, somewhere, nowhere):
            egress.send(b"x", destination)
        egress.flush()
        assert peer.recv(10) == b"x"
        assert egress.counters == {"send_no_socket": 2}


def test_the_source_that_is_asked_for_is_used(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, first, peer), udp() as second:
        egress.open_outlet(second, second.getsockname(), batched=batched)
        for source, expected in (
            (None, first),
            (second.getsockname(), second),
            (first.getsockname(), first),
            (("192.0.2.1", 1), first),
        ):
            egress.send(b"x", egress.destination(peer.getsockname(), source))
            egress.flush()
            assert peer.recvfrom(10)[1] == expected.getsockname()


def test_after_closing_everything_is_dropped(batched: bool) -> None:
    with egress_and_peer(batched=batched) as (egress, _, peer):
        destination = egress.destination(peer.getsockname())
        egress.send(b"before", destination)
        egress.close()
        assert peer.recv(10) == b"before"
        for late in (destination, egress.destination(peer.getsockname())):
            egress.send(b"after", late)
        egress.flush()
        assert egress.counters == {"send_closed": 1, "send_no_socket": 1}


def test_somebody_is_woken_once_per_flush_unless_somebody_has_promised() -> None:
    with egress_and_peer(batched=True) as (egress, _, peer):
        woken: list[int] = []
        egress.wake = lambda: woken.append(egress.queued)
        destination = egress.destination(peer.getsockname())
        for _ in range(2):
            egress.send(b"x", destination)
            egress.send(b"y", destination)
            egress.flush()
        assert woken == [1, 1]
        egress.held = True
        egress.send(b"x", destination)
        assert woken == [1, 1]


def test_a_datagram_larger_than_the_largest_takes_no_room_from_the_next(batched: bool) -> None:
    with udp() as ours, udp() as peer:
        ours.sendto(bytes(LARGEST + 100), peer.getsockname())
        ours.sendto(b"next", peer.getsockname())
        inbox = BatchedInbox(peer) if batched else PlainInbox(peer)
        assert inbox.receive() == 2
        assert inbox.lengths[0] >= LARGEST, "the mux drops it"
        assert inbox.lengths[1] == 4
        assert bytes(inbox.views[1][:4]) == b"next"


def test_slots_do_not_overlap() -> None:
    arena = Arena(4)
    for slot in range(4):
        arena.view(slot)[:] = bytes([slot]) * SLOT
    assert bytes(arena.memory) == b"".join(bytes([slot]) * SLOT for slot in range(4))


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_survive_the_kernel_form(host: object, port: int) -> None:
    address = (str(host), port)
    host_back, port_back = unpack(pack(address))
    assert port_back == port
    assert pack((host_back, port_back)) == pack(address)


def test_a_scope_is_part_of_an_address() -> None:
    assert unpack(pack(("fe80::1%3", 9))) == ("fe80::1%3", 9)
    assert unpack(pack(("fe80::1%lo", 9))) == (f"fe80::1%{socket.if_nametoindex('lo')}", 9)


@pytest.mark.parametrize("address", [("localhost", 1), ("", 1), ("1.2.3.4", 65536), ("1.2.3.4", -1), ("a.local", 2)])
def test_names_and_impossible_ports_are_our_own_mistake(address: tuple[str, int]) -> None:
    with pytest.raises(UsageError):
        pack(address)

"""Runs of datagrams in one message: what arrives is what was queued, wherever it is cut, and where it cannot be."""

from __future__ import annotations

import errno
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.net.test_egress import udp
from triosfu.net import batch, messages
from triosfu.net.address import unpack
from triosfu.net.batch import SLOT, BatchedInbox, ffi
from triosfu.net.egress import SLOTS, Egress
from triosfu.net.messages import CONTROL_SIZE, MAX_SEGMENTS, segmentation_available

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from triosfu.net.egress import Destination

pytestmark = pytest.mark.usefixtures("packet_path")

# Sizes that make runs, that end them, and runs that are too long for one message.
sizes = st.one_of(st.sampled_from([1, 100, 1200, SLOT]), st.integers(1, SLOT))
bursts = st.lists(st.tuples(st.integers(0, 2), sizes, st.integers(1, 70)), max_size=8)
# The same of media: to whom, of which size, how many, and from which of three sources; RTCP, or what is no RTP at all.
kinds = st.sampled_from(["first", "second", "third", "rtcp", "other"])
media = st.lists(st.tuples(st.integers(0, 2), sizes, st.integers(1, 9), kinds), max_size=30)


def datagram(kind: str, number: int, size: int) -> bytes:
    """One of `size` bytes; if there is room its number tells it from the others of its kind."""
    head = {"rtcp": b"\x80\xc8", "other": b"\x16\xfe"}.get(kind, b"\x80\x60") + number.to_bytes(4, "big")
    return (head.ljust(8, b"\0") + kind.encode().ljust(8, b"\0") + bytes(size))[:size]


def written(egress: Egress, slots: range, *, segmented: bool) -> int:
    egress._messages.arrange(egress._queued, slots, segmented=segmented)
    return egress._messages.write(egress._queued, range(len(slots)), segmented=segmented)


@contextmanager
def three_peers() -> Iterator[tuple[Egress, tuple[socket.socket, ...], list[Destination]]]:
    """An egress, and three sockets with where they are."""
    with udp() as ours, udp() as first, udp() as second, udp() as third:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        peers = first, second, third
        yield egress, peers, [egress.destination(peer.getsockname()) for peer in peers]


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096))
        except BlockingIOError:
            return found


def test_this_system_cuts_messages() -> None:
    """Red means: a burst costs a message for each datagram here."""
    with udp() as sock:
        assert segmentation_available(sock)


@given(bursts=bursts)
def test_all_datagrams_arrive_as_they_were_queued(bursts: list[tuple[int, int, int]]) -> None:
    with three_peers() as (egress, peers, destinations):
        queued: list[list[bytes]] = [[], [], []]
        arrived: list[list[bytes]] = [[], [], []]
        number = 0
        for peer, size, count in bursts:
            for _ in range(count):
                number += 1
                data = (number.to_bytes(4, "big") * (size // 4 + 1))[:size]
                queued[peer].append(data)
                egress.send(data, destinations[peer])
            for at, sock in enumerate(peers):
                arrived[at] += drain(sock)
        egress.flush()
        for at, sock in enumerate(peers):
            arrived[at] += drain(sock)
        assert arrived == queued
        assert not egress.counters
        assert not any(destination.whole for destination in destinations)


@given(bursts=media)
def test_what_a_source_sends_to_an_address_keeps_its_order(bursts: list[tuple[int, int, int, str]]) -> None:
    with three_peers() as (egress, peers, destinations):
        queued: list[list[bytes]] = [[], [], []]
        for number, (peer, size, count, kind) in enumerate(bursts):
            for repeat in range(count):
                queued[peer].append(datagram(kind, 10 * number + repeat, size))
                egress.send(queued[peer][-1], destinations[peer])
        egress.flush()
        for at, sock in enumerate(peers):
            arrived = drain(sock)
            assert sorted(arrived) == sorted(queued[at])
            for mark in (b"\x80\x60first", b"\x80\x60second", b"\x80\x60third", b"\x80\xc8", b"\x16\xfe"):
                of_kind = [
                    [data for data in all_of_them if data[:2] + data[8:].rstrip(b"\0") == mark or data[:2] == mark]
                    for all_of_them in (arrived, queued[at])
                ]
                assert of_kind[0] == of_kind[1]
        assert not egress.counters


@pytest.mark.parametrize(
    ("packets", "order", "messages"),
    [
        ([("first", 80), ("second", 100)], [1, 0], 1),  # a run ends with what is smaller
        ([("first", 80), ("first", 100)], [0, 1], 2),
        ([("first", 100), ("second", 90), ("third", 110), ("first", 95)], [2, 0, 3, 1], 2),
        ([("other", 80), ("other", 100)], [0, 1], 2),
        ([("rtcp", 80), ("first", 100), ("rtcp", 120)], [1, 0, 2], 2),
        ([("first", 100), ("second", 100), ("first", 100)], [0, 2, 1], 1),
    ],
)
def test_packets_of_several_sources_make_runs(packets: list[tuple[str, int]], order: list[int], messages: int) -> None:
    with udp() as ours:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        destination, another = (egress.destination(("127.0.0.1", port)) for port in (9, 10))
        for number, (kind, size) in enumerate(packets):
            egress.send(datagram(kind, number, size), destination)
        egress.send(b"to another", another)
        assert written(egress, range(len(packets) + 1), segmented=True) == messages + 1
        assert list(egress._messages.order)[: len(packets) + 1] == [*order, len(packets)]
        egress._queued.clear()


def take(inbox: BatchedInbox) -> list[bytes]:
    """All that has arrived, a few messages at a time."""
    found = []
    while True:
        count = inbox.receive(5)
        found += [bytes(inbox.views[at][: inbox.lengths[at]]) for at in range(count)]
        assert len(inbox.sources) == len(inbox.lengths) == count
        assert all(ffi.buffer(inbox.pointers[at], 1)[:] == found[at - count][:1] for at in range(count))
        if inbox.empty:
            return found


@given(bursts=bursts)
def test_runs_that_arrive_as_one_message_are_taken_apart(bursts: list[tuple[int, int, int]]) -> None:
    with udp() as ours, udp() as other, udp() as peer:
        inbox = BatchedInbox(peer)
        egresses = []
        for sock in (ours, other):
            egress = Egress()
            egress.open_outlet(sock, sock.getsockname(), batched=True)
            egresses.append((egress, egress.destination(peer.getsockname())))
        queued, arrived, number = [], [], 0
        for which, size, count in bursts:
            egress, destination = egresses[which % 2]
            for _ in range(count):
                number += 1
                queued.append((number.to_bytes(4, "big") * (size // 4 + 1))[:size])
                egress.send(queued[-1], destination)
            egress.flush()
            arrived += take(inbox)
        assert arrived == queued


def test_a_run_arrives_as_one_message_from_its_sender() -> None:
    with udp() as ours, udp() as other, udp() as peer:
        inbox = BatchedInbox(peer)
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        destination = egress.destination(peer.getsockname())
        for _ in range(10):
            egress.send(bytes(1200), destination)
        egress.flush()
        other.sendto(b"alone", peer.getsockname())
        assert inbox.receive() == 11
        assert inbox.messages == 2
        assert inbox.lengths == [1200] * 10 + [5]
        assert [unpack(source) for source in inbox.sources] == [ours.getsockname()] * 10 + [other.getsockname()]
        ours.sendto(b"alone", peer.getsockname())
        assert (inbox.receive(), inbox.messages, inbox.lengths) == (1, 1, [5])


def test_a_run_is_one_message() -> None:
    with udp() as ours, udp() as peer:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        destination = egress.destination(peer.getsockname())
        for length in [1200] * 10 + [700, 1200]:
            egress.send(bytes(length), destination)
        egress.send(bytes(10), egress.destination(("127.0.0.1", 9)))
        assert written(egress, range(13), segmented=True) == 3
        assert list(egress._messages.starts)[:3] == [0, 11, 12]
        assert written(egress, range(13), segmented=False) == 13
        for _ in range(13, SLOTS):
            egress.send(bytes(100), destination)
        assert written(egress, range(SLOTS), segmented=True) == 3 + -(-(SLOTS - 13) // MAX_SEGMENTS)


NARROW = """
import subprocess
from tests.clients.network import enter_own_network
from tests.net.test_egress import udp
from triosfu.net.egress import Egress

enter_own_network()
subprocess.run("ip link set lo mtu 1280".split(), check=True)
from triosfu.net.batch import may_be_fragmented
with udp() as ours, udp() as peer, udp() as other:
    may_be_fragmented(ours)
    egress = Egress()
    egress.open_outlet(ours, ours.getsockname(), batched=True)
    narrow, fine = egress.destination(peer.getsockname()), egress.destination(other.getsockname())
    for _ in range(3):
        for number in range(5):
            egress.send(bytes([number]) * 1400, narrow)
        for number in range(5):
            egress.send(bytes([number]) * 1000, fine)
    egress.flush()
    assert [peer.recv(2000) for _ in range(15)] == [bytes([number]) * 1400 for number in range(5)] * 3
    assert [other.recv(2000) for _ in range(15)] == [bytes([number]) * 1000 for number in range(5)] * 3
    assert (narrow.whole, fine.whole, dict(egress.counters)) == (True, False, {})
"""


def test_what_cannot_be_cut_for_one_address_goes_there_datagram_by_datagram() -> None:
    subprocess.run([sys.executable, "-c", NARROW], check=True, timeout=60)


@pytest.mark.parametrize("error", [errno.EIO, errno.EPERM])
def test_a_run_that_is_refused_is_sent_singly_or_counted_as_a_whole(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's refusals that cannot be had here: `sendmmsg` is told to refuse whatever is to be cut."""
    real, tries = batch.libc, 0

    class Refusing:
        def sendmmsg(self, descriptor: int, headers: object, count: int, flags: int) -> int:
            nonlocal tries
            if headers[0].msg_hdr.msg_controllen:  # type: ignore[index]
                tries += 1
                batch.ffi.errno = error
                return -1
            return int(real.sendmmsg(descriptor, headers, 1, flags))

    with udp() as ours, udp() as peer:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        destination = egress.destination(peer.getsockname())
        monkeypatch.setattr(messages, "libc", Refusing())
        for _ in range(2):
            for data in (b"one", b"two", b"three and more"):
                egress.send(data, destination)
            egress.flush()
        if error == errno.EIO:
            assert drain(peer) == [b"one", b"two", b"three and more"] * 2
            assert (tries, dict(egress.counters)) == (1, {})
        else:
            assert drain(peer) == [b"three and more"] * 2
            assert (tries, dict(egress.counters)) == (2, {"send_eperm": 4})


@given(bursts=media, whole=st.booleans(), segmented=st.booleans(), first=st.integers(0, 5))
def test_the_kernel_writes_the_messages_that_python_writes(
    bursts: list[tuple[int, int, int, str]], whole: bool, segmented: bool, first: int
) -> None:
    with udp() as ours:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        if egress.kernel_queue is None:
            pytest.skip("without the kernel there is one loop only")
        destinations = [egress.destination(("127.0.0.1", port)) for port in (1, 2, 3)]
        if whole:
            destinations[2].take_whole()
        packets = [(peer, size, kind) for peer, size, count, kind in bursts for _ in range(count)]
        for number, (peer, size, kind) in enumerate(packets):
            egress.send(datagram(kind, number, 9000 if number % 50 == 49 else size), destinations[peer])
        slots = range(min(first, len(packets)), len(packets))
        found, queued, made = [], egress._queued, egress._messages
        for arrange, write, order, starts in (
            (made._arrange, made._write, made._order, made._starts),
            (made.arrange, made.write, made.order, made.starts),
        ):
            arrange(queued, slots, segmented=segmented)
            count = write(queued, range(len(slots)), segmented=segmented)
            headers = [made._headers[at].msg_hdr for at in range(count)]
            cuts = [
                made._sizes[(at * CONTROL_SIZE + 16) // 2] if header.msg_controllen else 0
                for at, header in enumerate(headers)
            ]
            messages = [
                (header.msg_name, header.msg_namelen, header.msg_iov, header.msg_iovlen, header.msg_controllen, cut)
                for header, cut in zip(headers, cuts, strict=True)
            ]
            iovecs = [(made._iovecs[at].iov_base, made._iovecs[at].iov_len) for at in range(len(slots))]
            found.append((messages, iovecs, list(order)[: len(slots)], list(starts)[:count]))
        assert found[0] == found[1]
        assert sorted(found[0][2]) == list(slots)
        queued.clear()

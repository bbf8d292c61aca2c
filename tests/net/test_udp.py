"""The UDP mux over loopback: who gets what, in batches and without them, whatever one route does."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.test_egress import SmallSocket
from triosfu.errors import ConfigError, UsageError
from triosfu.kernel import installed
from triosfu.net.batch import BATCH, LARGEST, SLOT, batching_available
from triosfu.net.udp import FULL_PAUSE, FULL_TRIES, MAX_TUPLES, Route, UdpMux
from triosfu.stun.wire import COOKIE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from triosfu.net.address import Address

pytestmark = pytest.mark.usefixtures("control_path")

LIMIT = 10  # seconds; reached only by a failing test


class RecordingRoute:
    """Keeps what it is given, and tells when a batch has ended."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.sources: set[Address] = set()
        self.locals: set[Address] = set()
        self.batches = 0
        self.failures: list[Exception] = []
        self.done = False  # with RTCP, as soon as it is received
        self._ended = trio.Event()

    def receive_stun(self, data: bytes, source: Address, local: Address, now: float) -> None:
        self.got.append(("stun", data))
        self.sources.add(source)
        self.locals.add(local)

    def receive_dtls(self, data: bytes, source: Address, now: float) -> None:
        self.got.append(("dtls", data))
        self.sources.add(source)

    def receive_rtp(self, arena: memoryview, pointer: object, length: int, now: float, following: int = 0) -> int:
        self.got.append(("rtp", bytes(arena[:length])))
        return 0

    def receive_rtcp(self, arena: memoryview, pointer: object, length: int, now: float) -> bool:
        self.got.append(("rtcp", bytes(arena[:length])))
        return not self.done

    def end_of_batch(self, now: float) -> None:
        self.batches += 1
        self._ended.set()

    def receive_failed(self, error: Exception) -> None:
        self.failures.append(error)
        self._ended.set()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(LIMIT):
            while len(self.got) < count:
                await self.next_end()

    async def next_end(self) -> None:
        with trio.fail_after(LIMIT):
            await self._ended.wait()
        self._ended = trio.Event()


class BrokenRoute(RecordingRoute):
    """Raises on everything of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def receive_dtls(self, data: bytes, source: Address, now: float) -> None:
        super().receive_dtls(data, source, now)
        if self.kind == "dtls":
            raise ValueError("a bug")

    def end_of_batch(self, now: float) -> None:
        if self.kind == "end":
            raise KeyError("another bug")
        super().end_of_batch(now)

    def receive_failed(self, error: Exception) -> None:
        super().receive_failed(error)
        raise RuntimeError("a bug in the last words")


class EchoRoute(RecordingRoute):
    """Answers each DTLS datagram at the end of its batch, from the arena."""

    def __init__(self, mux: UdpMux) -> None:
        super().__init__()
        self.mux = mux

    def end_of_batch(self, now: float) -> None:
        for source in self.sources:
            destination = self.mux.egress.destination(source)
            for _, data in self.got:
                self.mux.egress.send(data[::-1], destination)
        self.got.clear()
        super().end_of_batch(now)


@pytest.fixture(params=[True, False], ids=["batched", "plain"])
def batched(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Client:
    """A peer's socket."""

    def __init__(self, mux: UdpMux, local: int = 0) -> None:
        self.server = mux.local_addresses[local]
        family = socket.AF_INET6 if ":" in self.server[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((self.server[0], 0))
        self.sock.setblocking(False)

    @property
    def address(self) -> Address:
        host, port = self.sock.getsockname()[:2]
        return host, port

    def send(self, *datagrams: bytes) -> None:
        """Send without a checkpoint: the mux finds all that one test step sends in one batch."""
        for datagram in datagrams:
            self.sock.sendto(datagram, self.server)

    async def receive(self) -> bytes:
        with trio.fail_after(LIMIT):
            await trio.lowlevel.wait_readable(self.sock)
        return self.sock.recv(4096)


@asynccontextmanager
async def client_of(mux: UdpMux, local: int = 0) -> AsyncIterator[Client]:
    client = Client(mux, local)
    with client.sock:
        yield client


def stun_request(ufrag: str) -> bytes:
    username = f"{ufrag}:them".encode()
    padded = username + bytes(-len(username) % 4)
    attribute = b"\x00\x06" + len(username).to_bytes(2, "big") + padded
    return b"\x00\x01" + len(attribute).to_bytes(2, "big") + COOKIE_BYTES + bytes(12) + attribute


def stun_response(transaction: bytes) -> bytes:
    return b"\x01\x01\x00\x00" + COOKIE_BYTES + transaction


DTLS, RTP, RTCP = b"\x16" + bytes(20), b"\x80\x60" + bytes(30), b"\x80\xc9" + bytes(10)


async def test_each_protocol_finds_its_method(batched: bool, control_path: str) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        route = RecordingRoute()
        mux.register("ours", route)
        prefix = mux.transaction_prefix(route)
        mux.bind(client.address, route)
        sent = [stun_request("ours"), stun_response(prefix + bytes(8)), DTLS, RTP, RTCP]
        client.send(*sent)
        await route.wait_for(len(sent))
        expected = list(zip(("stun", "stun", "dtls", "rtp", "rtcp"), sent, strict=True))
        if control_path == "single":
            assert route.got == expected
        # What comes to one socket stays in order; which of two is read first is left to chance.
        for kinds in ({"stun", "rtcp"}, {"dtls", "rtp"}):
            assert [got for got in route.got if got[0] in kinds] == [one for one in expected if one[0] in kinds]
        assert len(route.got) == len(expected)
        assert route.sources == {client.address}
        assert route.locals == {mux.local_addresses[0]}


async def test_what_nobody_claims_is_counted_and_not_answered(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        route = RecordingRoute()
        mux.register("ours", route)
        strangers = {
            "unknown_ufrag": stun_request("theirs"),
            "unknown_transaction": stun_response(bytes(12)),
            "odd_stun": b"\x00\x01\x00",
            "unbound_tuple": RTP,
            "unknown_protocol": b"\xff" * 20,
            "odd_size": b"\x80",
        }
        odd = [b"\x16" + bytes(LARGEST), b"\x01" + bytes(SLOT), b"\x80\x60" + bytes(SLOT), b""]
        client.send(*strangers.values(), *odd, stun_request("ours"))
        await route.wait_for(1)
        for reason in strangers:
            assert mux.counters[reason] == (5 if reason == "odd_size" else 1), reason
        assert len(route.got) == 1
        assert mux.egress.queued == 0


async def test_more_datagrams_than_a_batch_arrive_once_each_and_in_order(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        route = RecordingRoute()
        mux.bind(client.address, route)
        rng = Random(4)
        sent = [b"\x80\x60" + index.to_bytes(2, "big") + rng.randbytes(rng.randrange(1, 1400)) for index in range(300)]
        client.send(*sent)
        await route.wait_for(len(sent))
        assert [data for _, data in route.got] == sent
        assert mux.counters["datagrams"] == len(sent)
        assert route.batches == mux.counters["batches"] >= len(sent) / BATCH


async def test_rtcp_of_which_nothing_follows_ends_no_batch(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        route = RecordingRoute()
        mux.bind(client.address, route)
        client.send(RTCP)
        await route.wait_for(1)
        assert route.batches == 1
        route.done = True
        client.send(RTCP)
        with trio.fail_after(LIMIT):
            while len(route.got) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert route.batches == 1
        client.send(RTCP, RTP)
        await route.wait_for(4)
        assert route.batches >= 2


async def test_a_batch_that_ends_with_media_and_had_an_answer_is_told_of_with_its_time(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        told: list[float] = []
        mux.forwarded = told.append
        route = EchoRoute(mux)
        mux.bind(client.address, route)
        for datagrams, answers in (((DTLS,), 1), ((RTP, RTCP), 0), ((RTP,), 0), ((DTLS, RTP), 2)):
            client.send(*datagrams)
            await route.next_end()
            for _ in range(answers):
                await client.receive()
            if len(datagrams) + answers < 4:
                route.sources.clear()  # whom it answers
                assert told == []
        assert len(told) == 1
        assert 0 < told[0] < LIMIT


async def test_both_families_are_served_on_one_port(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1", "::1"], 0, batched=batched) as mux:
        assert len({port for _, port in mux.local_addresses}) == 1
        assert [str(candidate).split()[4] for candidate in mux.host_candidates()] == ["127.0.0.1", "::1"]
        for local in (0, 1):
            async with client_of(mux, local) as client:
                route = EchoRoute(mux)
                mux.bind(client.address, route)
                client.send(DTLS + b"once")
                assert await client.receive() == (DTLS + b"once")[::-1]


async def test_a_queue_with_both_families_reaches_both(batched: bool) -> None:
    async with (
        UdpMux.open(["127.0.0.1", "::1"], 0, batched=batched) as mux,
        client_of(mux, 0) as four,
        client_of(mux, 1) as six,
    ):
        for client in (four, six, four):
            mux.egress.send(client.address[0].encode(), mux.egress.destination(client.address))
        assert [await four.receive(), await six.receive(), await four.receive()] == [b"127.0.0.1", b"::1", b"127.0.0.1"]


async def test_what_is_queued_outside_a_batch_leaves_without_being_flushed(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        destination = mux.egress.destination(client.address)
        route = EchoRoute(mux)
        mux.bind(client.address, route)
        client.send(DTLS)
        assert await client.receive() == DTLS[::-1], "a batch ends with a flush of its own"
        for round_trip in range(3):
            mux.egress.send(b"timer %d" % round_trip, destination)
            assert mux.egress.queued == 1, "one system call for all that this turn queues"
            assert await client.receive() == b"timer %d" % round_trip
            assert mux.egress.queued == 0


async def test_leaving_the_block_sends_what_is_queued(batched: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.settimeout(LIMIT)
        async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux:
            destination = mux.egress.destination(client.getsockname())
            mux.egress.send(b"goodbye", destination)
        assert client.recv(100) == b"goodbye"
    mux.egress.send(b"too late", destination)
    mux.egress.flush()
    assert mux.counters["send_closed"] == 1


@pytest.mark.parametrize("kind", ["dtls", "end"])
async def test_a_route_that_raises_loses_itself_only(batched: bool, kind: str) -> None:
    async with (
        UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux,
        client_of(mux) as client,
        client_of(mux) as other,
    ):
        broken, sound = BrokenRoute(kind), RecordingRoute()
        mux.register("broken", broken)
        mux.bind(client.address, broken)
        mux.bind(other.address, sound)
        client.send(DTLS)
        other.send(DTLS)
        await sound.wait_for(1)
        if not broken.failures:
            await broken.next_end()
        assert [type(error) for error in broken.failures] == [ValueError if kind == "dtls" else KeyError]
        assert mux.counters["route_failed"] == 2, "the bug, and the one in its last words"
        client.send(DTLS, stun_request("broken"))
        other.send(DTLS)
        await sound.wait_for(2)
        assert (mux.counters["unbound_tuple"], mux.counters["unknown_ufrag"]) == (1, 1)
        assert len(broken.got) == 1


async def test_a_removed_route_gets_nothing_any_more_not_even_the_end_of_the_batch(
    batched: bool, control_path: str
) -> None:
    async with (
        UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux,
        client_of(mux) as client,
        client_of(mux) as other,
    ):
        victim = RecordingRoute()

        class Remover(RecordingRoute):
            def receive_dtls(self, data: bytes, source: Address, now: float) -> None:
                super().receive_dtls(data, source, now)
                mux.remove(victim)

        remover = Remover()
        mux.register("victim", victim)
        assert mux.transaction_prefix(victim) == mux.transaction_prefix(victim)
        mux.bind(client.address, victim)
        mux.bind(other.address, remover)
        client.send(RTP)
        other.send(DTLS)
        client.send(RTP)
        if control_path == "pair":  # which socket is read first is left to chance
            await remover.wait_for(1)
        client.send(stun_request("victim"), stun_response(mux.transaction_prefix(remover) + bytes(8)))
        await remover.wait_for(2)
        assert victim.batches == 0
        assert len(victim.got) == 1
        assert (mux.counters["unbound_tuple"], mux.counters["unknown_ufrag"]) == (1, 1)
        mux.remove(victim)  # again: nothing happens


async def test_an_address_belongs_to_the_route_bound_last(batched: bool) -> None:
    async with UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux, client_of(mux) as client:
        first, second = RecordingRoute(), RecordingRoute()
        mux.bind(client.address, first)
        mux.bind(client.address, second)
        mux.remove(first)
        client.send(DTLS)
        await second.wait_for(1)
        mux.unbind(second)
        mux.register("second", second)
        client.send(DTLS, stun_request("second"))
        await second.wait_for(2)
        assert mux.counters["unbound_tuple"] == 1
        assert first.got == []


async def test_a_route_keeps_its_sixteen_latest_addresses() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux, client_of(mux) as client:
        route = RecordingRoute()
        mux.bind(client.address, route)
        for port in range(1, MAX_TUPLES):
            mux.bind(("192.0.2.1", port), route)
        mux.bind(client.address, route)  # again: the latest now
        mux.bind(("192.0.2.2", 1), route)
        client.send(DTLS)
        await route.wait_for(1)
        for port in range(1, MAX_TUPLES):
            mux.bind(("192.0.2.3", port), route)
        mux.bind(("192.0.2.3", 999), route)
        mux.register("ours", route)
        client.send(DTLS, stun_request("ours"))
        await route.wait_for(2)
        assert mux.counters["unbound_tuple"] == 1


async def test_a_ufrag_has_one_owner() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        route: Route = RecordingRoute()
        mux.register("ours", route)
        mux.register("ours", route)
        with pytest.raises(UsageError):
            mux.register("ours", RecordingRoute())
        mux.unregister("ours")
        mux.unregister("ours")
        mux.register("ours", RecordingRoute())


async def test_tables_are_empty_when_every_route_is_gone() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        routes = [RecordingRoute() for _ in range(20)]
        for index, route in enumerate(routes):
            mux.register(f"ufrag{index}", route)
            mux.transaction_prefix(route)
            for port in range(1, 30):
                mux.bind(("192.0.2.1", index * 100 + port), route)
            mux.release_prefix(route)
        for route in routes:
            mux.remove(route)
            mux.unbind(route)
            mux.release_prefix(route)
        tables = (mux._routes, mux._by_ufrag, mux._by_prefix, mux._by_tuple)
        assert [len(table) for table in tables] == [0, 0, 0, 0]


async def test_peers_are_told_the_advertised_address() -> None:
    async with UdpMux.open(["127.0.0.1"], 0, advertised=[("203.0.113.5", 0)]) as mux:
        [(host, port)] = mux.local_addresses
        assert host == "203.0.113.5"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            route = RecordingRoute()
            mux.register("ours", route)
            client.sendto(stun_request("ours"), ("127.0.0.1", port))
            await route.wait_for(1)
            assert route.locals == {("203.0.113.5", port)}, "as ICE knows its candidate"
        assert mux.host_candidates([("198.51.100.1", 7)])[0].address == ("198.51.100.1", 7)


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        with pytest.raises(OSError, match="in use"):
            async with UdpMux.open(["::1", "127.0.0.1"], mux.local_addresses[0][1]):
                pass


async def test_noise_reaches_nobody_it_should_not_and_stops_nothing(batched: bool) -> None:
    async with (
        UdpMux.open(["127.0.0.1"], 0, batched=batched) as mux,
        client_of(mux) as client,
        client_of(mux) as stranger,
    ):
        route = RecordingRoute()
        mux.register("ours", route)
        mux.bind(client.address, route)
        rng = Random(11)
        for _ in range(20):
            for _ in range(30):
                noise = rng.randbytes(rng.randrange(60))
                # Half of it looks like STUN, as that is what is parsed before anybody is known.
                looks = b"\x00\x01" + noise[:2] + COOKIE_BYTES + noise
                stranger.send(noise, looks)
                client.send(noise, looks)
            await trio.lowlevel.checkpoint()
        client.send(DTLS + b"the end")
        with trio.fail_after(LIMIT):
            while ("dtls", DTLS + b"the end") not in route.got:
                await route.next_end()
        assert all(kind != "stun" for kind, _ in route.got)
        assert "route_failed" not in mux.counters
        assert mux.egress.queued == 0


async def never(_sock: object) -> None:
    await trio.sleep_forever()


async def test_a_full_socket_is_tried_again_for_a_while_and_then_given_up(autojump_clock: MockClock) -> None:
    with SmallSocket(1) as sock:
        sock.bind(("127.0.0.1", 0))
        mux = UdpMux([sock], batched=False, wait_readable=never)
        async with mux.served():
            destination = mux.egress.destination(("127.0.0.1", 9))
            for data in (b"first", b"second", b"third"):
                mux.egress.send(data, destination)
            await trio.sleep(FULL_PAUSE * 3)
            assert (sock.taken, mux.egress.held_back) == ([b"first"], 2)
            sock.room = 2
            await trio.sleep(FULL_PAUSE * 2)
            assert (sock.taken, mux.egress.held_back) == ([b"first", b"second"], 1)
            await trio.sleep(FULL_PAUSE * (FULL_TRIES - 10))
            assert mux.egress.held_back == 1
            await trio.sleep(FULL_PAUSE * 10)
            assert (mux.egress.held_back, mux.counters["send_full"]) == (0, 1)


class SlowRoute(RecordingRoute):
    """Takes a millisecond for each packet."""

    def __init__(self, clock: MockClock, order: list[str]) -> None:
        super().__init__()
        self.clock, self.order = clock, order

    def receive_rtp(self, arena: memoryview, pointer: object, length: int, now: float, following: int = 0) -> int:
        self.clock.jump(0.001)
        return super().receive_rtp(arena, pointer, length, now, following)

    def end_of_batch(self, now: float) -> None:
        self.order.append("batch")
        super().end_of_batch(now)


async def test_who_has_much_to_do_lets_others_have_their_turn_between_batches_and_makes_these_smaller(
    mock_clock: MockClock,
) -> None:
    order: list[str] = []

    async def other() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            order.append("other")

    async with UdpMux.open(["127.0.0.1"], 0) as mux, trio.open_nursery() as nursery:
        route = SlowRoute(mock_clock, order)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            mux.bind(peer.getsockname(), route)
            for number in range(4 * BATCH):
                peer.sendto(b"\x80\x60" + number.to_bytes(2, "big") + bytes(8), mux.local_addresses[0])
            nursery.start_soon(other)
            while len(route.got) < 4 * BATCH:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    # Who comes first in a turn of the loop is left to chance, so two of one kind may stand together, and never three.
    assert "batch batch batch" not in " ".join(order)
    assert order.count("batch") > 10


async def test_a_mux_tells_which_path_packets_take_here(control_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logged once, when a server starts. Red means: one of them is not to be had here."""
    control = "apart" if control_path == "pair" else "with media"
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        assert mux.path() == {
            "calls": "recvmmsg, sendmmsg",
            "control": control,
            "runs": "in and out",
            "kernel": "compiled" if installed() else "python",
            "srtp": "compiled" if installed() else "libsrtp",
        }
    monkeypatch.setattr("triosfu.net.egress.installed", lambda: None)
    monkeypatch.setattr("triosfu.net.udp.compiled_gcm", lambda: None)
    async with UdpMux.open(["127.0.0.1"], 0, batched=False) as mux:
        assert mux.path() == {
            "calls": "one for each datagram",
            "control": control,
            "runs": "none",
            "kernel": "python",
            "srtp": "libsrtp",
        }


@pytest.mark.parametrize(
    ("most", "calls", "runs"),
    [("single", "one for each datagram", "none"), ("batches", "recvmmsg, sendmmsg", "none"), ("", "recvmmsg", "in")],
)
async def test_the_operator_keeps_out_what_is_not_to_be_used(
    most: str, calls: str, runs: str, control_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not batching_available():
        pytest.skip("there is nothing to keep out")
    monkeypatch.setenv("TRIOSFU_DATAGRAMS", most)
    async with UdpMux.open(["127.0.0.1"], 0) as mux:
        path = mux.path()
    assert path["calls"].startswith(calls)
    assert path["runs"].startswith(runs) or not most
    assert (path["control"] == "apart") == (control_path == "pair" and most != "single")


async def test_a_way_that_does_not_exist_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSFU_DATAGRAMS", "fast")
    with pytest.raises(ConfigError, match=r"^TRIOSFU_DATAGRAMS: 'fast' is none of single, batches, runs$"):
        async with UdpMux.open(["127.0.0.1"], 0):
            raise AssertionError("it is open")

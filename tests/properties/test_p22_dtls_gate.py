"""P22: DTLS of an address that ICE has not validated reaches no TLS library, and nothing at all is answered there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.endings import NARROW
from tests.support.side import certificate
from tests.support.virtual import PORT, VirtualSocket, joined, virtual_time
from tests.support.ways import seeds, some
from triosfu.dtls.core import DtlsConnection, Role
from triosfu.peer.transport import Transport
from triosfu.stun.wire import Attribute, Kind, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.side import Side
    from tests.support.virtual import Joined
    from triosfu.net.address import Address

STRANGER: Address = ("203.0.113.66", PORT)


def client_hello(_both: Joined, _side: Side) -> bytes:
    """As a client would begin that is first to reach the port."""
    handshake = DtlsConnection(
        certificate=certificate(), role=Role.CLIENT, remote_fingerprints=(), now=trio.current_time(), data_only=True
    )
    handshake.start(trio.current_time())
    return handshake.datagrams_to_send()[0]


def plaintext_alert(_both: Joined, _side: Side) -> bytes:
    return bytes.fromhex("15fefd000000000000000000020228")


def garbage(both: Joined, _side: Side) -> bytes:
    rng = both.network.rng
    return bytes([rng.randrange(20, 64)]) + rng.randbytes(rng.randrange(1, 1200))


def unsigned_check(_both: Joined, side: Side) -> bytes:
    """The ufrag is no secret: it is in every request on the path."""
    return _check(side, None)


def wrongly_signed_check(_both: Joined, side: Side) -> bytes:
    return _check(side, b"not the password")


def check_for_nobody(_both: Joined, _side: Side) -> bytes:
    username = (Attribute.USERNAME, b"nobody:stranger")
    return Message(Kind.REQUEST, os.urandom(12), (username,)).serialize(key=b"anything")


def forged_answer(_both: Joined, side: Side) -> bytes:
    prefix = side.mux.transaction_prefix(side.peer._transport)
    return Message(Kind.SUCCESS, prefix + os.urandom(8), ()).serialize(key=b"anything")


def media(_both: Joined, _side: Side) -> bytes:
    return bytes([0x80, 111]) + os.urandom(60)


def _check(side: Side, key: bytes | None) -> bytes:
    username = (Attribute.USERNAME, f"{side.peer._transport.ice.local.ufrag}:stranger".encode())
    attributes = (username, (Attribute.PRIORITY, (1 << 30).to_bytes(4, "big")), (Attribute.USE_CANDIDATE, b""))
    return Message(Kind.REQUEST, os.urandom(12), attributes).serialize(key=key)


ATTACKS: tuple[Callable[[Joined, Side], bytes], ...] = (
    client_hello,
    plaintext_alert,
    garbage,
    unsigned_check,
    wrongly_signed_check,
    check_for_nobody,
    forged_answer,
    media,
)


class Heard:
    """Every datagram that a DTLS core was given, and every address that one came from, while patched in."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.datagrams: list[bytes] = []
        self.sources: set[Address] = set()
        receive, route = DtlsConnection.receive_datagram, Transport.receive_dtls

        def receive_datagram(core: DtlsConnection, data: bytes, now: float) -> None:
            self.datagrams.append(data)
            receive(core, data, now)

        def receive_dtls(transport: Transport, data: bytes, source: Address, now: float) -> None:
            self.sources.add(source)
            route(transport, data, source, now)

        patch.setattr(DtlsConnection, "receive_datagram", receive_datagram)
        patch.setattr(Transport, "receive_dtls", receive_dtls)


@some(4)
@given(
    seed=seeds,
    attacks=st.lists(
        st.tuples(st.sampled_from(ATTACKS), st.integers(0, 1), st.sampled_from([0.0, 0.005, 0.03, 0.2, 6.0])),
        min_size=1,
        max_size=20,
    ),
    copied=st.lists(st.floats(0.0, 0.3), max_size=3),
    negotiated=st.integers(0, 20),
)
@virtual_time
async def test_p22_a_stranger_is_not_heard_and_gets_no_answer(
    *,
    seed: int,
    attacks: list[tuple[Callable[[Joined, Side], bytes], int, float]],
    copied: list[float],
    negotiated: int,
) -> None:
    """Before ICE, during its checks and in the handshake, and on a connection that works.

    `negotiated` attacks go before the descriptions. At the `copied` moments the stranger sends again, from its own
    address, all the DTLS that it has seen on the path so far.
    """
    with pytest.MonkeyPatch.context() as patch:
        async with joined(seed=seed, settings=NARROW) as both, trio.open_nursery() as nursery:
            heard = Heard(patch)
            network = both.network
            ears = network.sockets[STRANGER] = VirtualSocket(network, STRANGER)
            seen: list[tuple[Address, bytes]] = []
            sent: set[bytes] = set()
            post = network.post

            def overhear(source: Address, destination: Address, data: bytes, *, whole: bool = False) -> None:
                assert destination != STRANGER, f"an answer to the stranger: {data[:20].hex()}"
                if source != STRANGER and 20 <= data[0] < 64:
                    seen.append((destination, data))
                post(source, destination, data, whole=whole)

            def shout(data: bytes, to: Address) -> None:
                sent.add(data)
                post(STRANGER, to, data)

            async def replay(after: float) -> None:
                await trio.sleep(after)
                for to, data in seen:
                    post(STRANGER, to, data)

            patch.setattr(network, "post", overhear)
            for number, (attack, index, pause) in enumerate(attacks):
                if number == negotiated:
                    both.offerer.peer.negotiation.enable_data()
                    both.negotiate()
                    for moment in copied:
                        nursery.start_soon(replay, moment)
                side = both.sides[index]
                shout(attack(both, side), side.mux.local_addresses[0])
                await trio.sleep(pause)
                assert not sent.intersection(heard.datagrams), "the stranger's bytes are in the TLS library"
                assert STRANGER not in heard.sources
                assert not ears._arriving
            if negotiated < len(attacks):
                await both.offerer.connected()
                await both.answerer.connected()
            for side in both.sides:
                assert not any(STRANGER[0] in str(address) for address in side.peer._transport._destinations)
            del network.sockets[STRANGER]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("again", [1, 200])
@virtual_time
async def test_p22_a_stranger_does_not_stop_the_handshake(attack: Callable[[Joined, Side], bytes], again: int) -> None:
    """However often it asks, the two find each other as if it were not there."""
    async with joined(settings=NARROW) as both:
        both.network.sockets[STRANGER] = VirtualSocket(both.network, STRANGER)
        both.offerer.peer.negotiation.enable_data()
        both.negotiate()
        for _ in range(again):
            for side in both.sides:
                both.network.post(STRANGER, side.mux.local_addresses[0], attack(both, side))
        for side in both.sides:
            await side.connected()
        assert not both.network.sockets[STRANGER]._arriving
        del both.network.sockets[STRANGER]
